"""Data frames of users: pandas, polars or Arrow come in, and the same kind goes out. Inside all are polars'."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar, Union

import polars as pl
import pyarrow as pa

from mlops_ray.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

AnyFrame = Union[pl.DataFrame, pa.Table, "pd.DataFrame"]
FrameT = TypeVar("FrameT", bound=AnyFrame)


def to_polars(frame: AnyFrame) -> pl.DataFrame:
    """Raises DataError for what is no data frame, and for a column whose values have several types, or are objects."""
    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, pl.LazyFrame):
        raise DataError("A LazyFrame has no rows yet. Give frame.collect().")
    try:
        if isinstance(frame, pa.Table):
            found = pl.from_arrow(frame)
            assert isinstance(found, pl.DataFrame)
            return found
        if _is_pandas(frame):
            return pl.DataFrame(list(_columns_of(frame)))
    except pa.ArrowException as error:
        raise DataError(f"The rows cannot be read: {error}.") from None
    raise DataError(
        f"The rows are a {type(frame).__name__}. Give a data frame of pandas or polars, or a pyarrow.Table; a single "
        f"row is pandas.DataFrame([row])."
    )


def like(given: Any, found: pl.DataFrame) -> Any:
    """`found` as the kind that was given; pandas keeps its index where there are as many rows."""
    answer: Any = found
    if isinstance(given, pa.Table):
        answer = found.to_arrow()
    elif _is_pandas(given):
        answer = found.to_pandas()
        if len(answer) == len(given):
            answer.index = given.index
    return answer


def _is_pandas(frame: object) -> bool:
    """Told without importing pandas, which takes half a second."""
    return any(f"{one.__module__}.{one.__name__}" == "pandas.core.frame.DataFrame" for one in type(frame).__mro__) or (
        type(frame).__module__.partition(".")[0] == "pandas" and type(frame).__name__ == "DataFrame"
    )


def _columns_of(frame: Any) -> Iterator[pl.Series]:
    for name in frame.columns:
        try:
            column: Any = pl.from_pandas(frame[name])
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise DataError(f"Column {name} of the rows has no one type: {error}. Write it as texts.") from None
        if isinstance(column, pl.DataFrame):
            raise DataError(f"The rows have two columns named {name}. Rename one.")
        yield pl.Series(str(name), column)
