"""Feast's online store in PostgreSQL: all views of a question in one query."""

import threading
from collections.abc import Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

from mlops_ray.features.definitions import View
from mlops_ray.features.online_lookup import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, Found, Keys, Tables

_T = TypeVar("_T")
_MICROSECONDS = "(EXTRACT(EPOCH FROM event_ts) * 1000000)::bigint"


class PostgresqlLookup:
    """See `Lookup`. Each thread has a connection of its own; one that was lost is made again, once for each question.

    Feast's own keeps one connection for good: after a restart of the server every read fails.
    """

    waits = True

    def __init__(self, url: str, project: str, views: Sequence[View]):
        self._url, self._tables = url, Tables(project, views)
        self._local, self._open = threading.local(), set[_Impatient]()

    def read(self, keys: Keys) -> Found:
        asked = [view for view, of_view in enumerate(keys) if of_view]
        condition = "entity_key = ANY(%s) AND feature_name = ANY(%s)"
        query = " UNION ALL ".join(self._tables.select(view, _MICROSECONDS, condition) for view in asked)
        given: list[Any] = []
        for view in asked:
            given += list(keys[view]), list(self._tables.features[view])
        return self._tables.found(self._rows(query, given), int)

    def close(self) -> None:
        for connection in list(self._open):
            connection.close()
        self._open.clear()
        self._local = threading.local()

    def _rows(self, query: str, given: Sequence[Any]) -> list[Any]:
        held: _Impatient | None = getattr(self._local, "connection", None)
        if held is not None:
            try:
                return held.execute(query, given, binary=True).fetchall()
            except psycopg.OperationalError as error:
                self._drop(held)
                if isinstance(error, psycopg.errors._WaitTimeout):
                    raise
        made = self._connected()
        try:
            return made.execute(query, given, binary=True).fetchall()
        except psycopg.OperationalError:
            self._drop(made)
            raise

    def _connected(self) -> "_Impatient":
        made = _Impatient.connect(self._url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)
        self._local.connection = made
        self._open.add(made)
        return made

    def _drop(self, connection: "_Impatient") -> None:
        self._local.connection = None
        self._open.discard(connection)
        connection.close()


class _Impatient(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which nothing may take longer than `READ_TIMEOUT_S`.

    A server that is frozen, or cut off, answers neither a statement's timeout nor TCP's keep-alive.
    """

    def wait(self, gen: PQGen[_T], interval: float = 0.1, timeout: float | None = None) -> _T:
        return super().wait(gen, interval, READ_TIMEOUT_S if timeout is None else timeout)
