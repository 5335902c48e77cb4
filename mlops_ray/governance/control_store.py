"""The control store: one SQL database that knows who may do what, what is live, and everything that was done."""

import math
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from select import POLLIN, poll
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, inspect, make_url, select, text
from sqlalchemy.exc import ArgumentError, DatabaseError, DisconnectionError, OperationalError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.schema import CreateColumn

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, IntegrityError, MlopsRayError, UnavailableError
from mlops_ray.governance.schema import Schema, bring_up_to_date, expect_usable, find_schema
from mlops_ray.governance.tables import REPORTS, REPORTS_REVISION, event_head, metadata
from mlops_ray.state_folder import claim

_MIGRATION_LOCK = 7_037_411  # PostgreSQL's advisory locks are numbers; any that nobody else takes
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_POSTGRESQL_PORT = 5432
_LOCKED = ("database is locked", "lock timeout")
# PostgreSQL looks for a deadlock after a second: by then we have given way.
_ALL_TABLES_MS = 500
_TRUSTED_S = 5.0
_IDLE_MS = 15_000  # a writer that stopped in the middle of a transaction holds up everybody, a rollback too


def open_store(settings: Settings) -> "ControlStore":
    """The control store of `settings`, whose tables are made if the database is empty.

    Raises ConfigurationError if the state folder is a copy (see `state_folder.claim`), and as `ControlStore.prepare`.
    """
    claim(settings)
    store = ControlStore(settings.control_store)
    store.prepare()
    return store


