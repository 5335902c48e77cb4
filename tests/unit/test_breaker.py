"""What fails several times in a row is not waited for, and is tried again without a caller."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
import redis

from mlops_ray.errors import IntegrityError, UnavailableError
from mlops_ray.features.definitions import View
from mlops_ray.features.online.breaker import FAILURES, RETRY_S, Breaker
from mlops_ray.features.online.format import KeyFormat, Stored, contents_of
from mlops_ray.features.online.postgresql import PostgresqlLookup
from mlops_ray.features.online.reader import OnlineReader
from mlops_ray.features.online.redis import RedisLookup
from mlops_ray.features.online.sqlite import SqliteLookup, connector


class Store:
    """Fails, with an address in its message, until it is up."""

    def __init__(self) -> None:
        self.up, self.calls, self.by = False, 0, set[str]()

    def read(self) -> str:
        self.calls += 1
        self.by.add(threading.current_thread().name)
        if not self.up:
            raise ConnectionError("no route to 10.0.0.7:6379")
        return "read"


def is_away(error: Exception) -> bool:
    return isinstance(error, OSError)


def test_after_some_failures_callers_do_not_wait_and_a_thread_finds_out_when_it_is_back() -> None:
    store = Store()
    breaker = Breaker("The store", is_away, store.read)
    for _ in range(FAILURES):
        with pytest.raises(UnavailableError, match=r"The store does not answer \(ConnectionError\)") as failed:
            breaker.call(store.read)
        assert "10.0.0.7" not in str(failed.value)
    calls = store.calls
    with pytest.raises(UnavailableError, match="do not wait for it"):
        breaker.call(store.read)
    assert store.calls == calls
    store.up = True
    time.sleep(RETRY_S + 0.2)
    assert breaker.call(store.read) == "read"
    assert store.by == {"MainThread", "breaker"}


def test_failures_between_answers_open_nothing() -> None:
    store = Store()
    breaker = Breaker("The store", is_away, store.read)
    for _ in range(3 * FAILURES):
        store.up = False
        with pytest.raises(UnavailableError, match="ConnectionError"):
            breaker.call(store.read)
        store.up = True
        assert breaker.call(store.read) == "read"


def test_one_thread_tries_however_many_callers_failed() -> None:
    store = Store()
    breaker = Breaker("The store", is_away, store.read)

    def fail() -> None:
        with pytest.raises(UnavailableError):
            breaker.call(store.read)

    callers = [threading.Thread(target=fail) for _ in range(20)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sum(thread.name == "breaker" for thread in threading.enumerate()) == 1
    breaker.close()
    time.sleep(RETRY_S + 0.2)
    assert not any(thread.name == "breaker" for thread in threading.enumerate())


VIEW = View(
    name="delays",
    keys=("airport",),
    asked=("airport",),
    features=("delay", "gate"),
    fields=("delay", "gate"),
    types={"airport": "String", "delay": "Float64", "gate": "String"},
    ttl_s=86_400,
    columns={},
)
NOW = datetime.now(UTC)


class Slow:
    """A lookup to which more than a hundred keys are too many for its time."""

    waits = True

    def read(self, keys: Sequence[Sequence[bytes]]) -> list[dict[bytes, Stored]]:
        if sum(map(len, keys)) > 100:
            raise TimeoutError
        return [{} for _ in keys]

    def found(self, rows: list[dict[bytes, Stored]]) -> list[dict[bytes, Stored]]:
        return rows

    def is_away(self, error: Exception) -> bool:
        return isinstance(error, OSError)

    def close(self) -> None: ...


def test_questions_that_are_too_large_keep_the_store_shut_for_no_small_one() -> None:
    with closing(OnlineReader(Slow(), [VIEW])) as reader:
        for _ in range(FAILURES):
            with pytest.raises(UnavailableError):
                reader.find([{"airport": f"A{number}"} for number in range(1_000)], [NOW] * 1_000)
        time.sleep(RETRY_S + 0.2)
        (found,) = reader.find([{"airport": "JFK"}], [NOW])
        assert found.missing == ["delay", "gate"]


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Callable[[str, bytes], None]]:
    """Feast's table of the view in a file; puts an airport's gate there, in the bytes given."""
    with closing(sqlite3.connect(tmp_path / "online.db", isolation_level=None)) as connection:
        connection.execute(
            "CREATE TABLE p_delays (entity_key BLOB, feature_name TEXT, value BLOB, vector_value BLOB, "
            "event_ts timestamp, created_ts timestamp, PRIMARY KEY(entity_key, feature_name))"
        )

        def put(airport: str, gate: bytes) -> None:
            for name, value in (("delay", contents_of([1.0], "Float64")[0]), ("gate", gate)):
                row = KeyFormat(VIEW).bytes_of([airport]), name, value, int(NOW.timestamp()) - 1_000
                connection.execute("INSERT INTO p_delays VALUES (?, ?, ?, NULL, ?, NULL)", row)

        yield put


@pytest.fixture
def reader(tmp_path: Path, table: Callable[[str, bytes], None]) -> Iterator[OnlineReader]:
    table("JFK", contents_of(["B7"], "String")[0])
    with closing(OnlineReader(SqliteLookup(lambda: _connection(tmp_path), "p", [VIEW]), [VIEW])) as reader:
        yield reader


def _connection(folder: Path) -> sqlite3.Connection:
    """Takes fewer values in a statement than any build of SQLite does."""
    connection = connector(str(folder / "online.db"))()
    connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 1_000)
    return connection


NO_TEXT = [b"\x12\x02\xff\xfe", b"\x12\x80\x01" + b"\xff" * 128, b"\x12\x7f", b"\xff\xff"]


@pytest.mark.parametrize("content", NO_TEXT)
def test_a_stored_value_that_cannot_be_read_costs_who_asks_for_it_and_nobody_else(
    reader: OnlineReader, table: Callable[[str, bytes], None], content: bytes
) -> None:
    table("BAD", content)
    for _ in range(3 * FAILURES):
        with pytest.raises(IntegrityError, match=r"Row 1: .* gate in feature view delays cannot be read"):
            reader.find([{"airport": "JFK"}, {"airport": "BAD"}], [NOW, NOW])
    (found,) = reader.find([{"airport": "JFK"}], [NOW])
    assert found.values == {"delay": 1.0, "gate": "B7"}


def test_a_question_that_the_store_refuses_opens_nothing(reader: OnlineReader) -> None:
    many = [{"airport": f"A{number}"} for number in range(2_000)]
    for _ in range(FAILURES):
        with pytest.raises(UnavailableError, match="refuses this question: too many SQL variables"):
            reader.find(many, [NOW] * len(many))
    assert reader.find([{"airport": "JFK"}], [NOW])[0].values["gate"] == "B7"


def test_a_file_that_cannot_be_opened_or_is_locked_for_long_is_away(tmp_path: Path, reader: OnlineReader) -> None:
    lookup = SqliteLookup(connector(str(tmp_path / "no" / "online.db")), "p", [VIEW])
    with pytest.raises(sqlite3.OperationalError) as unopened:
        lookup.read([[b"key"]])
    assert lookup.is_away(unopened.value)
    with closing(sqlite3.connect(tmp_path / "online.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        lookup = SqliteLookup(connector(str(tmp_path / "online.db")), "p", [VIEW])
        with pytest.raises(sqlite3.OperationalError) as locked:
            lookup.read([[b"key"]])
    assert lookup.is_away(locked.value)


SAID = [
    (RedisLookup, "redis://localhost:1", redis.ConnectionError("refused"), True),
    (RedisLookup, "redis://localhost:1", redis.TimeoutError("late"), True),
    (RedisLookup, "redis://localhost:1", redis.BusyLoadingError("loading"), True),
    (RedisLookup, "redis://localhost:1", redis.ResponseError("WRONGTYPE"), False),
    (PostgresqlLookup, "postgresql://localhost:1", psycopg.OperationalError("closed"), True),
    (PostgresqlLookup, "postgresql://localhost:1", psycopg.errors.AdminShutdown("going"), True),
    (PostgresqlLookup, "postgresql://localhost:1", psycopg.errors.UndefinedTable("p_delays"), False),
    (PostgresqlLookup, "postgresql://localhost:1", psycopg.errors.StatementTooComplex("long"), False),
]


@pytest.mark.parametrize(("kind", "url", "error", "away"), SAID)
def test_what_a_client_raises_says_whether_its_store_is_away(
    kind: type[RedisLookup] | type[PostgresqlLookup], url: str, error: Exception, away: bool
) -> None:
    lookup = kind(url, "p", [VIEW])
    assert lookup.is_away(error) == away
    assert lookup.is_away(OSError("no route"))
    assert not lookup.is_away(TypeError("ours"))
