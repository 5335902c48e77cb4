"""Schedules carried out: each due run once, also by two at once; paused, made up for, by hand."""

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, update

from mlops_ray.errors import ConflictError
from mlops_ray.governance import schedule_runs, schedules, tables
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, Actor, read_events
from mlops_ray.governance.leases import hold, release
from mlops_ray.governance.schedule_runs import MOST, Run, runs
from mlops_ray.governance.schedules import Declared, Wanted
from mlops_ray.operations import carry_out as carry_out_module
from mlops_ray.operations import scheduler as scheduler_module
from mlops_ray.operations.carry_out import Work, arguments, carry_out
from mlops_ray.operations.due import SUPERSEDED, decide, due_before
from mlops_ray.operations.scheduler import RunOrder, Scheduler
from mlops_ray.retraining.launcher import Phase
from mlops_ray.use_case import OPERATIONS
from mlops_ray.use_case.schedule import due_moments
from tests.unit.test_schedule import MINUTE, START

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
WORK = Work("flights", "/repo", "/state", "/data", None, None)
NIGHTLY = "30 2 * * *"


class Cluster:
    """Where submissions run: it outlives schedulers, and refuses none that it has begun."""

    def __init__(self, store: ControlStore):
        self.store, self.phases = store, dict[str, Phase]()
        self.orders: list[RunOrder] = []
        self.done: list[tuple[str, str, datetime]] = []
        self._lock = threading.Lock()

    def phase(self, submission: str) -> Phase:
        return self.phases.get(submission, "new")

    def start(self, order: RunOrder) -> None:
        with self._lock:
            if order.run.submission not in self.phases:
                self.phases[order.run.submission] = "running"
                self.orders.append(order)

    def work_off(self, code: int = 0) -> None:
        """Let what runs come to its end."""
        for order in self.orders:
            run = order.run
            if self.phases[run.submission] == "running":
                self.phases[run.submission] = "ended"  # also where it dies
                carry_out(self.store, run, WORK, partial(self._note, run, code), wait=False)

    def _note(self, run: Run, code: int, _: Sequence[str]) -> tuple[int, str]:
        self.done.append((run.use_case, run.operation, run.due_at))
        return code, "it said so"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An empty control store."""
    file = tmp_path_factory.mktemp("store") / "store.db"
    store = ControlStore(f"sqlite:///{file}")
    store.migrate()
    store.close()
    return file.read_bytes()


@pytest.fixture
def store(tmp_path: Path, template: bytes) -> Iterator[ControlStore]:
    with opened(tmp_path / "store.db", template) as store:
        yield store


@dataclass
class Clock:
    """Of the database, for schedules and their runs; leases have the real one."""

    now: datetime


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(START)
    for module in (schedules, schedule_runs):
        monkeypatch.setattr(module, "database_now", lambda _: clock.now)
    return clock


@contextmanager
def opened(file: Path, template: bytes) -> Iterator[ControlStore]:
    file.write_bytes(template)
    store = ControlStore(f"sqlite:///{file}")
    yield store
    store.close()


@pytest.fixture(autouse=True)
def _lease_of_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is over at once: nothing may rest on the lease alone."""
    monkeypatch.setattr(scheduler_module, "HELD_FOR", timedelta(0))


def declare(
    store: ControlStore,
    since: datetime,
    use_case: str = "flights",
    operation: str = "features",
    cron: str = NIGHTLY,
    zone: str = "Europe/Berlin",
    catch_up: bool = True,
) -> None:
    schedules.declare(store, SYSTEM, use_case, "flights", "/repo", (Wanted(operation, cron, zone, catch_up),))
    with store.transaction() as connection:
        this = tables.schedules.c.use_case == use_case
        connection.execute(update(tables.schedules).where(this), {"decided_until": since})


