"""On-demand features: computed at the moment of a prediction, of the request and of what is known of it in views."""

from collections.abc import Mapping

import polars as pl

from mlops_ray.errors import UseCaseError
from mlops_ray.features.columns import RESERVED
from mlops_ray.use_case.user_code import user_code


def with_on_demand(frame: pl.DataFrame, expressions: Mapping[str, pl.Expr]) -> pl.DataFrame:
    """Rows with a column for each expression, over the columns that are there; texts stay, all else is a Float64.

    frame: entities and event time as they are, features as a model has them: texts, or Float64 with null for missing.
    Raises UseCaseError naming the expression that names a column which is not there, or gives what no model takes.
    """
    known, columns = [name for name in frame.columns if name not in RESERVED], []
    for name, expression in expressions.items():
        if unknown := [root for root in expression.meta.root_names() if root not in known]:
            raise UseCaseError(
                f"On-demand feature {name!r} uses {unknown[0]!r}, which is no entity, event time or feature (there are "
                f"{', '.join(known)})."
            )
        with user_code(f"On-demand feature {name!r}"):
            column = frame.select(expression.alias(name)).to_series()
        if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.String)):
            raise UseCaseError(
                f"On-demand feature {name!r} is of type {column.dtype}, and a model takes numbers, booleans and texts. "
                f"Make a number of it, such as .dt.total_seconds() of a duration."
            )
        columns.append(column if column.dtype == pl.String else column.cast(pl.Float64).fill_nan(None))
    return frame.with_columns(columns)
