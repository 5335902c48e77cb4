"""Feast's online store in PostgreSQL: all views of a question in one query."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

from mlops_ray.errors import UnavailableError
from mlops_ray.features.definitions import View
from mlops_ray.features.online.lookup import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, Found, Keys, Tables
from mlops_ray.features.online.write import WRITE_TIMEOUT_S, Noted, OnlineValues, SqlStatements

_T = TypeVar("_T")
_TOO_LARGE = "54"  # the class of states of a statement that passes one of the server's limits
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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

    def read(self, keys: Keys) -> list[Any]:
        asked = [view for view, of_view in enumerate(keys) if of_view]
        condition = "entity_key = ANY(%s) AND feature_name = ANY(%s)"
        query = " UNION ALL ".join(self._tables.select(view, _MICROSECONDS, condition) for view in asked)
        given: list[Any] = []
        for view in asked:
            given += list(keys[view]), list(self._tables.features[view])
        return self._rows(query, given)

    def found(self, rows: list[Any]) -> Found:
        return self._tables.found(rows, int)

    def is_away(self, error: Exception) -> bool:
        if isinstance(error, psycopg.OperationalError):
            return not (error.sqlstate or "").startswith(_TOO_LARGE)
        return isinstance(error, OSError)

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


class PostgresqlWriter:
    """See `Writer`. A connection for each piece of work; nothing on it may take longer than `WRITE_TIMEOUT_S`."""

    def __init__(self, url: str, project: str):
        self._url, self._project = url, project
        self._statements = SqlStatements(project, "%s", "GREATEST")

    def write(self, view: View, rows: Sequence[OnlineValues]) -> int:
        values = [
            (row.key, name, content, _storable(text), *map(_moment, (row.known_us, row.created_us, row.over_us)))
            for row in rows
            for name, content, text in zip(view.fields, row.contents, row.texts, strict=True)
        ]
        with self._connection() as connection, connection.cursor() as cursor:
            cursor.executemany(self._statements.write(view), values)
            return cursor.rowcount // len(view.fields)

    def count(self, view: View, since_us: int) -> int:
        with self._connection() as connection:
            found = connection.execute(self._statements.count(view), (view.fields[0], _moment(since_us))).fetchone()
            return int(found[0]) if found else 0

    def notes(self) -> Mapping[str, Noted]:
        try:
            with self._connection() as connection:
                rows = connection.execute(self._statements.notes, (self._project,)).fetchall()
        except psycopg.errors.UndefinedTable:
            return {}
        return {view: Noted(*noted) for view, *noted in rows}

    def note(self, view: str, noted: Noted) -> None:
        given = (self._project, view, noted.newest_us, noted.as_of_us, noted.rows)
        try:
            with self._connection() as connection:
                connection.execute(self._statements.note, given)
        except psycopg.errors.UndefinedTable:
            self._make_notes()
            self.note(view, noted)

    def _make_notes(self) -> None:
        try:
            with self._connection() as connection:
                connection.execute(self._statements.make_notes)
        except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateTable):  # somebody else made it meanwhile
            return

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Of what is written on it everything or nothing is there afterwards."""
        options = f"-c statement_timeout={WRITE_TIMEOUT_S}s"
        try:
            with psycopg.connect(self._url, connect_timeout=CONNECT_TIMEOUT_S, options=options) as connection:
                yield connection
        except psycopg.OperationalError as error:
            raise UnavailableError(f"The online store does not answer: {error}. Is it running?") from error


def _moment(moment_us: int | None) -> datetime | None:
    return None if moment_us is None else _EPOCH + timedelta(microseconds=moment_us)


def _storable(text: str | None) -> str | None:
    """PostgreSQL's texts cannot hold a NUL; the value itself is kept whole."""
    return text and text.replace("\0", "")