def due(cron: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    return list(takewhile(lambda moment: moment <= end, due_moments(cron, zone, start)))


def test_of_two_schedulers_at_once_each_due_run_is_started_once(store: ControlStore) -> None:
    two_at_once(store)


def two_at_once(store: ControlStore) -> None:
    end = START + 20 * DAY
    declare(store, START)
    cluster = Cluster(store)

    def follow() -> None:
        own = Scheduler(store, cluster)
        for _ in range(30):
            own.round(end)

    for _ in range(20):
        threads = [threading.Thread(target=follow) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cluster.work_off()
    assert len(cluster.done) == len(set(cluster.done)) == len(cluster.orders) == 20


def test_a_second_scheduler_waits_for_the_lease(store: ControlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_module, "HELD_FOR", timedelta(minutes=1))
    first, second = Scheduler(store, Cluster(store)), Scheduler(store, Cluster(store))
    assert [first.round(), second.round(), first.round()] == [True, False, True]
    first.leave()
    assert second.round()


def test_a_run_that_dies_three_times_has_failed_and_is_told(store: ControlStore) -> None:
    declare(store, START)
    cluster = Cluster(store)
    for _ in range(10):
        Scheduler(store, cluster).round(START + DAY)
        cluster.phases = dict.fromkeys(cluster.phases, "ended")
    (run,) = runs(store, "flights")
    assert (run.state, run.attempt, len(cluster.orders)) == ("failed", 3, 3)
    (told,) = read_events(store, types=[schedule_runs.FAILED])
    assert told.severity == "warning"
    assert "died 3 times" in told.reason


def test_a_run_that_failed_is_told_and_not_repeated(store: ControlStore) -> None:
    declare(store, START)
    cluster = Cluster(store)
    for _ in range(3):
        Scheduler(store, cluster).round(START + DAY)
        cluster.work_off(code=1)
    assert [(run.state, run.detail) for run in runs(store, "flights")] == [("failed", "it said so")]
    assert len(read_events(store, types=[schedule_runs.FAILED])) == len(cluster.done) == 1


@pytest.mark.parametrize("looks_meanwhile", [True, False])
def test_what_falls_due_while_it_is_paused_is_skipped_whenever_somebody_looks(
    store: ControlStore, clock: Clock, looks_meanwhile: bool
) -> None:
    declare(store, START)
    cluster = Cluster(store)
    clock.now = START + 1.5 * DAY  # nobody had looked until then
    schedules.pause(store, SYSTEM, "flights", "features", "the source is being mended")
    clock.now = START + 3.5 * DAY
    if looks_meanwhile:
        Scheduler(store, cluster).round()
    schedule_runs.resume(store, SYSTEM, "flights", "features", "it is mended", decide)
    assert [run.state for run in runs(store, "flights")] == ["waiting", "waiting", "skipped", "skipped"]
    clock.now = START + 4.5 * DAY
    for _ in range(3):
        Scheduler(store, cluster).round()
        cluster.work_off()
    assert [run.state for run in runs(store, "flights")] == ["succeeded"] * 2 + ["skipped"] * 2 + ["succeeded"]
    assert [told.reason for told in read_events(store, types=[schedules.CHANGED])][1:] == [
        "the source is being mended",
        "it is mended",
    ]


@pytest.mark.parametrize("cause", ["schedule", "backfill"])
@pytest.mark.parametrize("phase", ["new", "ended"])
def test_a_pause_holds_what_had_not_begun_or_dies_in_it_until_resume(
    store: ControlStore, clock: Clock, phase: Phase, cause: str
) -> None:
    declare(store, START)
    if cause == "backfill":
        schedule_runs.backfill(store, SYSTEM, "flights", "features", [START - DAY], "needed")
    else:
        clock.now = START + DAY
    cluster = Cluster(store)
    Scheduler(store, cluster).round()
    (order,) = cluster.orders
    assert order.run.cause == cause
    schedules.pause(store, SYSTEM, "flights", "features", "it kills the node")
    for _ in range(4):
        cluster.phases = {} if phase == "new" else dict.fromkeys(cluster.phases, phase)
        Scheduler(store, cluster).round()
    assert cluster.orders == [order]
    schedule_runs.resume(store, SYSTEM, "flights", "features", "it is mended", decide)
    for _ in range(2):
        Scheduler(store, cluster).round()
        cluster.work_off()
    assert [run.state for run in runs(store, "flights")] == ["succeeded"]


def test_a_pause_in_the_midst_of_a_round_counts(store: ControlStore, clock: Clock) -> None:
    class Slow(Cluster):
        def phase(self, submission: str) -> Phase:
            if not self.orders:
                schedules.pause(store, SYSTEM, "flights", "features", "it kills the node")
            return super().phase(submission)

    declare(store, START)
    clock.now, cluster = START + DAY, Slow(store)
    Scheduler(store, cluster).round()
    assert cluster.orders == []


def test_what_is_made_up_for_is_not_skipped_by_a_pause(store: ControlStore, clock: Clock) -> None:
    declare(store, START)
    clock.now = START + DAY
    schedules.pause(store, SYSTEM, "flights", "features", "x")
    moments = due(NIGHTLY, "Europe/Berlin", START + DAY, START + 2 * DAY)
    schedule_runs.backfill(store, SYSTEM, "flights", "features", moments, "needed")
    clock.now = START + 3 * DAY
    Scheduler(store, Cluster(store)).round()
    assert [(run.state, run.cause) for run in runs(store, "flights")] == [
        ("waiting", "schedule"),
        ("waiting", "backfill"),
        ("skipped", "schedule"),
    ]


def test_a_pause_is_of_who_was_first_and_outlives_a_schedule_that_is_gone_for_a_while(
    store: ControlStore, clock: Clock
) -> None:
    declare(store, START)
    assert schedules.pause(store, Actor("anna", ()), "flights", "features", "broken") is None
    clock.now += HOUR
    earlier = schedules.pause(store, Actor("ben", ()), "flights", "features", "an audit")
    assert earlier is not None
    assert (earlier.actor, earlier.reason) == ("anna", "broken")
    assert [told.reason for told in read_events(store, types=[schedules.CHANGED])][1:] == ["broken", "an audit"]
    (before,) = schedules.list_schedules(store)
    assert before.paused_at == clock.now - HOUR
    schedules.remove(store, SYSTEM, "flights", None, "x")
    assert schedules.list_schedules(store) == []
    declare(store, START)
    (again,) = schedules.list_schedules(store)
    assert again.paused_at is not None
    schedule_runs.resume(store, SYSTEM, "flights", "features", "it is mended", decide)
    schedules.remove(store, SYSTEM, "flights", "features", "x")
    declare(store, START)
    (resumed,) = schedules.list_schedules(store)
    assert resumed.paused_at is None


def test_what_waits_by_its_schedule_and_is_asked_for_is_not_skipped(store: ControlStore) -> None:
    declare(store, START, catch_up=False)
    cluster = Cluster(store)
    for day in (1, 2):  # the first runs on
        Scheduler(store, cluster).round(START + day * DAY)
    waits = runs(store, "flights")[-1].due_at
    assert schedule_runs.backfill(store, SYSTEM, "flights", "features", [waits], "needed") == [waits]
    Scheduler(store, cluster).round(START + 3 * DAY)
    assert [run.state for run in runs(store, "flights")] == ["running", "waiting", "waiting"]


def test_a_backfill_that_was_a_mistake_is_taken_back(store: ControlStore) -> None:
    declare(store, START, catch_up=False)
    cluster = Cluster(store)
    moments = due(NIGHTLY, "Europe/Berlin", START - 20 * 365 * DAY, START)
    assert schedule_runs.backfill(store, SYSTEM, "flights", "features", moments, "2004 for 2024") == moments
    Scheduler(store, cluster).round(START)
    cluster.work_off()
    left = schedule_runs.cancel_backfill(store, SYSTEM, "flights", "features", moments[0], START, "mistyped")
    assert left == len(moments) - 1
    Scheduler(store, cluster).round(START)
    assert Counter(run.state for run in runs(store, "flights", limit=10_000)) == {"succeeded": 1, "skipped": left}
    assert len(cluster.orders) == 1


def test_a_run_by_hand_whose_process_is_killed_is_run_where_it_is_due_and_has_failed_elsewhere(
    store: ControlStore, clock: Clock
) -> None:
    declare(store, START)
    cluster = Cluster(store)
    (moment,) = due(NIGHTLY, "Europe/Berlin", START, START + DAY)
    clock.now = START + DAY
    for at in (moment, moment + HOUR, moment + 2 * HOUR):
        schedule_runs.begin(store, schedule_runs.ask(store, "flights", "features", at))
    alive = runs(store, "flights")[-1]
    clock.now += timedelta(minutes=2)
    assert not hold(store, alive.lease, "a process", timedelta(minutes=1))
    Scheduler(store, cluster).round()
    assert cluster.orders == []  # one at a time
    schedule_runs.end(store, alive, True, "")
    for _ in range(2):
        Scheduler(store, cluster).round()
        cluster.work_off()
    assert [(run.state, run.cause) for run in runs(store, "flights")] == [
        ("succeeded", "schedule"),
        ("failed", "by hand"),
        ("succeeded", "by hand"),
    ]
    assert runs(store, "flights")[1].detail == "Its process died without a word."


def test_a_run_that_nobody_had_begun_when_its_schedule_went_is_skipped(store: ControlStore) -> None:
    declare(store, START)
    schedule_runs.decide_next(store, "flights", "features", decide, START + DAY)
    schedules.remove(store, SYSTEM, "flights", None, "renamed")
    Scheduler(store, Cluster(store)).round(START + DAY)
    (run,) = runs(store, "flights")
    assert (run.state, run.detail) == ("skipped", schedules.GONE)


def test_a_run_by_hand_that_is_interrupted_has_failed(store: ControlStore) -> None:
    def interrupted(_: Sequence[str]) -> tuple[int, str]:
        raise KeyboardInterrupt

    asked = schedule_runs.ask(store, "flights", "features", START)
    with pytest.raises(KeyboardInterrupt):
        carry_out(store, asked, WORK, interrupted, wait=False)
    (run,) = runs(store, "flights")
    assert (run.state, run.detail) == ("failed", "It was interrupted.")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_command_does_not_outlive_who_carries_it_out(tmp_path: Path, number: signal.Signals) -> None:
    code = """
import sys
from datetime import timedelta
from mlops_ray.operations import carry_out
carry_out.MAIN = ("/bin/sh", "-c", f"echo $$ > {sys.argv[1]}.new; mv {sys.argv[1]}.new {sys.argv[1]}; exec sleep 60")
carry_out.execute({}, timedelta(days=1), [])
"""
    file = tmp_path / "pid"
    carrier = subprocess.Popen([sys.executable, "-c", code, str(file)], stderr=subprocess.DEVNULL)
    while not file.exists():
        assert carrier.poll() is None
        time.sleep(0.05)
    carrier.send_signal(number)
    carrier.wait(30)
    _wait_for_end_of(int(file.read_text()))


def _wait_for_end_of(pid: int) -> None:
    until = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and "zombie" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_command_that_is_killed_says_by_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carry_out_module, "MAIN", ("/bin/sh", "-c"))
    code, said = carry_out_module.execute({}, DAY, ["echo 'Started a local Ray' >&2; kill -9 $$"])
    assert (code, said) == (-9, "It was ended by SIGKILL. It said last: Started a local Ray")


def test_a_backfill_makes_up_for_what_has_not_succeeded(store: ControlStore) -> None:
    declare(store, START, catch_up=False)
    cluster = Cluster(store)
    Scheduler(store, cluster).round(START + 3 * DAY)
    cluster.work_off()
    assert [run.state for run in runs(store, "flights")] == ["skipped", "skipped", "succeeded"]
    moments = due(NIGHTLY, "Europe/Berlin", START - 2 * DAY, START + 3 * DAY)
    asked = schedule_runs.backfill(store, SYSTEM, "flights", "features", moments, "new columns")
    assert asked == moments[:-1]
    assert schedule_runs.backfill(store, SYSTEM, "flights", "features", moments, "again") == []
    for day in (3, 4, 4, 4, 4, 4):
        Scheduler(store, cluster).round(START + day * DAY)
        cluster.work_off()
    assert [run.state for run in runs(store, "flights")] == ["succeeded"] * 6
    # The oldest first, but what falls due meanwhile does not wait behind it.
    done = [moment for *_, moment in cluster.done]
    assert done[1:] == [moments[0], done[-1] if done[-1] > moments[-1] else done[2], *moments[1:4]]


def test_a_month_of_minutes_is_made_up_for(store: ControlStore) -> None:
    """More moments than a statement takes values."""
    declare(store, START, cron="* * * * *")
    moments = [START - timedelta(minutes=number) for number in range(40_000, 0, -1)]
    assert schedule_runs.backfill(store, SYSTEM, "flights", "features", moments, "needed") == moments
    assert schedule_runs.backfill(store, SYSTEM, "flights", "features", moments, "once more") == []


def test_a_run_by_hand_counts_for_the_schedule(store: ControlStore) -> None:
    declare(store, START)
    cluster = Cluster(store)
    (moment,) = due(NIGHTLY, "Europe/Berlin", START, START + DAY)
    done: list[Sequence[str]] = []

    def execute(command: Sequence[str]) -> tuple[int, str]:
        done.append(command)
        return 0, ""

    for _ in range(2):
        asked = schedule_runs.ask(store, "flights", "features", moment)
        if asked.state != "succeeded":
            carry_out(store, asked, WORK, execute, wait=False)
    Scheduler(store, cluster).round(START + DAY)
    assert len(done) == 1
    assert cluster.orders == []
    assert [(run.state, run.cause) for run in runs(store, "flights")] == [("succeeded", "by hand")]


def test_a_run_that_another_process_carries_out_is_not_begun_beside_it(store: ControlStore) -> None:
    asked = schedule_runs.ask(store, "flights", "features", START)
    assert not hold(store, f"schedule run {asked.name}", "another", timedelta(minutes=1))
    with pytest.raises(ConflictError):
        carry_out(store, asked, WORK, lambda _: pytest.fail("begun"), wait=False)
    schedule_runs.end(store, asked, True, "")
    release(store, f"schedule run {asked.name}", "another")
    assert carry_out(store, asked, WORK, lambda _: pytest.fail("begun"), wait=False) is None


def test_a_schedule_that_is_declared_no_more_starts_nothing(store: ControlStore) -> None:
    declare(store, START)
    cluster = Cluster(store)
    Scheduler(store, cluster).round(START + 2 * DAY)
    schedules.declare(store, SYSTEM, "flights", "flights", "/repo", ())
    cluster.work_off()
    Scheduler(store, cluster).round(START + 4 * DAY)
    assert [run.state for run in runs(store, "flights")] == ["succeeded", "skipped"]
    assert len(cluster.orders) == 1


def test_years_of_being_down_are_decided_on_in_parts() -> None:
    declared = Declared("flights", "features", "* * * * *", "UTC", False, "", "", START)
    plan = decide(declared, (), START + 10 * HOUR, most=500)
    assert plan is not None
    assert (plan.decided_until, Counter(state for state, _ in plan.states.values())) == (
        START + timedelta(minutes=500),
        {"skipped": 499, "waiting": 1},
    )
    waiting = Run("flights", "features", plan.decided_until, "schedule", "waiting", 0, START)
    declared = Declared("flights", "features", "* * * * *", "UTC", False, "", "", plan.decided_until)
    rest = decide(declared, (waiting,), START + 10 * HOUR, most=500)
    assert rest is not None
    assert rest.states[waiting.due_at] == ("skipped", SUPERSEDED)
    assert rest.states[START + 10 * HOUR] == ("running", "")


def test_a_month_of_being_down_is_over_with_one_round(store: ControlStore) -> None:
    declare(store, START, cron="*/20 * * * *", catch_up=False)
    cluster = Cluster(store)
    Scheduler(store, cluster).round(START + 30 * DAY)
    found = runs(store, "flights", limit=10_000)
    assert Counter(run.state for run in found) == {"skipped": 30 * 72 - 1, "running": 1}
    assert [order.run.due_at for order in cluster.orders] == [START + 30 * DAY]


@contextmanager
def runs_written(store: ControlStore) -> Iterator[list[int]]:
    """So many rows of runs in each transaction."""
    transactions = [0]

    def count(_: Any, __: Any, statement: str, parameters: Any, ___: Any, is_many: bool) -> None:
        if statement.startswith("INSERT INTO schedule_runs"):
            transactions[-1] += len(parameters) if is_many else 1

    def committed(_: Any) -> None:
        transactions.append(0)

    listeners = {"before_cursor_execute": count, "commit": committed}
    for name, listener in listeners.items():
        event.listen(store._engine, name, listener)
    yield transactions
    for name, listener in listeners.items():
        event.remove(store._engine, name, listener)


@pytest.mark.parametrize("catch_up", [True, False])
def test_what_fell_due_in_days_that_nobody_looked_is_written_in_short_transactions(
    store: ControlStore, clock: Clock, catch_up: bool
) -> None:
    """A day before the pause and a day in it, of each minute."""
    declare(store, START, cron="* * * * *", catch_up=catch_up)
    clock.now = START + DAY
    schedules.pause(store, SYSTEM, "flights", "features", "x")
    clock.now = START + 2 * DAY
    with runs_written(store) as transactions:
        schedule_runs.resume(store, SYSTEM, "flights", "features", "x", decide)
        assert Counter(run.state for run in runs(store, "flights", limit=10_000)) == {"waiting": 1440, "skipped": 1440}
        cluster = Cluster(store)
        Scheduler(store, cluster).round()
    assert max(transactions) <= MOST
    (order,) = cluster.orders
    assert order.run.due_at == (START + MINUTE if catch_up else START + DAY)
    waiting = 1439 if catch_up else 0
    assert Counter(run.state for run in runs(store, "flights", limit=10_000)) == {
        "running": 1, "skipped": 2879 - waiting, **({"waiting": waiting} if waiting else {})
    }  # fmt: skip


def test_who_resumes_and_dies_in_it_has_skipped_nothing_twice_and_started_nothing(
    store: ControlStore, clock: Clock
) -> None:
    def dies(declared: Declared, open_runs: Sequence[Run], now: datetime) -> schedule_runs.Plan | None:
        if declared.decided_until > START + 12 * HOUR:
            raise KeyboardInterrupt
        return decide(declared, open_runs, now)

    declare(store, START, cron="* * * * *")
    schedules.pause(store, SYSTEM, "flights", "features", "x")
    clock.now = START + DAY
    with pytest.raises(KeyboardInterrupt):
        schedule_runs.resume(store, SYSTEM, "flights", "features", "x", dies)
    (left,) = schedules.list_schedules(store)
    assert left.decided_until > START + 12 * HOUR
    assert left.paused_at == START
    schedule_runs.resume(store, SYSTEM, "flights", "features", "x", decide)
    assert [run.due_at for run in runs(store, "flights", limit=10_000)] == due("* * * * *", "UTC", START, clock.now)
    assert {run.state for run in runs(store, "flights", limit=10_000)} == {"skipped"}


def test_of_thousands_that_wait_the_next_is_read(store: ControlStore) -> None:
    declare(store, START, cron="* * * * *")
    Scheduler(store, Cluster(store)).round(START + DAY)
    given = list[Run]()

    def look(declared: Declared, open_runs: Sequence[Run], now: datetime) -> schedule_runs.Plan | None:
        given.extend(open_runs)
        return None

    schedule_runs.decide_next(store, "flights", "features", look, START + DAY)
    assert [(run.due_at, run.state) for run in given] == [
        (START + MINUTE, "running"),
        (START + 2 * MINUTE, "waiting"),
    ]


def test_a_clock_that_is_put_back_decides_nothing_twice() -> None:
    declared = Declared("flights", "features", "* * * * *", "UTC", True, "", "", START)
    assert decide(declared, (), START - DAY) is None


def test_the_time_before_a_run_is_that_since_the_one_before() -> None:
    for cron, before in (("0 6 * * *", DAY), ("0 6 1 * *", 31 * DAY), ("0 6 1 1 *", 365 * DAY)):
        declared = Declared("flights", "parity", cron, "UTC", False, "", "", START)
        moment = datetime(2024, 1, 1, 6, tzinfo=UTC)
        assert due_before(declared, moment) == moment - before


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_is_a_command_that_there_is(operation: str) -> None:
    import typer.main

    from mlops_ray.cli.main import app

    run = Run("flights", operation, START, "schedule", "running", 1, START)
    words = arguments(run, WORK)
    command: Any = typer.main.get_command(app)
    context = command.make_context("mlops-ray", list(words), resilient_parsing=False)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.parse_args(typer.Context(command, parent=context), list(words))


def test_an_attempt_that_was_given_up_neither_begins_nor_ends_the_next(store: ControlStore) -> None:
    declare(store, START)
    cluster = Cluster(store)
    Scheduler(store, cluster).round(START + DAY)
    (first,) = runs(store, "flights")
    schedule_runs.died(store, first, may_start_again=True)
    schedule_runs.died(store, first, may_start_again=True)
    assert schedule_runs.begin(store, first) is None
    schedule_runs.end(store, first, False, "too late")
    (second,) = runs(store, "flights")
    assert (second.state, second.attempt) == ("running", 2)
    assert second.submission != first.submission
