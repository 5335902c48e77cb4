"""Rows of JSON lines: one object a line, its values as they are written; `user.age` is the age in its user."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
import polars as pl

from mlops_ray.ingestion.csv_rows import structure_of, text_encoding
from mlops_ray.ingestion.layout import Layout
from mlops_ray.ingestion.raw_rows import RawRows, places
from mlops_ray.ingestion.records import read_records
from mlops_ray.use_case import Column, Source


def read_json_lines(stream: Any, source: Source) -> Iterator[RawRows]:
    """The rows of a file of JSON lines: text as it is, numbers and the rest as their JSON text, absent values null.

    What is no object, has a key twice, half a surrogate pair, or NaN, which JSON does not have, is malformed.
    """
    encoding, head = text_encoding(stream, source.encoding)
    columns = {column.name: column for column in source.columns}
    for records in read_records(stream, structure_of(encoding, ",", None, cr_ends=False), head):
        values: dict[str, list[str | None]] = {name: [] for name in columns}
        bad, blank, more = records.bad.copy(), np.zeros(len(records), bool), set[str]()
        for position, line in enumerate(records.raw.to_pylist()):
            row = None if bad[position] else _row(line, encoding, columns, more)
            blank[position] = row is _BLANK
            bad[position] = row is None
            if row:
                for name, texts in values.items():
                    texts.append(row[name])
        frame = pl.DataFrame(values, schema=dict.fromkeys(columns, pl.String))
        rest, blanks = places(records[bad]), int(records.lines[blank].sum())
        there = places(records[~bad & ~blank])
        yield RawRows(frame, there, rest, blank_lines=blanks, more=frozenset(more), layout=Layout(encoding))


_BLANK: dict[str, str | None] = {}


class _Number(str):
    """A number as it is written; a column with a decimal comma reads it with one."""

    __slots__ = ()


def _row(line: bytes, encoding: str, columns: Mapping[str, Column], more: set[str]) -> dict[str, str | None] | None:
    """The named values of a line; None if it is malformed, `_BLANK` if nothing is on it. more: gets its other names."""
    try:
        text = line.decode(encoding)
        if not text.strip(" \t\r\n"):
            return _BLANK
        found = _DECODER.decode(text)
        if not isinstance(found, dict):
            return None
        row = {name: _text(found, column, text) for name, column in columns.items()}
        more.update(_others(found, columns, ""))
        if "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return None
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_Number, parse_int=_Number, parse_constant=_refuse_constant
)


def _text(row: dict[str, Any], column: Column, line: str) -> str | None:
    *path, key = _path_of(row, column.name)
    for part in path:
        row = row[part]
    value = row.get(key)
    if isinstance(value, _Number):
        return column.written(value)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    # An array or object stays as it was written.
    raw = msgspec.Raw(line.encode())
    for part in (*path, key):
        raw = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])[part]
    return bytes(raw).decode()


def _path_of(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The keys that lead to a value: its name, or as far as there are objects the parts between its dots.

    A key that has the dots itself comes first.
    """
    if name in row:
        return (name,)
    at = name.find(".")
    while at > 0:
        inner = row.get(name[:at])
        if isinstance(inner, dict):
            return name[:at], *_path_of(inner, name[at + 1 :])
        at = name.find(".", at + 1)
    return (name,)


def _others(row: Mapping[str, Any], columns: Mapping[str, Column], before: str) -> Iterator[str]:
    """The names that no column has; of an object of which a column is a part, those in it."""
    for key, value in row.items():
        name = before + key
        has_parts = any(other.startswith(f"{name}.") for other in columns)
        if has_parts and isinstance(value, dict):
            yield from _others(value, columns, f"{name}.")
        elif name not in columns and not (has_parts and value is None):
            yield name
