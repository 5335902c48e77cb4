"""The control store keeps its promises on SQLite and on PostgreSQL: all or nothing, one writer, an unbroken chain."""

import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest
import uuid6
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy import exc as sql_errors

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import ConfigurationError, IntegrityError, UnavailableError
from mlops_ray.governance import control_store, tables
from mlops_ray.governance.anchors import anchor
from mlops_ray.governance.audit import verify_store
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.database_clock import DatabaseClock
from mlops_ray.governance.development_keys import development_key
from mlops_ray.governance.events import SYSTEM, read_events, record
from mlops_ray.governance.keys import active_keys, hash_of, list_keys
from mlops_ray.governance.replicas import Replica, Unmoved, heard, report
from mlops_ray.governance.tables import endpoints, metadata, replicas, rollouts
from mlops_ray.monitoring.quality import join_labels
from mlops_ray.predictions.label_writer import LabelWriter
from mlops_ray.predictions.labels import Label, Labels
from tests.anchoring import anchored_in
from tests.integration import control_store_processes as processes
from tests.integration import upgrade_processes

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["alembic.command", "psycopg", processes.__name__, upgrade_processes.__name__])
NOON = datetime(2030, 6, 1, 12, tzinfo=UTC)


@contextmanager
def running(target: Callable[..., None], *arguments: Any) -> Iterator[BaseProcess]:
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def run_together(count: int, target: Callable[..., None], arguments: Callable[[int], tuple[Any, ...]]) -> None:
    together = CONTEXT.Barrier(count)
    started = []
    for number in range(count):
        store, *others = arguments(number)
        started.append(CONTEXT.Process(target=target, args=(store, together, *others)))
        started[-1].start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * count


@contextmanager
def held_by_another(store: ControlStore) -> Iterator[tuple[BaseProcess, Any]]:
    """A process in the middle of a transaction, and the event that lets it commit."""
    ours, theirs = CONTEXT.Pipe()
    release = CONTEXT.Event()
    with running(processes.hold_a_transaction, store, theirs, release) as process:
        assert ours.poll(30)
        yield process, release


def set_champion(store: ControlStore, use_case: str = "trains") -> None:
    with store.transaction() as connection:
        connection.execute(insert(endpoints).values(use_case=use_case, revision=1))
        record(connection, "champion.set", SYSTEM, f"{use_case}@1")


def state(connection: Connection) -> list[str]:
    return list(connection.execute(select(endpoints.c.use_case)).scalars())


def test_sixteen_processes_can_migrate_at_once(url: str) -> None:
    store = ControlStore(url)
    run_together(16, processes.migrate, lambda _: (store,))
    set_champion(store)
    assert [event.seq for event in read_events(store)] == [1]
    store.close()


def test_who_opens_the_store_again_loses_nothing_when_others_leave(store: ControlStore) -> None:
    """Closing any descriptor of a file drops the locks that the process has on it. On SQLite the next process to leave
    then took itself for the last, and removed the log that this one went on to write and to read."""
    with store.reading() as connection:
        assert state(connection) == []  # and its connection stays open
    with ControlStore(store.url).reading() as connection:
        assert state(connection) == []
    told = []
    for number in range(4):
        told.append(f"departures@{number}")
        if number % 2 == 0:
            with running(processes.record_and_end, store, told[-1]) as process:
                process.join()
                assert process.exitcode == 0
        else:
            with store.transaction() as connection:
                record(connection, "champion.set", SYSTEM, told[-1])
        assert [event.subject for event in read_events(store)] == told
    fresh = ControlStore(store.url)
    assert [event.subject for event in read_events(fresh)] == told
    fresh.close()


def test_the_migrations_make_the_tables_that_the_code_declares(store: ControlStore) -> None:
    with store.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    folder = ScriptDirectory(str(Path(control_store.__file__).parent / "migrations"))
    assert folder.get_current_head() == tables.SCHEMA_REVISION


