"""Moved paths: what is stored with the absolute path or URL of an artifact is given its new one.

That is MLflow (where runs and versions have their files, and what they were trained on), Feast's registry and online
store (which files a view's rows come from), and the results of steps (`step_records`). What is named by a digest, and
events, which are hashed, name no places that anybody reads.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from mlops_ray.artifacts import join
from mlops_ray.config import without_final_slash
from mlops_ray.operations.backup.databases import connected, kind_of
from mlops_ray.state_folder import sqlite_path

# By setting the columns that name artifacts; of tables that a release of MLflow or Feast lacks none is looked at.
_COLUMNS = {
    "mlflow_uri": (
        ("experiments", "artifact_location"),
        ("runs", "artifact_uri"),
        ("model_versions", "source"),
        ("model_versions", "storage_location"),
        ("logged_models", "artifact_location"),
        ("datasets", "dataset_source"),
    ),
    "online_store": (("mlops_ray_online", "rows"),),
}
_MESSAGES = "_proto"


@dataclass(frozen=True)
class Move:
    """From one artifact root to another, each as a setting has it or had it: with or without a slash at its end."""

    old: str
    new: str

    @property
    def is_none(self) -> bool:
        return without_final_slash(self.old) == without_final_slash(self.new)

    @property
    def _folder(self) -> bytes:
        return f"{without_final_slash(self.old).partition('?')[0]}/".encode()

    def text(self, text: str) -> str:
        """A path below the old root, below the new one; in JSON each, and any other text as it is."""
        root = without_final_slash(self.old)
        old, _, options = root.partition("?")  # of an object store, which its URLs end with
        if options and text.startswith(f"{root}/"):  # so MLflow's folder was named
            return join(self.new, *text[len(root) + 1 :].split("/"))
        path = text.partition("?")[0] if "://" in old else text
        if path.rstrip("/") == old:
            return self.new
        if path.startswith(f"{old}/"):
            parts = path[len(old) :].lstrip("/").split("/")
            return join(self.new, *(map(unquote, parts) if "://" in old else parts))
        if text.startswith("{") and any(f'"{one}/' in text for one in (old, json.dumps(old)[1:-1])):
            return json.dumps(self.value(json.loads(text)))
        return text

    def value(self, value: Any) -> Any:
        """The same of all texts in a JSON value."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(one) for one in value]
        return {name: self.value(one) for name, one in value.items()} if isinstance(value, dict) else value

    def message(self, content: bytes) -> bytes:
        """The same of all texts in a protobuf message, whatever its type: of the fields that have a length
        (protobuf.dev/programming-guides/encoding) those that hold the path are messages or the path itself, and each
        is written with its new length."""
        if self._folder not in content:
            return content
        moved = bytearray()
        try:
            for start, begin, end, tag in _fields(content):
                if tag & 7 != 2:
                    moved += content[start:end]
                    continue
                part = self._field(content[begin:end])
                moved += _number(tag) + _number(len(part)) + part
        except (ValueError, IndexError):
            raise ValueError("it is no protobuf message") from None
        return bytes(moved)

    def _field(self, part: bytes) -> bytes:
        if self._folder not in part:
            return part
        if part.startswith(self._folder):
            return self.text(part.decode()).encode()
        try:
            return self.message(part)
        except ValueError:  # a text that mentions it, such as the code of a function
            return part


def move_database(name: str, url: str, move: Move) -> None:
    """Give what the database of a setting names its new place."""
    if move.is_none:
        return
    if kind_of(url) == "sqlite":
        with closing(sqlite3.connect(sqlite_path(url))) as file, file:
            tables = "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'"
            _move(name, move, lambda query, values=(): file.execute(query, values), tables, "?")
        return
    with connected(name, url) as server:
        tables = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()"
        _move(name, move, lambda query, values=(): server.execute(query.encode(), values), tables, "%s")


def _move(name: str, move: Move, execute: Callable[..., Any], tables: str, sign: str) -> None:
    there = {(str(table), str(column)) for table, column in execute(tables).fetchall()}
    messages = [one for one in there if one[1].endswith(_MESSAGES)] if name == "feast_registry" else []
    for table, column in sorted({*messages, *_COLUMNS.get(name, ())} & there):
        rows = execute(f'SELECT DISTINCT "{column}" FROM "{table}" WHERE "{column}" IS NOT NULL').fetchall()
        for (value,) in rows:
            moved = move.text(value) if isinstance(value, str) else move.message(bytes(value))
            if moved != value:
                execute(f'UPDATE "{table}" SET "{column}" = {sign} WHERE "{column}" = {sign}', (moved, value))


def _fields(content: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Of each field where it starts, where its content begins and ends, and its tag."""
    at = 0
    while at < len(content):
        start, (tag, at) = at, _varint(content, at)
        kind, size = tag & 7, 0
        if kind == 0:
            begin, (_, at) = at, _varint(content, at)
        elif kind in (1, 2, 5):
            size, at = _varint(content, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            begin, at = at, at + size
        else:
            raise ValueError(f"a field of kind {kind}")
        if at > len(content) or tag >> 3 == 0:
            raise ValueError("a field ends behind its message")
        yield start, begin, at, tag


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))
