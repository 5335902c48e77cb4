"""Rows of a view as they are kept: of the types of its definition, known, in one order, each day with its digest."""

import hashlib
import sys
from collections.abc import Callable, MutableMapping
from contextlib import redirect_stdout
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl

from mlops_ray.artifacts import ContentDigest, digest_json
from mlops_ray.errors import UseCaseError
from mlops_ray.features.columns import DTYPES, PREDICTION_TIME
from mlops_ray.features.definitions import View
from mlops_ray.use_case import Tables
from mlops_ray.use_case.user_code import user_code

MOMENT = pl.Datetime("us", "UTC")
DAY = timedelta(days=1)


def rows_of(
    view: View, function: Callable[[Tables], pl.DataFrame], tables: MutableMapping[str, pl.DataFrame]
) -> tuple[pl.DataFrame, int]:
    """What a view's function makes of tables that are its own, and how many rows of it had no moment.

    Raises UseCaseError where the function fails, or its rows are not those of the definition.
    """
    # What it prints is not the output of a command that runs it.
    with user_code(f"Feature view {view.name!r}"), redirect_stdout(sys.stderr):
        frame = function(tables)
        frame = frame if isinstance(frame, pl.DataFrame) else pl.DataFrame(frame)
    known = known_rows(frame, view.name)
    return typed_rows(known, view), frame.height - known.height


def known_rows(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """The rows whose moment is known, in UTC, and with null for NaN."""
    given = frame.schema.get(PREDICTION_TIME)
    if not isinstance(given, pl.Datetime) or given.time_zone is None:
        raise UseCaseError(
            f"Feature view {name!r}: its rows have {f'{PREDICTION_TIME} of type {given}' if given else 'no column'} "
            f"instead of a moment with a time zone, {PREDICTION_TIME}, at which they became known. "
            f"Take a timestamp column, or add .dt.replace_time_zone('UTC')."
        )
    known = frame.drop_nulls(PREDICTION_TIME).with_columns(pl.col(PREDICTION_TIME).cast(MOMENT))
    return known.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))


def typed_rows(rows: pl.DataFrame, view: View) -> pl.DataFrame:
    """Rows whose columns have the types of the definition. Raises UseCaseError naming view and column where not."""
    what = f"Feature view {view.name!r}"
    wanted = {view.columns.get(name, name): DTYPES[type_] for name, type_ in view.types.items()}
    for column, dtype in wanted.items():
        given = rows.schema.get(column)
        if given is None:
            raise UseCaseError(f"{what}: its rows have no column {column!r} (they have {', '.join(rows.columns)}).")
        if given != dtype and not isinstance(given, pl.Null):
            raise UseCaseError(
                f"{what}: column {column!r} is {given} in its rows and {dtype} in its definition. Add "
                f".cast(pl.{dtype}) in the view's function, or define it as {_feast_type(given)}."
            )
    for key in view.keys:
        column = view.columns.get(key, key)
        if nulls := rows[column].null_count():
            raise UseCaseError(
                f"{what}: key {column!r} is null in {nulls:,} of {rows.height:,} rows, which nobody could look up. "
                f"Leave them out in the view's function: .drop_nulls({column!r})."
            )
    if view.created:
        _expect_created(what, rows, view.created)
        rows = rows.with_columns(pl.col(view.created).cast(MOMENT))
    kept = [PREDICTION_TIME, *([view.created] if view.created else [])]
    return rows.select(*kept, *(pl.col(name).cast(dtype) for name, dtype in wanted.items()))


def schema_of(view: View) -> pl.Schema:
    """The columns of a view's rows, as `typed_rows` has them."""
    moments = [PREDICTION_TIME, *([view.created] if view.created else [])]
    columns = {view.columns.get(name, name): DTYPES[type_] for name, type_ in view.types.items()}
    return pl.Schema({**dict.fromkeys(moments, MOMENT), **columns})


def in_order(view: View, rows: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """The rows in an order that depends on nothing but them, so that of two with the same keys and moments the same one
    is the last; and how many share these with another but not its values."""
    keys = [view.columns.get(key, key) for key in view.keys]
    moments = [PREDICTION_TIME, *([view.created] if view.created else [])]
    rows = rows.sort([*moments, *keys, *rows.select(pl.exclude(*moments, *keys)).columns])
    same = rows.select(pl.col(*moments, *keys).eq_missing(pl.col(*moments, *keys).shift()))
    ambiguous = 0
    if rows[1:].height and same[1:].select(pl.all_horizontal(pl.all()).any()).item():
        ambiguous = rows.n_unique() - rows.n_unique([*moments, *keys])
    return rows, ambiguous


def digest_by_day(rows: pl.DataFrame) -> ContentDigest:
    """Of rows `in_order`: the sum over their days, so that whatever days a table's parts have, they add up to one."""
    return sum(digests_of_days(rows).values(), ContentDigest())


def digests_of_days(rows: pl.DataFrame) -> dict[date, ContentDigest]:
    """Of rows `in_order`, for each day that has some, the SHA-256 of its columns by name: which values are null, the
    values or the lengths of texts, texts."""
    schema = digest_json([[name, str(type_)] for name, type_ in sorted(rows.schema.items())]).encode()
    columns = [_bytes_of(rows[name]) for name in sorted(rows.columns)]
    days = rows.select(pl.col(PREDICTION_TIME).dt.date().rle()).to_series().struct.unnest()
    found, first = dict[date, ContentDigest](), 0
    for day, end in zip(days["value"], days["len"].cum_sum(), strict=True):
        digest = hashlib.sha256(schema)
        for nulls, values, texts, ends in columns:
            digest.update(nulls[first:end])
            digest.update(values[first:end])
            digest.update(texts[ends[first] : ends[end]])
        found[day] = ContentDigest(int.from_bytes(digest.digest()), end - first)
        first = end
    return found


def _bytes_of(column: pl.Series) -> tuple[Any, Any, memoryview, Any]:
    """Which values are null; the values, of texts their lengths; the texts one after another, and where each begins."""
    nulls = column.is_null().to_numpy().view(np.uint8)
    if column.dtype != pl.String:
        values = column.fill_null(False) if column.dtype == pl.Boolean else column.to_physical().fill_null(0)
        return nulls, np.ascontiguousarray(values.to_numpy()), memoryview(b""), np.zeros(column.len() + 1, np.int64)
    texts = column.fill_null("").to_frame().rechunk().to_series()
    array = texts.to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, content = array.buffers()
    ends = np.frombuffer(offsets, np.int64)[array.offset :][: len(array) + 1]
    return nulls, np.diff(ends), memoryview(content or b""), ends


def table_digest(content: ContentDigest, schema: pl.Schema) -> str:
    """What a view's rows are named by."""
    return digest_json([content.hex(), [[name, str(type_)] for name, type_ in schema.items()]])


def _feast_type(given: pl.DataType) -> str:
    fitting = [name for name, dtype in DTYPES.items() if dtype == given]
    return fitting[0] if fitting else f"one of {', '.join(DTYPES)}"


def _expect_created(what: str, rows: pl.DataFrame, column: str) -> None:
    given = rows.schema.get(column)
    if not isinstance(given, pl.Datetime) or given.time_zone is None or rows[column].null_count():
        raise UseCaseError(
            f"{what}: created_timestamp_column {column!r} is {given or 'not there'}, with "
            f"{rows[column].null_count() if given else 0} nulls. It must be a moment with a time zone in every row."
        )
