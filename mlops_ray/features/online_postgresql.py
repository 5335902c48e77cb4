"""Feast's online store in PostgreSQL: all views of a question in one query."""

from collections import deque
from collections.abc import Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

from mlops_ray.features.definitions import View
from mlops_ray.features.online_lookup import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, Found, Keys, Tables

_T = TypeVar("_T")
_MICROSECONDS = "(EXTRACT(EPOCH FROM event_ts) * 1000000)::bigint"


class PostgresqlLookup:
    """See `Lookup`. A connection serves one question at a time and is kept for the next, whichever thread asks it; one
    that was lost is made again, once for each question.

    Feast's own keeps one connection for good: after a restart of the server every read fails.
    """

    waits = True

    def __init__(self, url: str, project: str, views: Sequence[View]):
        self._url, self._tables = url, Tables(project, views)
        self._idle = deque[_Impatient]()

    def read(self, keys: Keys) -> Found:
        asked = [view for view, of_view in enumerate(keys) if of_view]
        condition = "entity_key = ANY(%s) AND feature_name = ANY(%s)"
        query = " UNION ALL ".join(self._tables.select(view, _MICROSECONDS, condition) for view in asked)
        given: list[Any] = []
        for view in asked:
            given += list(keys[view]), list(self._tables.features[view])
        return self._tables.found(self._rows(query, given), int)

    def close(self) -> None:
        while held := self._held():
            held.close()

    def _rows(self, query: str, given: Sequence[Any]) -> list[Any]:
        held = self._held()
        if held is not None:
            try:
                return self._asked(held, query, given)
            except psycopg.OperationalError as error:
                if isinstance(error, psycopg.errors._WaitTimeout):
                    raise
        made = _Impatient.connect(self._url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)
        return self._asked(made, query, given)

    def _held(self) -> "_Impatient | None":
        """One that nobody uses, the one last used first; it is the caller's now."""
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _asked(self, connection: "_Impatient", query: str, given: Sequence[Any]) -> list[Any]:
        """The rows; the connection is kept unless it fails."""
        try:
            rows: list[Any] = connection.execute(query, given, binary=True).fetchall()
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return rows


class _Impatient(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which nothing may take longer than `READ_TIMEOUT_S`.

    A server that is frozen, or cut off, answers neither a statement's timeout nor TCP's keep-alive.
    """

    def wait(self, gen: PQGen[_T], interval: float = 0.1, timeout: float | None = None) -> _T:
        return super().wait(gen, interval, READ_TIMEOUT_S if timeout is None else timeout)
