"""Rows of Parquet files and readers: typed columns, as far as they can be read; `user.age` is a field of a struct."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlops_ray.ingestion.csv_rows import can_be_decoded
from mlops_ray.ingestion.raw_rows import PLACE, RawRows, UnreadableError
from mlops_ray.use_case import Source

# Few calls for many rows, and of a table with 10,000 columns no more memory than of one with ten.
_ROWS, _CELLS = 262_144, 4_000_000
# Texts and numbers under another name.
_PLAIN_EXTENSIONS = ("arrow.json", "arrow.bool8", "arrow.uuid")


def read_parquet_rows(stream: Any, source: Source) -> Iterator[RawRows]:
    """The rows of a Parquet file: of its columns those that the contract names; an absent nullable one is null.

    A row of which a text is not UTF-8 is malformed. Raises UnreadableError naming a column that cannot be read, or
    whose type is not one of values.
    """
    file = pq.ParquetFile(stream, page_checksum_verification=True)  # where its writer wrote checksums
    paths = _paths(file.schema_arrow, source)
    tops = list(dict.fromkeys(path[0] for path in paths.values()))
    more = frozenset(file.schema_arrow.names) - frozenset(tops)
    row = 1
    try:
        for batch in file.iter_batches(max(1, min(_ROWS, _CELLS // max(1, len(tops)))), columns=tops):
            yield replace(_raw_rows(batch, paths, source, row), more=more)
            row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise UnreadableError(f"{_unreadable(file, tops)}: {error}") from None


def rows_of_batches(batches: Iterator[pa.RecordBatch], source: Source) -> Iterator[RawRows]:
    """The rows of a reader's batches, as those of a Parquet file. Raises UnreadableError as there."""
    row = 1
    for batch in batches:
        yield _raw_rows(batch, _paths(batch.schema, source), source, row)
        row += batch.num_rows


def _path_in(fields: pa.Schema | pa.StructType, name: str) -> tuple[str, ...]:
    """The names of the fields, each in the one before, that lead to a value; () where there is none.

    A field that has the dots of `name` itself comes first.
    """
    if name in fields.names:
        return (name,)
    at = name.find(".")
    while at > 0:
        if name[:at] in fields.names:
            outer = fields.field(name[:at]).type
            if pa.types.is_struct(outer) and (inner := _path_in(outer, name[at + 1 :])):
                return name[:at], *inner
        at = name.find(".", at + 1)
    return ()


def _paths(schema: pa.Schema, source: Source) -> dict[str, tuple[str, ...]]:
    """Of the columns of the contract that are there. Raises UnreadableError naming one that holds no values."""
    found = {column.name: path for column in source.columns if (path := _path_in(schema, column.name))}
    for top, *inner in found.values():
        field = schema.field(top)
        for name in inner:
            field = field.type.field(name)
        _expect_values(field)
    return found


def _raw_rows(batch: pa.RecordBatch, paths: Mapping[str, tuple[str, ...]], source: Source, row: int) -> RawRows:
    bad = np.zeros(batch.num_rows, bool)
    absent = [column.name for column in source.columns if column.nullable and column.name not in paths]
    columns = {name: _plain(_value_at(batch, path)) for name, path in paths.items()}
    for column in columns.values():
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            if not pa.types.is_large_string(column.type):
                raise
            bad |= _not_utf8(column)
    good = pa.array(~bad) if bad.any() else None
    whole = {name: column if good is None else column.filter(good) for name, column in columns.items()}
    frame = pl.DataFrame({name: _series(column, name) for name, column in whole.items()})
    frame = frame if paths else pl.DataFrame(height=batch.num_rows)
    frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in absent)
    raw = [
        row_as_json({name: _value(column, int(position)) for name, column in columns.items()})
        for position in np.flatnonzero(bad)
    ]
    lines = np.arange(row, row + batch.num_rows)
    return RawRows(frame, _places(lines[~bad], None), _places(lines[bad], raw))


def _value_at(batch: pa.RecordBatch, path: tuple[str, ...]) -> pa.Array:
    top, *inner = path
    column = batch.column(top)
    return pc.struct_field(column, inner) if inner else column


def _plain(column: pa.Array) -> pa.Array:
    """The values without how they are stored."""
    if isinstance(column.type, pa.UuidType):
        return _uuid_texts(column.storage)
    column = column.storage if isinstance(column, pa.ExtensionArray) else column
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    is_text = pa.types.is_string(column.type) or pa.types.is_string_view(column.type)
    # Through bytes, as a cast from text to text checks its encoding.
    return column.cast(pa.large_binary()).view(pa.large_string()) if is_text else column


def _uuid_texts(column: pa.Array) -> pa.Array:
    digits = pl.DataFrame({"digits": pl.from_arrow(column.cast(pa.large_binary()))})
    text = pl.col("digits").bin.encode("hex").str.replace("^(.{8})(.{4})(.{4})(.{4})", "$1-$2-$3-$4-")
    return digits.select(text).to_arrow()["digits"].combine_chunks().cast(pa.large_string())


def _not_utf8(column: pa.Array) -> np.ndarray:
    values = column.view(pa.large_binary()).to_pylist()
    return np.array([value is not None and not can_be_decoded(value, "utf-8") for value in values])


def _value(column: pa.Array, position: int) -> Any:
    if not pa.types.is_large_string(column.type):
        return column[position].as_py()
    text = column.view(pa.large_binary())[position].as_py()
    return None if text is None else text.decode("utf-8", "backslashreplace")


def _expect_values(field: pa.Field) -> None:
    """Extension types hold what only their program can read, whether or not it has made them known in this process."""
    is_extension = isinstance(field.type, pa.BaseExtensionType)
    named = field.type.extension_name if is_extension else (field.metadata or {}).get(b"ARROW:extension:name", b"")
    name = named if isinstance(named, str) else named.decode()
    if name and name not in _PLAIN_EXTENSIONS:
        raise UnreadableError(
            f"its column {field.name} has the extension type {name}, of which the values cannot be read. "
            f"Write the column as text, numbers or time stamps"
        )
    if pa.types.is_decimal256(field.type):  # polars panics
        raise UnreadableError(f"its column {field.name} has the type {field.type}, of more than 38 digits")


def _series(column: pa.Array, name: str) -> pl.Series:
    try:
        return pl.Series(pl.from_arrow(column))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, TypeError, ValueError, NotImplementedError):
        raise UnreadableError(f"its column {name} has the type {column.type}, which cannot be read") from None


def _unreadable(file: pq.ParquetFile, names: list[str]) -> str:
    """Which column it is that cannot be read, if it is one."""
    for name in names:
        try:
            for _ in file.iter_batches(columns=[name]):
                pass
        except (pa.ArrowException, OSError):
            return f"its column {name} is damaged"
    return "it is damaged"


def _places(rows: np.ndarray, raw: list[bytes] | None) -> pl.DataFrame:
    return pl.DataFrame({"line": rows, "lines": np.zeros(len(rows), int), "raw": raw}, schema=PLACE)


def row_as_json(row: dict[str, Any]) -> bytes:
    """A row of a Parquet file as quarantine keeps it; what JSON does not have is written as Python does."""
    return json.dumps(row, default=str, ensure_ascii=False).encode("utf-8", "backslashreplace")