def test_sixteen_writers_keep_one_unbroken_chain(store: ControlStore, tmp_path: Path) -> None:
    run_together(16, processes.create_keys, lambda number: (store, number, 10))
    place = str(tmp_path / "anchors.jsonl")
    found = verify_store(store, anchored_in(place))
    assert (found.ok, found.checked) == (True, 160)
    events = read_events(store)
    assert sorted(event.subject for event in events) == sorted(f"key {key.principal.name}" for key in list_keys(store))
    anchor(store, anchored_in(place))
    assert verify_store(store, anchored_in(place)).not_anchored == ()


@pytest.mark.parametrize("value", [1.0, -0.0, 10**30, 1e-320, "\0 \ud800 \u2028", {"b": [None, True], "a": NOON}])
def test_an_event_is_read_exactly_as_it_was_hashed(store: ControlStore, tmp_path: Path, value: object) -> None:
    with store.transaction() as connection:
        written = record(connection, "alarm.raised", SYSTEM, str(value), reason=str(value), before=value, after=[value])
    assert read_events(store) == [written]
    assert verify_store(store, anchored_in(tmp_path / "anchors.jsonl")).ok


def test_a_process_killed_in_a_transaction_leaves_nothing(store: ControlStore) -> None:
    with held_by_another(store) as (process, _):
        process.kill()
        process.join()
    assert read_events(store) == []
    with store.reading() as connection:
        assert state(connection) == []
    set_champion(store)
    assert [event.subject for event in read_events(store)] == ["trains@1"]


def test_a_writer_waits_for_another_and_then_sees_what_it_wrote(store: ControlStore) -> None:
    with held_by_another(store) as (_, release):
        with store.reading() as connection:
            assert state(connection) == []  # a reader neither waits nor sees what is not committed
        release.set()
        with store.transaction() as connection:
            assert state(connection) == ["flights"]


def test_a_store_locked_for_too_long_is_a_clear_error_and_changes_nothing(store: ControlStore) -> None:
    impatient = ControlStore(store.url, wait_s=0.5)
    with held_by_another(store) as (process, release):
        started = time.monotonic()
        with pytest.raises(UnavailableError, match=r"was locked by another process for 0\.5 s; nothing was changed"):
            set_champion(impatient)
        assert 0.4 < time.monotonic() - started < 5
        release.set()
        process.join()
    set_champion(impatient)
    impatient.close()
    assert [event.subject for event in read_events(store)] == ["flights@1", "trains@1"]


def test_a_reader_sees_one_state_throughout_and_cannot_write(store: ControlStore) -> None:
    with store.reading() as connection:
        assert state(connection) == []
        set_champion(store)
        assert state(connection) == []

    def write() -> None:
        with store.reading() as connection:
            connection.execute(insert(endpoints).values(use_case="flights", revision=1))

    with pytest.raises((UnavailableError, sql_errors.DBAPIError), match=r"read-?only"):
        write()
    with store.reading() as connection:
        assert state(connection) == ["trains"]


def test_an_exception_takes_everything_back(store: ControlStore) -> None:
    def fail() -> None:
        with store.transaction() as connection:
            connection.execute(insert(endpoints).values(use_case="flights", revision=1))
            record(connection, "champion.set", SYSTEM, "flights@1")
            raise ConfigurationError("no")

    with pytest.raises(ConfigurationError, match=r"^no$"):
        fail()
    assert read_events(store) == []
    with store.reading() as connection:
        assert state(connection) == []


def test_a_store_can_be_sent_to_another_process(store: ControlStore) -> None:
    set_champion(store)
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.url, copy.wait_s) == (store.url, store.wait_s)
    assert read_events(copy) == read_events(store)
    copy.close()


