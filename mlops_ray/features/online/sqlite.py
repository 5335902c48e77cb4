"""Feast's online store in a SQLite file: all views of a question in one statement."""

import calendar
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlops_ray.errors import UnavailableError
from mlops_ray.features.definitions import View
from mlops_ray.features.online.lookup import READ_TIMEOUT_S, Found, Keys, Tables
from mlops_ray.features.online.write import NOTES, WRITE_TIMEOUT_S, Noted, OnlineValues, SqlStatements


class SqliteLookup:
    """See `Lookup`. Each thread has a connection of its own, unless `connect` gives all the same one."""

    waits = False

    def __init__(self, connect: Callable[[], sqlite3.Connection], project: str, views: Sequence[View]):
        self._connect, self._tables = connect, Tables(project, views)
        self._fields = [view.fields for view in views]
        self._local, self._open = threading.local(), list[sqlite3.Connection]()
        self._statement = lru_cache(maxsize=64)(self._statement_for)

    def read(self, keys: Keys) -> list[Any]:
        statement = self._statement(tuple(map(len, keys)))
        return self._connection().execute(statement, [key for of_view in keys for key in of_view]).fetchall()

    def found(self, rows: list[Any]) -> Found:
        return self._tables.found(rows, _microseconds)

    def is_away(self, error: Exception) -> bool:
        """SQLite says SQLITE_ERROR of a statement; of a file that is locked, or cannot be read, it says what."""
        if isinstance(error, sqlite3.OperationalError):
            return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) != sqlite3.SQLITE_ERROR
        return isinstance(error, OSError)

    def close(self) -> None:
        for connection in self._open:
            connection.close()
        self._open, self._local = [], threading.local()

    def _statement_for(self, counts: tuple[int, ...]) -> str:
        """The statement for so many keys of each view. `+ 0` keeps Feast's converters away from the column."""
        parts = []
        for view, count in enumerate(counts):
            condition = f"entity_key IN ({', '.join('?' * count)})"
            if len(self._tables.features[view]) < len(self._fields[view]):
                names = ", ".join(f"'{name}'" for name in self._tables.features[view])
                condition += f" AND feature_name IN ({names})"
            if count:
                parts.append(self._tables.select(view, "event_ts + 0", condition))
        return " UNION ALL ".join(parts)

    def _connection(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = self._local.connection = self._connect()
            self._open.append(found)
        return found


class SqliteWriter:
    """See `Writer`. A connection for each piece of work: threads and processes wait for one another, readers for none.

    Moments are whole seconds here, as Feast has them; see `online_store.as_kept`.
    """

    def __init__(self, path: str, project: str):
        self._path, self._project = path, project
        self._statements = SqlStatements(project, "?", "MAX")

    def write(self, view: View, rows: Sequence[OnlineValues]) -> int:
        values = [
            (row.key, name, content, text, *map(_seconds, (row.known_us, row.created_us, row.over_us)))
            for row in rows
            for name, content, text in zip(view.fields, row.contents, row.texts, strict=True)
        ]
        with self._connection() as connection:
            return connection.executemany(self._statements.write(view), values).rowcount // len(view.fields)

    def count(self, view: View, since_us: int) -> int:
        given = (view.fields[0], _seconds(since_us))
        with self._connection() as connection:
            return int(connection.execute(self._statements.count(view), given).fetchone()[0])

    def notes(self) -> Mapping[str, Noted]:
        if not Path(self._path).exists():
            return {}
        with self._connection() as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (NOTES,)).fetchone():
                return {}
            rows = connection.execute(self._statements.notes, (self._project,)).fetchall()
        return {view: Noted(*noted) for view, *noted in rows}

    def note(self, view: str, noted: Noted) -> None:
        given = (self._project, view, noted.newest_us, noted.as_of_us, noted.rows)
        with self._connection() as connection:
            connection.execute(self._statements.make_notes)
            connection.execute(self._statements.note, given)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Of what is written on it everything or nothing is there afterwards."""
        try:
            with closing(sqlite3.connect(self._path, timeout=WRITE_TIMEOUT_S)) as connection, connection:
                yield connection
        except sqlite3.OperationalError as error:
            raise UnavailableError(f"The online store {self._path} cannot be used: {error}.") from error


def connector(path: str) -> Callable[[], sqlite3.Connection]:
    """Connections to a file for reading; who writes is waited for no longer than any other store."""
    return lambda: sqlite3.connect(path, timeout=READ_TIMEOUT_S, check_same_thread=False)


@lru_cache(maxsize=4096)
def _microseconds(seconds: int) -> int:
    """Feast writes a moment's UTC digits as if they were local time, and so they must be read."""
    return calendar.timegm(time.localtime(seconds)) * 1_000_000


@lru_cache(maxsize=4096)
def _seconds(moment_us: int | None) -> int | None:
    """As `_microseconds` reads it: the second at whose end a moment has come."""
    if moment_us is None:
        return None
    digits = datetime(1970, 1, 1) + timedelta(seconds=-(-moment_us // 1_000_000))
    return int(digits.timestamp())