class ControlStore:
    """SQLite (sqlite:////absolute/path) or PostgreSQL (postgresql://…). One writer at a time, any number of readers.

    Of a PostgreSQL that fails over all servers may be named: postgresql://user@one,two/db?target_session_attrs=read-write.

    wait_s: how long to wait for a lock that another process holds. Threads may share a store, and it can be pickled:
    what arrives connects anew.
    """

    def __init__(self, url: str, wait_s: float = 30.0):
        self.url = url
        self.wait_s = wait_s

    def __reduce__(self) -> tuple[type["ControlStore"], tuple[str, float]]:
        return ControlStore, (self.url, self.wait_s)

    def __repr__(self) -> str:
        return f"ControlStore({str(self)!r})"

    def __str__(self) -> str:
        """Its URL, without a password."""
        return str(self._parsed)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction that writes: all of it, or after an exception nothing.

        No other writes until it ends, so what is read inside stays true: read, decide, write. Keep it short, and call
        nothing over a network inside. Raises UnavailableError if the database is down, full, or locked for longer
        than `wait_s`.
        """
        with self._errors(), self._engine.connect() as plain:
            connection = plain.execution_options(mode="write")
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.execute(select(event_head.c.id).with_for_update())
                yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that only reads, and sees one state throughout, whoever writes meanwhile.

        Raises UnavailableError as `transaction` does.
        """
        with self._errors(), self._engine.connect() as plain:
            options: dict[str, Any] = {"mode": "read"}
            if plain.dialect.name == "postgresql":
                options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            yield plain.execution_options(**options)

    @contextmanager
    def reporting(self, write: bool = True) -> Iterator[Connection]:
        """A transaction on what replicas say of themselves, and on nothing else (`tables.REPORTS`).

        It does not take the lock of the audit log, so neither waits for the other: on PostgreSQL rows are locked one by
        one, on SQLite these tables have a file of their own. The last half second of it may be lost with the database's
        machine. Raises UnavailableError as `transaction` does.
        """
        with self._errors(), self._reports.connect() as plain:
            on_postgresql = plain.dialect.name == "postgresql"
            if not write:
                options = {"isolation_level": "AUTOCOMMIT"} if on_postgresql else {}
                yield plain.execution_options(mode="read", **options)
                return
            connection = plain.execution_options(mode="write")
            with connection.begin():
                if on_postgresql:
                    connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
                yield connection

    def head(self) -> int:
        """The number of the last event. While it is the same, nothing that an event tells of has changed: no key, no
        approval, nothing that is live. One statement, so that any number of processes can ask each second."""
        with self._errors(), self._engine.connect() as plain:
            options: dict[str, Any] = {"mode": "read"}
            if plain.dialect.name == "postgresql":
                options["isolation_level"] = "AUTOCOMMIT"
            return int(plain.execution_options(**options).execute(select(event_head.c.seq)).scalar() or 0)

    def schema(self) -> Schema:
        """Which schema the database has. Raises UnavailableError as `transaction` does."""
        with self.reading() as connection:
            return find_schema(connection)

    def prepare(self) -> None:
        """Make the tables of an empty database, and expect that this software may use any other as it is.

        Raises ConfigurationError if its schema is older, too new or of another program (see `schema.expect_usable`),
        UnavailableError as `transaction` does.
        """
        self.prepare_folder()
        schema = self.schema()
        if schema.revision is None:
            with self.migrating() as connection:
                schema = find_schema(connection)  # another process may have made them since
                if schema.revision is None:
                    bring_up_to_date(connection)
                    return
        expect_usable(schema, str(self))

    def migrate(self) -> None:
        """Bring the schema up to date, from nothing if need be, unasked. Any number of processes may do so at once.

        `operations.upgrade` looks first, and records it. Raises as `prepare` does, but for an older schema.
        """
        self.prepare_folder()
        if self.schema().standing() == "current":
            return
        with self.migrating() as connection:
            schema = find_schema(connection)
            if schema.standing() in ("empty", "older"):
                bring_up_to_date(connection)
            else:
                expect_usable(schema, str(self))

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A transaction that may change tables: all of it, or after an exception nothing, and one at a time.

        On PostgreSQL nobody reads meanwhile, either, so keep it short. Who waits for those that work with the tables
        holds up nobody for longer than half a second at a time. Raises UnavailableError as `transaction` does.
        """
        if self.is_file:
            self._use_write_ahead_log(self._engine)
        with self._errors(), self._engine.connect() as plain:
            connection = plain.execution_options(mode="write")
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    self._take_all_tables(connection)
                yield connection

    def _take_all_tables(self, connection: Connection) -> None:
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
        there = [name for name in inspect(connection).get_table_names() if name in metadata.tables]
        deadline = time.monotonic() + self.wait_s
        while there:
            try:
                with connection.begin_nested():
                    connection.execute(text(f"SET LOCAL lock_timeout = {_ALL_TABLES_MS}"))
                    connection.execute(text(f"LOCK TABLE {', '.join(there)} IN ACCESS EXCLUSIVE MODE"))
                return
            except OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_ALL_TABLES_MS / 1000)

    @property
    def is_file(self) -> bool:
        """Whether it is an SQLite file on this machine."""
        return self._parsed.get_backend_name() == "sqlite"

    @property
    def servers(self) -> list[tuple[str, int]]:
        """Host and port of each server that PostgreSQL is reached at over the network: none of a socket's folder."""
        _, given = self._engine.dialect.create_connect_args(self._parsed)
        hosts, ports = str(given.get("host") or "").split(","), str(given.get("port") or "").split(",")
        named = zip(hosts, ports if len(ports) == len(hosts) else ports * len(hosts), strict=True)
        return [(host, int(port or _POSTGRESQL_PORT)) for host, port in named if host and not host.startswith("/")]

    @property
    def file(self) -> Path:
        """The SQLite file."""
        return Path(str(self._parsed.database))

    def forget_overwritten(self) -> None:
        """Write SQLite's file anew and empty its log: what was overwritten stands in both until they are used again.

        Of PostgreSQL it is the operator's to do. Raises UnavailableError if others hold the file for too long.
        """
        if self._parsed.get_backend_name() == "sqlite":
            with self._errors(), self._engine.connect() as connection:
                outside = connection.execution_options(mode="outside")
                outside.exec_driver_sql("VACUUM")
                outside.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close all connections; the store can be used again afterwards."""
        self._engine.dispose()
        if "_reports" in self.__dict__:
            self._reports.dispose()

    @cached_property
    def _parsed(self) -> URL:
        try:
            url = make_url(_hosts_as_options(self.url))
            for host in (url.host or "", *url.normalized_query.get("host", ())):
                if not host.startswith("/"):
                    host.encode("idna")  # as who connects does
        except (ArgumentError, ValueError):  # the latter for a port that is no number, and a name that is none
            raise ConfigurationError(
                "Setting 'control_store' is not a database URL. Example: postgresql://user:password@host/database."
            ) from None
        backend = url.get_backend_name()
        if backend == "postgresql":
            return url.set(drivername="postgresql+psycopg")
        if backend != "sqlite":
            raise ConfigurationError(f"Setting 'control_store': {backend!r} is neither sqlite nor postgresql.")
        if not (url.database or "").startswith("/"):
            raise ConfigurationError(
                f"Setting 'control_store': {self.url!r} needs an absolute path: sqlite:// and then /path/to/file.db."
            )
        return url

    @cached_property
    def _engine(self) -> Engine:
        url = self._parsed
        if url.get_backend_name() == "sqlite":
            return self._sqlite_engine(url)
        wait_ms = max(1, round(self.wait_s * 1000))
        arguments = {
            "connect_timeout": max(2, min(10, round(self.wait_s))),
            "tcp_user_timeout": wait_ms,
            # Who waits for an answer sends nothing, and would not notice for hours that the machine is gone.
            "keepalives_idle": 5,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "options": f"-c lock_timeout={wait_ms} -c idle_in_transaction_session_timeout={_IDLE_MS}",
        }
        # One is kept open, more only while they are used: a thousand replicas are a thousand connections.
        engine = create_engine(url, connect_args=arguments, pool_timeout=self.wait_s, pool_size=1, max_overflow=14)
        event.listen(engine, "checkin", _note_use)
        event.listen(engine, "checkout", partial(_expect_connected, engine))
        return engine

    @cached_property
    def _reports(self) -> Engine:
        url = self._parsed
        if url.get_backend_name() != "sqlite":
            return self._engine
        # One file for this release and the one before: replicas of both decide together. Nobody migrates what is told
        # anew every few seconds.
        file = self.file.with_name(f"{self.file.stem}-reports-{REPORTS_REVISION}.db")
        engine = self._sqlite_engine(url.set(database=str(file)))
        event.listen(engine, "connect", _do_not_wait_for_the_disk)
        self._use_write_ahead_log(engine)
        with engine.connect() as plain:
            connection = plain.execution_options(mode="write")
            with connection.begin():
                metadata.create_all(connection, REPORTS)
                _add_columns(connection)
        return engine

    def _sqlite_engine(self, url: URL) -> Engine:
        _make_closed(Path(str(url.database)))
        engine = create_engine(url, connect_args={"timeout": self.wait_s}, pool_timeout=self.wait_s)
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What the database says about itself, as our errors; what it says about a statement passes unchanged."""
        try:
            yield
        except PoolTimeoutError as error:
            raise UnavailableError(
                f"The control store {self._parsed} had no connection left for {self.wait_s:g} s. Retry later."
            ) from error
        except (DatabaseError, StatementError) as error:
            known = self._as_our_error(error)
            if known is None:
                raise
            raise known from error

    def _as_our_error(self, error: StatementError) -> MlopsRayError | None:
        cause = error.orig
        said = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        code = getattr(cause, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in _DAMAGED:
            return IntegrityError(f"The control store {self._parsed} is damaged: {said}. Restore it from a backup.")
        # SQLite reports a mistaken statement (SQLITE_ERROR) in the same class as a disk that is full.
        if not isinstance(error, OperationalError) or code == sqlite3.SQLITE_ERROR:
            return None
        if any(sign in said for sign in _LOCKED):
            return UnavailableError(
                f"The control store {self._parsed} was locked by another process for {self.wait_s:g} s; nothing was "
                f"changed. Retry, and if it stays so, find the process that holds it."
            )
        return UnavailableError(f"The control store {self._parsed} cannot be used: {said}. Retry later.")

    def prepare_folder(self) -> None:
        """Make the folder of an SQLite file. Raises ConfigurationError if that cannot be."""
        if not self.is_file:
            return
        folder = self.file.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"Setting 'control_store': the folder {folder} cannot be made: {error.strerror}."
            ) from error

    def _use_write_ahead_log(self, engine: Engine) -> None:
        """Readers then do not wait for a writer. It is a property of the file, so it is set once.

        SQLite does not wait for a lock here as it does elsewhere, and several processes can make the file at once.
        """
        deadline = time.monotonic() + self.wait_s
        while True:
            try:
                with self._errors(), engine.connect() as connection:
                    connection.execution_options(mode="outside").exec_driver_sql("PRAGMA journal_mode = WAL")
                return
            except UnavailableError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


