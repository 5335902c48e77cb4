"""Each due run once, over two years of changed clocks, whoever dies at whichever statement of the control store."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from mlops_ray.governance import schedule_runs
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.schedule_runs import runs
from mlops_ray.operations import scheduler as scheduler_module
from mlops_ray.operations.scheduler import Scheduler
from tests.unit.test_schedule import END, START, ZONES
from tests.unit.test_scheduler import DAY, HOUR, NIGHTLY, Cluster, declare, due, opened, two_at_once


class KilledError(BaseException):
    """As SIGKILL: nothing may catch it."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An empty control store."""
    file = tmp_path_factory.mktemp("store") / "store.db"
    store = ControlStore(f"sqlite:///{file}")
    store.migrate()
    store.close()
    return file.read_bytes()


@pytest.fixture(autouse=True)
def _lease_of_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is over at once: nothing may rest on the lease alone."""
    monkeypatch.setattr(scheduler_module, "HELD_FOR", timedelta(0))


@contextmanager
def killed(store: ControlStore, at: int) -> Iterator[list[int]]:
    """Whoever uses the store dies before its statement number `at`, or, of the same number, after its commit."""
    passed = [0]

    def pass_one(*_: Any, **__: Any) -> None:
        passed[0] += 1
        if passed[0] == at:
            raise KilledError

    engines = store._engine, store._reports
    for engine in engines:
        event.listen(engine, "before_cursor_execute", pass_one)
    plain = store.transaction

    @contextmanager
    def transaction() -> Iterator[Any]:
        with plain() as connection:
            yield connection
        pass_one()

    store.transaction = transaction  # type: ignore[method-assign]
    try:
        with suppress(KilledError):
            yield passed
    finally:
        del store.transaction
        for engine in engines:
            event.remove(engine, "before_cursor_execute", pass_one)


def test_two_years_in_three_zones_with_a_killed_scheduler_each_day(tmp_path: Path, template: bytes) -> None:
    with opened(tmp_path / "store.db", template) as store:
        two_years(store)


def two_years(store: ControlStore) -> None:
    expected = {}
    for zone in ZONES:
        for operation, cron, catch_up in (("features", "30 2 * * SUN", True), ("audit", "15 */8 * * SAT,SUN", False)):
            name = f"{zone.split('/')[1].lower()}_{operation}"
            declare(store, START, name, operation, cron, zone, catch_up)
            expected[name, operation] = due(cron, zone, START, END)
    cluster, now, chance = Cluster(store), START, random.Random(1)
    for day in range(10_000):
        with killed(store, at=2 + day % 89):
            Scheduler(store, cluster).round(now)
        cluster.work_off()
        if now == END and day % 89 > 80 and not schedule_runs.running(store):
            break
        now = min(END, now + chance.choice([HOUR, DAY, 3 * DAY, 7 * DAY, 20 * DAY]))
        for _ in range(2):  # a schedule has one run at a time
            Scheduler(store, cluster).round(now)
            cluster.work_off()
    assert now == END
    for _ in range(80):
        Scheduler(store, cluster).round(now)
        cluster.work_off()
    counts = Counter(cluster.done)
    assert set(counts.values()) == {1}
    for (name, operation), moments in expected.items():
        found = runs(store, name, operation, limit=10_000)
        assert [run.due_at for run in found] == moments
        assert {run.due_at for run in found if run.state == "succeeded"} == {
            due for one, _, due in counts if one == name
        }
        skipped = [run for run in found if run.state == "skipped"]
        assert len(skipped) + sum(run.state == "succeeded" for run in found) == len(found)
        assert bool(skipped) == (operation == "audit")


def test_of_two_schedulers_at_once_each_due_run_is_started_once(store: ControlStore) -> None:
    store.migrate()
    two_at_once(store)


def three_days(file: Path, template: bytes, at: int, kill: Callable[[Cluster, datetime], None]) -> tuple[int, Cluster]:
    """Over a change of the clocks: the scheduler looks, runs end, with a death at statement `at`."""
    start, end = datetime(2024, 3, 29, 12, tzinfo=UTC), datetime(2024, 4, 1, 12, tzinfo=UTC)
    with opened(file, template) as store:
        declare(store, start)
        cluster = Cluster(store)
        with killed(store, at) as passed:
            kill(cluster, end)
        for _ in range(8):
            Scheduler(store, cluster).round(end)
            cluster.work_off()
        found = runs(store, "flights")
        assert [run.due_at for run in found] == due(NIGHTLY, "Europe/Berlin", start, end), at
        assert [run.due_at.hour for run in found] == [1, 1, 0], at  # 02:30, 03:00 as 02:30 is left out, 02:30
        assert {run.state for run in found} == {"succeeded"}, at
        return passed[0], cluster


def test_a_scheduler_killed_at_each_statement_starts_each_due_run_once(tmp_path: Path, template: bytes) -> None:
    def rounds(cluster: Cluster, end: datetime) -> None:
        for _ in range(3):
            Scheduler(cluster.store, cluster).round(end)
            orders, cluster.phases = cluster.orders, dict(cluster.phases)
            for order in orders:
                found = schedule_runs.at(cluster.store, "flights", "features", order.run.due_at)
                if found[0].state == "running":
                    cluster.done.append(("flights", "features", order.run.due_at))
                    schedule_runs.end(cluster.store, order.run, True, "")
                    cluster.phases[order.run.submission] = "ended"

    at, passed = 0, 1
    while passed >= at:
        at += 1
        passed, cluster = three_days(tmp_path / f"{at}.db", template, at, rounds)
        assert len(cluster.orders) == 3, at
    assert at > 30


def test_a_run_killed_at_each_statement_is_begun_again_and_no_other_is(tmp_path: Path, template: bytes) -> None:
    def rounds(cluster: Cluster, end: datetime) -> None:
        for _ in range(3):
            Scheduler(cluster.store, cluster).round(end)
            cluster.work_off()

    at, passed = 0, 1
    while passed >= at:
        at += 1
        passed, cluster = three_days(tmp_path / f"{at}.db", template, at, rounds)
        assert sum(Counter(cluster.done).values()) <= 3 + 1, at
        assert len(cluster.orders) <= 3 + 1, at
    assert at > 40
