"""Writing to an online store that Feast keeps: in its bytes, and by a rule that it does not have.

Feast writes over whatever is there. Here each value says up to which moment it may replace another, and the store
itself compares (a condition of the statement, a script in Redis), so that of two writers at once none undoes what the
other knows better. `get_online_features` reads what is written here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import View
from mlops_ray.features.online.format import KeyFormat, contents_of

BATCH_ROWS = 2_000
WRITE_TIMEOUT_S = 30
NOTES = "mlops_ray_online"


@dataclass(frozen=True, slots=True)
class OnlineValues:
    """One row of a view as it is written. contents: serialized, in the order of the view's fields; `texts`: the same
    for who looks into the store. over_us: what is there is replaced unless it is of a later moment. Moments are in
    microseconds."""

    key: bytes
    contents: tuple[bytes, ...]
    texts: tuple[str | None, ...]
    known_us: int
    over_us: int
    created_us: int | None


@dataclass(frozen=True)
class Noted:
    """What a store remembers of a view. newest_us: the moment of the newest value that was ever written; 0 for none.
    as_of_us and rows: of the last materialization that ended; None before the first."""

    newest_us: int
    as_of_us: int | None = None
    rows: str | None = None


class Writer(Protocol):
    """Writes to one project. Threads may use it at the same time, each for a view."""

    def write(self, view: View, rows: Sequence[OnlineValues]) -> int:
        """Write rows of distinct keys; how many of them were written, as nothing newer was there."""
        ...

    def count(self, view: View, since_us: int) -> int:
        """How many keys have a value of `since_us` or later."""
        ...

    def notes(self) -> Mapping[str, Noted]:
        """What is noted of each view; nothing of one that nothing was written to."""
        ...

    def note(self, view: str, noted: Noted) -> None:
        """Remember it. `newest_us` only ever grows; what is None stays as it was."""
        ...


def online_values(view: View, rows: pl.DataFrame, over_us: Sequence[int] | None = None) -> Iterator[OnlineValues]:
    """Rows as they are written, in the order of their keys, so that two writers wait for one another in one order.

    rows: keys, `event_timestamp` and fields, named and typed as in the definition. over_us: of each row; default: its
    own moment.
    """
    form = KeyFormat(view)
    known = rows[PREDICTION_TIME].dt.timestamp("us").to_list()
    created = rows[view.created].dt.timestamp("us").to_list() if view.created else [None] * rows.height
    columns = [rows[name].to_list() for name in view.fields]
    contents = [contents_of(column, view.types[name]) for name, column in zip(view.fields, columns, strict=True)]
    texts = [[None if value is None else str(value) for value in column] for column in columns]
    found = zip(
        map(form.bytes_of, rows.select(view.keys).iter_rows()),
        zip(*contents, strict=True),
        zip(*texts, strict=True),
        known,
        over_us or known,
        created,
        strict=True,
    )
    return iter(sorted((OnlineValues(*row) for row in found), key=lambda row: row.key))


class SqlStatements:
    """The statements of one project for Feast's tables in SQLite and PostgreSQL, which differ in a sign or two."""

    def __init__(self, project: str, mark: str, greatest: str):
        """mark: for a value. greatest: the function that gives the greater of two numbers."""
        self._project, self._mark = project, mark
        of_view = f"ON CONFLICT (project, view) DO UPDATE SET newest_us = {greatest}"
        self.make_notes = (
            f"CREATE TABLE IF NOT EXISTS {NOTES} (project TEXT, view TEXT, newest_us BIGINT, as_of_us BIGINT, "
            f"rows TEXT, PRIMARY KEY (project, view))"
        )
        self.notes = f"SELECT view, newest_us, as_of_us, rows FROM {NOTES} WHERE project = {mark}"
        self.note = (
            f"INSERT INTO {NOTES} (project, view, newest_us, as_of_us, rows) VALUES ({', '.join([mark] * 5)}) "
            f"{of_view}({NOTES}.newest_us, excluded.newest_us), "
            f"as_of_us = COALESCE(excluded.as_of_us, {NOTES}.as_of_us), rows = COALESCE(excluded.rows, {NOTES}.rows)"
        )

    def table(self, view: View) -> str:
        return f'"{self._project}_{view.name}"'

    def write(self, view: View) -> str:
        """Of one feature; the last value that it takes is up to when what is there is replaced."""
        table, names = self.table(view), ("value", "value_text", "event_ts", "created_ts")
        changed = ", ".join(f"{name} = excluded.{name}" for name in names)
        return (
            f"INSERT INTO {table} (entity_key, feature_name, {', '.join(names)}) "
            f"VALUES ({', '.join([self._mark] * 6)}) ON CONFLICT (entity_key, feature_name) DO UPDATE SET {changed} "
            f"WHERE {table}.event_ts <= {self._mark}"
        )

    def count(self, view: View) -> str:
        return f"SELECT COUNT(*) FROM {self.table(view)} WHERE feature_name = {self._mark} AND event_ts >= {self._mark}"