def test_moments_come_back_in_utc_and_one_without_a_zone_is_refused(store: ControlStore) -> None:
    def seen(at: datetime) -> None:
        row = {"id": "r", "use_case": "flights", "node": "n", "revision": 1, "loaded": [], "failed": {}, "counters": {}}
        with store.transaction() as connection:
            connection.execute(insert(replicas).values(row | {"seen_at": at}))

    seen(NOON.astimezone(timezone(timedelta(hours=5))) + timedelta(microseconds=1))
    with store.reading() as connection:
        (found,) = connection.execute(select(replicas.c.seen_at)).scalars()
        later = select(replicas.c.id).where(replicas.c.seen_at > NOON)
        assert connection.execute(later).scalars().all() == ["r"]
    assert found == NOON + timedelta(microseconds=1)
    assert found.tzinfo is UTC
    with pytest.raises(sql_errors.StatementError, match="no time zone"):
        seen(NOON.replace(tzinfo=None))


def test_only_one_rollout_of_a_use_case_runs(store: ControlStore) -> None:
    def start(id: str, use_case: str, ended_at: datetime | None) -> None:
        row = {"version": 1, "digest": "d", "plan": {}, "state": "canary", "step": 0, "reason": "", "actor": "ada"}
        row |= {"id": id, "use_case": use_case, "step_since": NOON, "started_at": NOON, "ended_at": ended_at}
        with store.transaction() as connection:
            connection.execute(insert(rollouts).values(row))

    start("1", "flights", NOON)
    start("2", "flights", None)
    start("3", "trains", None)
    with pytest.raises(sql_errors.IntegrityError):
        start("4", "flights", None)


def test_an_event_that_does_not_exist_cannot_be_sent(store: ControlStore) -> None:
    row = {"event_seq": 7, "subscription": "s", "channel": "c", "subject": "x", "attempts": 0, "error": ""}
    with pytest.raises(sql_errors.IntegrityError), store.transaction() as connection:
        connection.execute(insert(tables.outbox).values(row | {"next_at": NOON}))


def test_a_newer_schema_is_left_alone(store: ControlStore) -> None:
    with store.transaction() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match="has schema 9999, and this software is older"):
        store.migrate()


def test_processes_that_start_together_share_one_development_key(store: ControlStore, tmp_path: Path) -> None:
    settings = load_settings(state=str(tmp_path), data=str(tmp_path), control_store=store.url)
    run_together(8, processes.make_development_key, lambda _: (store, settings))
    (key,) = list_keys(store)
    assert key.principal.development
    assert set(active_keys(store)) == {hash_of(development_key(store, settings))}


@pytest.mark.parametrize("trusted_s", [5.0, -1.0])  # as if it was just used, and as if it was left alone for a while
def test_a_connection_that_broke_is_replaced(server: str, trusted_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_store, "_TRUSTED_S", trusted_s)
    store = ControlStore(server)
    store.migrate()
    read_events(store)
    with psycopg.connect(server, autocommit=True) as connection:
        others = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        connection.execute(f"{others} AND datname = current_database()")
    assert read_events(store) == []
    store.close()


def test_a_server_that_is_down_is_named_without_its_password() -> None:
    store = ControlStore("postgresql://ada:secret@127.0.0.1:1/control")
    with pytest.raises(
        UnavailableError, match=r"postgresql.*ada:\*\*\*@127\.0\.0\.1:1/control cannot be used"
    ) as error:
        store.migrate()
    assert "secret" not in str(error.value)
    assert "secret" not in repr(store)


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    store = ControlStore(f"sqlite:///{tmp_path}/control_store.db")
    store.migrate()

    def fill() -> None:
        with store.transaction() as connection:
            connection.execute(text("PRAGMA max_page_count = 1"))  # SQLite takes the present size instead
            record(connection, "champion.set", SYSTEM, "flights@1", payload={"large": "x" * 100_000})

    with pytest.raises(UnavailableError, match="full"):
        fill()
    assert read_events(ControlStore(store.url)) == []