class StoreInTransaction(ControlStore):
    """A store as it is inside a transaction of somebody else, who commits all or nothing of what is done with it."""

    def __init__(self, store: ControlStore, connection: Connection):
        super().__init__(store.url, store.wait_s)
        self._connection = connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        yield self._connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        yield self._connection


def _make_closed(file: Path) -> None:
    """Make the file for this user alone, if there is none; SQLite gives those that it makes beside it the same mode.

    It gets its name when it is closed: who closes a descriptor of a file drops all POSIX locks that its process has on
    it, SQLite's too, and another process may then remove the write-ahead log that this one goes on to use
    (sqlite.org/howtocorrupt.html, 2.2).
    """
    if file.exists():
        return
    with suppress(OSError):  # as where there is no folder, which who connects is told
        descriptor, unnamed = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        os.close(descriptor)
        try:
            os.link(unnamed, file)
        finally:
            os.unlink(unnamed)


def database_now(connection: Connection) -> datetime:
    """What the database's clock shows, in UTC. Machines may disagree about the time; this is the one that all share."""
    if connection.dialect.name == "postgresql":
        moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return moment.astimezone(UTC)
    shown = connection.exec_driver_sql("SELECT strftime('%Y-%m-%dT%H:%M:%f', 'now')").scalar_one()
    return datetime.fromisoformat(shown).replace(tzinfo=UTC)


