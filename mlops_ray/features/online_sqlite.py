"""Feast's online store in a SQLite file: all views of a question in one statement."""

import calendar
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

from mlops_ray.features.definitions import View
from mlops_ray.features.online_lookup import READ_TIMEOUT_S, Found, Keys, Tables


class SqliteLookup:
    """See `Lookup`. Each thread has a connection of its own, unless `connect` gives all the same one."""

    waits = False

    def __init__(self, connect: Callable[[], sqlite3.Connection], project: str, views: Sequence[View]):
        self._connect, self._tables = connect, Tables(project, views)
        self._fields = [view.fields for view in views]
        self._local, self._open = threading.local(), list[sqlite3.Connection]()
        self._statement = lru_cache(maxsize=64)(self._statement_for)

    def read(self, keys: Keys) -> Found:
        statement = self._statement(tuple(map(len, keys)))
        rows = self._connection().execute(statement, [key for of_view in keys for key in of_view]).fetchall()
        return self._tables.found(rows, _microseconds)

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


def connector(path: str) -> Callable[[], sqlite3.Connection]:
    """Connections to a file for reading; who writes is waited for no longer than any other store."""
    return lambda: sqlite3.connect(path, timeout=READ_TIMEOUT_S, check_same_thread=False)


@lru_cache(maxsize=4096)
def _microseconds(seconds: int) -> int:
    """Feast writes a moment's UTC digits as if they were local time, and so they must be read."""
    return calendar.timegm(time.localtime(seconds)) * 1_000_000