def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path) -> None:
    (tmp_path / "control_store.db").write_bytes(b"no database" * 1000)
    with pytest.raises(IntegrityError, match=r"is damaged.*Restore it from a backup"):
        ControlStore(f"sqlite:///{tmp_path}/control_store.db").migrate()


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"cannot be used: unable to open database file"):
        ControlStore(f"sqlite:///{tmp_path}").migrate()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"the folder .*/file cannot be made"):
        ControlStore(f"sqlite:///{tmp_path}/file/control_store.db").migrate()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("control_store.db", "not a database URL"),
        ("sqlite:///control_store.db", "needs an absolute path"),
        ("sqlite://", "needs an absolute path"),
        ("mysql://ada:secret@host/control", "'mysql' is neither sqlite nor postgresql"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_a_sentence(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as error:
        ControlStore(url).migrate()
    assert "secret" not in str(error.value)


def test_who_asks_each_second_whether_anything_was_written_costs_the_database_one_statement(
    store: ControlStore,
) -> None:
    if store.url.startswith("sqlite"):
        pytest.skip("its connections are files")
    assert transactions(store, 40) - transactions(store, 20) == 20  # beside what a new connection asks


def transactions(store: ControlStore, heads: int) -> int:
    """What a new connection and so many looks at the head cost the database: a session tells of it when it ends."""
    server, _, name = store.url.rpartition("/")
    count = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s"
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:

        def so_far() -> int:
            store.close()
            while connection.execute(sessions, [name]).fetchone() != (0,):
                time.sleep(0.01)
            row = connection.execute(count, [name]).fetchone()
            assert row is not None
            return int(row[0])

        before = so_far()
        for _ in range(heads):
            store.head()
        return so_far() - before


def test_of_two_corrections_the_later_one_holds_whatever_the_nodes_clocks_show(
    store: ControlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store.url.startswith("sqlite"):
        pytest.skip("all who use it are one machine")
    settings, request_id = Settings(state=str(tmp_path), data=str(tmp_path)), str(uuid6.uuid7())
    nodes = []
    for ahead_s in (600.0, 0.0, -600.0):
        with monkeypatch.context() as patched:
            real = time.time
            patched.setattr(time, "time", lambda real=real, ahead_s=ahead_s: real() + ahead_s)
            clock = DatabaseClock(store)
            clock.look()
            nodes.append(LabelWriter(settings, "flights", clock=clock))
    for node, label in zip(nodes, (False, False, True), strict=True):
        node.append([Label(label, request_id=request_id)])
    for node in nodes:
        node.close()
    about = pl.DataFrame({"request_id": [request_id], "row": [0]}, schema_overrides={"row": pl.Int32})
    said = Labels(Artifacts(settings.artifacts), "flights").of(about)
    assert said.height == 3
    assert join_labels(about, said)["label"].to_list() == [True]
    assert (said["received_at"].max() - said["received_at"].min()).total_seconds() < 60  # type: ignore[operator]


def test_the_clock_that_all_share_never_stands_still(store: ControlStore) -> None:
    clock = DatabaseClock(store)
    clock.look()
    shown = [clock() for _ in range(1000)]
    assert sorted({int(one * 1e6) for one in shown}) == [int(one * 1e6) for one in shown]
    with store.reading() as connection:
        assert abs(database_now(connection).timestamp() - clock()) < 1


def test_what_is_unmoved_is_no_younger_than_it_was_however_long_its_report_waits(store: ControlStore) -> None:
    report(store, "flights", Replica("a", "node", 1))
    with ThreadPoolExecutor() as threads:
        with store.reporting() as connection:
            connection.execute(update(replicas).where(replicas.c.id == "a").values(node="held"))
            unmoved, looked_at = Unmoved("disk", 3.0), datetime.now(UTC)
            waiting = threads.submit(report, store, "flights", Replica("a", "node", 1, unmoved=unmoved))
            time.sleep(1.0)
        waiting.result()
    (said,) = heard(store, "flights").replicas
    assert said.seen_at is not None
    since, answered = said.seen_at - timedelta(seconds=said.unmoved.seconds), looked_at - timedelta(seconds=3)
    assert answered - timedelta(seconds=0.5) < since <= answered
