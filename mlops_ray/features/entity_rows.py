"""Entity rows as Feast's users give them (pandas, polars, Arrow, SQL, none), with exact keys and moments in UTC."""

import importlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from mlops_ray.errors import DataError
from mlops_ray.features.feast import FileSource, infer_event_timestamp_from_entity_df
from mlops_ray.features.history_source import HistorySource, after
from mlops_ray.features.retrieval import url_of
from mlops_ray.features.spans import MOMENT, as_moment

_EXACT_FLOAT = 2**53  # beyond it a float stands for several integers


def entity_rows(given: Any) -> tuple[pl.DataFrame, str]:
    """The rows and the name of the column with their moments, by Feast's rule; those without a zone are UTC.

    Raises DataError where a column has values of several types, or the moments are none.
    """
    try:
        if isinstance(given, pd.DataFrame):
            moment = infer_event_timestamp_from_entity_df(dict(given.dtypes))
            frame = _from_pandas(given.assign(**{moment: pd.to_datetime(given[moment], utc=True)}))
        else:
            frame = given if isinstance(given, pl.DataFrame) else pl.DataFrame(pl.from_arrow(given))
            temporal = {name: type_.is_temporal() for name, type_ in frame.schema.items()}
            types = {name: np.dtype("datetime64[us]" if is_time else "O") for name, is_time in temporal.items()}
            moment = infer_event_timestamp_from_entity_df(types)
        return frame.with_columns(as_moment(frame.schema, moment)), moment
    except (ValueError, TypeError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"Entity rows hold what is no moment where their moments should be ({error}). Write moments such as "
            f"2013-05-01T12:00:00Z."
        ) from None


def rows_of_query(query: str, sources: Iterable[Any], repo_path: Any) -> pl.DataFrame:
    """What an SQL query gives, in which local file sources are tables by their names. Raises DataError if it fails."""
    duckdb: Any = importlib.import_module("duckdb")
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for source in sources:
            path = url_of(source, repo_path) if isinstance(source, FileSource) else "://"
            if source.name and "://" not in path:
                files = f"{path}/**/*.parquet" if Path(path).is_dir() else path
                name, place = source.name.replace('"', '""'), files.replace("'", "''")
                try:
                    connection.execute(f"CREATE VIEW \"{name}\" AS SELECT * FROM read_parquet('{place}')")
                except duckdb.Error:  # what the query does not read need not be there
                    continue
        try:
            return pl.DataFrame(connection.sql(query).pl())
        except duckdb.Error as error:
            raise DataError(f"The query for entity rows fails: {error}") from None


def rows_of_range(sources: Sequence[HistorySource], start: datetime, end: datetime) -> tuple[pl.DataFrame, str]:
    """Every key that has a row from start to end, both included, as of the end: as Feast's file store has it.

    Raises DataError where views have different keys, of which nobody knows what belongs together.
    """
    keys = sources[0].keys
    if other := [source.view for source in sources if set(source.keys) != set(keys)]:
        raise DataError(
            f"Feature views {sources[0].view!r} and {other[0]!r} have different entities, so a range of time does not "
            f"say which rows are wanted. Give entity rows."
        )
    found = [
        source.to_join(start, after(end)).rows.select(pl.col(key).alias(column) for column, key in source.keys.items())
        for source in sources
    ]
    rows = pl.concat(one.select(list(keys)) for one in found).drop_nulls().unique(maintain_order=True)
    rows = rows if keys else pl.DataFrame({"__one": [0]})
    return rows.with_columns(pl.lit(end, MOMENT).alias("event_timestamp")).drop(
        "__one", strict=False
    ), "event_timestamp"


def with_exact_keys(entities: pl.DataFrame, source: HistorySource) -> pl.DataFrame:
    """The entity rows with keys of the types that the view's rows have; whole numbers as Int64.

    pandas has no way but floats to leave out integers of NumPy's types. Raises DataError for a key that is missing, for
    floats that are no whole numbers or beyond 2^53, where a float stands for several, and for keys of another kind.
    """
    for column, wanted in source.key_types().items():
        if column not in entities.columns:
            raise DataError(
                f"The entity rows have no column {column!r}, by which feature view {source.view!r} is looked up (they "
                f"have {', '.join(entities.columns)})."
            )
        given = entities[column]
        if given.dtype.is_integer() and wanted.is_integer():
            entities = entities.with_columns(pl.col(column).cast(pl.Int64))
        elif given.dtype.is_float() and wanted.is_integer():
            known = given.fill_nan(None).drop_nulls()
            if (known != known.floor()).any() or (known.abs() >= _EXACT_FLOAT).any():
                raise DataError(
                    f"Entity column {column!r} has floats that name no integer exactly, such as "
                    f"{known.abs().max()!s}. Give it the type Int64 of pandas, which leaves values out without floats."
                )
            entities = entities.with_columns(pl.col(column).fill_nan(None).cast(pl.Int64))
        elif isinstance(given.dtype, pl.Null):
            entities = entities.with_columns(pl.col(column).cast(pl.Int64 if wanted.is_integer() else wanted))
        elif given.dtype in (pl.Categorical, pl.Enum) and wanted == pl.String:
            entities = entities.with_columns(pl.col(column).cast(pl.String))
        elif given.dtype != wanted:
            raise DataError(f"Entity column {column!r} is {given.dtype}, and in the feature view's rows {wanted}.")
    return entities


def _from_pandas(given: pd.DataFrame) -> pl.DataFrame:
    """Column by column, so that the message names the one whose values have several types."""
    columns = []
    for name in given.columns:
        try:
            column: Any = pl.from_pandas(given[name])
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise DataError(
                f"Entity rows: column {name!r} has values of several types ({error}). Give each column one type."
            ) from None
        columns.append(pl.Series(str(name), column))
    return pl.DataFrame(columns)