def now_within(connection: Connection) -> Any:
    """`database_now` for use in a statement: where the database is another machine, it is not asked beforehand."""
    return func.clock_timestamp() if connection.dialect.name == "postgresql" else database_now(connection)


def since_begin_s(connection: Connection) -> Any:
    """For use in a statement beside `now_within`: how long ago, by then, the transaction began. With it in an age that
    was known in between, what happened is dated no later than it did, however long the statement was on its way."""
    if connection.dialect.name != "postgresql":
        return 0.0  # `now_within` is of before
    return func.extract("epoch", func.clock_timestamp() - func.transaction_timestamp())


def _add_columns(connection: Connection) -> None:
    """Add what the reports of the release before do not say; each column has a default, so that it goes on."""
    for table in REPORTS:
        there = {column["name"] for column in inspect(connection).get_columns(table.name)}
        for column in table.columns:
            if column.name not in there:
                told = CreateColumn(column).compile(dialect=connection.dialect)
                connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {told}"))


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # Python's driver would begin transactions itself, and late
    connection.execute("PRAGMA foreign_keys = ON")


def _note_use(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info["used_s"] = time.monotonic()


def _expect_connected(engine: Engine, connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
    """Connect anew if the server has ended the connection.

    It is asked only if it has said something meanwhile, as one does that ends, or after a while, as a network may have
    swallowed that. Asking each time, as the pool can, would double what replicas that look each second cost.
    """
    spoken = poll()
    spoken.register(connection.fileno(), POLLIN)
    if not spoken.poll(0) and time.monotonic() - record.info.get("used_s", math.inf) < _TRUSTED_S:
        return
    try:
        engine.dialect.do_ping(connection)
    except engine.dialect.loaded_dbapi.Error as error:
        raise DisconnectionError from error


def _hosts_as_options(url: str) -> str:
    """Several hosts stand in a URL as `user@one:5432,two:5432/db` for PostgreSQL's own tools; SQLAlchemy has each as an
    option `host`."""
    parts = urlsplit(url)
    account, mark, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return url
    options = "&".join([*(f"host={host}" for host in hosts.split(",")), *filter(None, [parts.query])])
    return urlunsplit(parts._replace(netloc=account + mark, query=options))


def _do_not_wait_for_the_disk(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin_sqlite(connection: Connection) -> None:
    mode = connection.get_execution_options()["mode"]
    if mode != "outside":
        connection.exec_driver_sql(f"PRAGMA query_only = {'OFF' if mode == 'write' else 'ON'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if mode == "write" else "BEGIN")
