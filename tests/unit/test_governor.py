"""The governor: each retraining exactly once, whoever dies when; each decision in the log, and none of them twice."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, load_settings
from mlops_ray.cost.history import attempt_at
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.alarms import raise_alarm, resolve_alarm, silence_alarm, worsen_alarm
from mlops_ray.governance.approvals import approve, list_approvals, reject
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import SYSTEM, Actor, Event, read_events
from mlops_ray.governance.live import VersionRef, live
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import set_policy
from mlops_ray.governance.rollback import roll_back
from mlops_ray.governance.rollouts import start_rollout
from mlops_ray.governance.usage import Part, month_of, now, write_usage
from mlops_ray.governance.versions import Evidence, record_version
from mlops_ray.retraining.governor import ATTEMPTS, Governor
from mlops_ray.retraining.launcher import Order, Phase
from mlops_ray.retraining.policy import Outcome
from mlops_ray.retraining.result import RESULTS, Result
from mlops_ray.use_case import Approval, Column, Label, Retraining, Source, UseCase

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ANN = Actor("ann", ("approve",))
RETRAINING = Retraining(cool_down=DAY, max_per_week=7, margin=0.0)


class NoCandidate:
    name = "none"
    space: dict[str, Any] = {}  # noqa: RUF012

    def fit(self, *arguments: Any) -> Iterator[Any]:
        raise NotImplementedError


USE_CASE = UseCase(
    name="arrivals",
    sources={"trains": Source("*.csv", (Column("train", "text"), Column("time", "timestamp")))},
    entities=("train",),
    event_time="time",
    label=Label("late", pl.lit(True), pl.col("time")),
    candidates=(NoCandidate(),),
    approval=Approval(),
    retraining=RETRAINING,
)


class Cluster:
    """Where submissions run: it outlives governors, and refuses none that it has begun."""

    def __init__(self, settings: Settings):
        self.phases: dict[str, Phase] = {}
        self.orders: list[Order] = []
        self._settings = settings
        self._lock = threading.Lock()

    def phase(self, submission: str) -> Phase:
        return self.phases.get(submission, "new")

    def start(self, order: Order) -> None:
        with self._lock:
            if order.submission in self.phases:
                return
            self.phases[order.submission] = "running"
            self.orders.append(order)

    def stop(self, submission: str) -> None:
        self.phases[submission] = "ended"

    def use(self, cpu_s: float, attempt: str = "1") -> None:
        """An attempt at the last order has used it."""
        store = open_store(self._settings)
        part = Part(attempt_at(self.orders[-1].retraining, attempt), "step", "train", USE_CASE.name)
        write_usage(store, part, month_of(now(store)), {"cpu_s": cpu_s}, "running")
        store.close()

    def end(
        self, outcome: Outcome = "better", version: int | None = 2, result: bool = True, cpu_hours: float = 0.5
    ) -> None:
        """What runs ends; with a result, as `retrain` writes it."""
        order = self.orders[-1]
        if result:
            made = Result(order.retraining, order.as_of, outcome, "In words.", version, "d2", True, 1)
            artifacts = Artifacts(self._settings.artifacts)
            self.use(cpu_hours * 3600)
            artifacts.write_json(made.to_json(), RESULTS, USE_CASE.name, f"{order.retraining}.json")
        self.phases[order.submission] = "ended"


class Setting:
    def __init__(self, folder: Path, store: ControlStore):
        self.store = store
        self.settings = load_settings(state=str(folder), data=str(folder), control_store=store.url)
        self.cluster = Cluster(self.settings)
        self.wall = datetime.now(UTC)
        set_champion(store, SYSTEM, USE_CASE.name, VersionRef(1, "d1"), "the first")
        record_version(store, SYSTEM, USE_CASE.name, 2, Evidence("d2", "e2"))

    def governor(self, rows: int = 50_000, **changes: Any) -> Governor:
        policy = replace(RETRAINING, **changes)
        case = replace(USE_CASE, retraining=policy, approval=None if policy.promote else USE_CASE.approval)
        return Governor(case, self.settings, self.cluster, lambda since, until: rows, clock=lambda: self.wall)

    def alarm(self, id: str = "a", question: str = "concept", version: int = 1) -> None:
        title = f"{question} drift of version {version}"
        raise_alarm(self.store, USE_CASE.name, version, id, title, "warning", NOW, {"question": question})

    def events(self, *types: str) -> list[Event]:
        return read_events(self.store, use_case=USE_CASE.name, types=types)

    def causes(self) -> list[str]:
        return [event.payload["cause"] for event in self.events("retraining.decided")]


@pytest.fixture
def setting(tmp_path: Path, store: ControlStore) -> Setting:
    return Setting(tmp_path, store)


def test_sixteen_alarms_at_once_and_again_start_one_retraining(setting: Setting) -> None:
    barrier = threading.Barrier(16, timeout=60)

    def one(number: int) -> None:
        governor = setting.governor()
        barrier.wait()
        setting.alarm(f"alarm-{number}", ("data", "prediction", "concept")[number % 3])
        for _ in range(3):
            governor.round(NOW)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    setting.alarm("repeated")
    setting.governor().round(NOW)
    assert len(setting.cluster.orders) == 1
    assert setting.causes().count("alarm") == 1
    setting.cluster.end()
    for _ in range(3):
        setting.governor().round(NOW + timedelta(hours=1))
    assert len(setting.cluster.orders) == 1
    assert len(setting.events("retraining.finished")) == 1


def test_a_better_challenger_is_offered_and_not_promoted(setting: Setting) -> None:
    setting.alarm()
    governor = setting.governor()
    decision = governor.round(NOW)
    assert decision.action == "retrain"
    assert setting.cluster.orders[0].as_of == NOW
    setting.cluster.end("better")
    governor.round(NOW + DAY)
    (finished,) = setting.events("retraining.finished")
    assert (finished.subject, finished.payload["outcome"]) == ("arrivals@2", "better")
    (approval,) = list_approvals(setting.store)
    assert (approval.version, approval.state, approval.reason) == (2, "requested", "In words.")
    now = live(setting.store, USE_CASE.name)
    assert now.champion == VersionRef(1, "d1")
    assert now.rollout is None


def test_the_next_retraining_waits_while_a_challenger_waits_for_approval(setting: Setting) -> None:
    setting.alarm()
    setting.governor().round(NOW)
    setting.cluster.end("better")
    held = setting.governor().round(NOW + 10 * DAY)
    assert (held.action, held.cause, held.numbers["version"]) == ("wait", "offered", 2)
    assert len(setting.cluster.orders) == 1
    (approval,) = list_approvals(setting.store)
    reject(setting.store, ANN, USE_CASE.name, approval.version, "worse at night")
    assert setting.governor().round(NOW + 11 * DAY).action == "retrain"


def test_the_next_retraining_waits_until_an_approved_challenger_has_been_rolled_out(setting: Setting) -> None:
    setting.alarm()
    setting.governor().round(NOW)
    setting.cluster.end("better")
    setting.governor().round(NOW + 10 * DAY)
    approve(setting.store, ANN, USE_CASE.name, 2, "as agreed")
    assert setting.governor().round(NOW + 11 * DAY).cause == "offered"
    start_rollout(setting.store, SYSTEM, USE_CASE.name, VersionRef(2, "d2"))
    assert setting.governor().round(NOW + 12 * DAY).cause == "offered"
    revision = live(setting.store, USE_CASE.name).revision
    roll_back(setting.store, SYSTEM, USE_CASE.name, revision, 1, "worse at night")
    assert setting.governor().round(NOW + 13 * DAY).action == "retrain"


def test_the_next_retraining_waits_while_a_challenger_is_in_a_rollout(setting: Setting) -> None:
    setting.alarm()
    setting.governor(promote=True).round(NOW)
    setting.cluster.end("better")
    assert setting.governor(promote=True).round(NOW + 10 * DAY).cause == "offered"
    assert live(setting.store, USE_CASE.name).rollout is not None


def test_one_that_is_not_worse_is_offered_where_that_is_asked_but_never_promoted(setting: Setting) -> None:
    setting.alarm()
    governor = setting.governor(promote=True, margin=-0.005)
    governor.round(NOW)
    setting.cluster.end("not worse")
    governor.round(NOW)
    assert live(setting.store, USE_CASE.name).rollout is None
    assert [one.version for one in list_approvals(setting.store)] == [2]


def test_a_dear_retraining_of_long_ago_holds_nothing_back(setting: Setting) -> None:
    setting.alarm()
    setting.governor().round(NOW)
    setting.cluster.end("worse", cpu_hours=12.1)
    setting.governor().round(NOW)
    assert setting.governor().round(NOW + 3 * DAY).cause == "weekly hours"
    assert setting.governor().round(NOW + 365 * DAY).action == "retrain"


@pytest.mark.parametrize("outcome", ["not worse", "worse", "undecided", "failed"])
def test_what_is_not_better_is_not_offered(setting: Setting, outcome: Outcome) -> None:
    setting.alarm()
    setting.governor(promote=True).round(NOW)
    setting.cluster.end(outcome)
    setting.governor(promote=True).round(NOW)
    assert list_approvals(setting.store) == []
    assert live(setting.store, USE_CASE.name).rollout is None


def test_an_automatic_rollout_keeps_to_the_floor_of_its_use_case(setting: Setting) -> None:
    floor = Policy(min_rollout_steps=6, min_rollout_s=86_400.0, max_error_rate=0.001)
    set_policy(setting.store, Actor("ann", ("operate",)), USE_CASE.name, floor)
    setting.alarm()
    setting.governor(promote=True).round(NOW)
    setting.cluster.end("better")
    setting.governor(promote=True).round(NOW)
    rollout = live(setting.store, USE_CASE.name).rollout
    assert rollout
    assert (rollout.version.version, rollout.plan) == (2, floor.default_plan())
    assert len(rollout.plan.steps) == 6


def test_challengers_that_lose_stop_it_until_the_champion_changes(setting: Setting) -> None:
    setting.alarm()
    for day in (0, 2, 6):
        assert setting.governor().round(NOW + day * DAY).action == "retrain"
        setting.cluster.end("not worse")
        setting.governor().round(NOW + day * DAY)
    stopped = setting.governor().round(NOW + 10 * DAY)
    assert (stopped.action, stopped.cause) == ("stop", "losses")
    assert setting.events("retraining.decided")[-1].severity == "warning"
    set_champion(setting.store, SYSTEM, USE_CASE.name, VersionRef(2, "d2"), "by a person")
    assert setting.governor().round(NOW + 10 * DAY).cause == "calm", "the alarm was about version 1"
    setting.alarm("b", version=2)
    assert setting.governor().round(NOW + 10 * DAY).action == "retrain"


def test_waiting_is_recorded_when_its_cause_changes_and_not_each_round(setting: Setting) -> None:
    for rows in (10, 20, 30):
        assert setting.governor(rows).round(NOW).cause == "calm"
    setting.alarm()
    for rows in (10, 20, 30):
        assert setting.governor(rows).round(NOW).cause == "few rows"
    resolve_alarm(setting.store, USE_CASE.name, "a", "over", {})
    setting.governor().round(NOW)
    assert setting.causes() == ["calm", "few rows", "calm"]
    assert "10 labels" in setting.events("retraining.decided")[1].reason


def test_the_schedule_knows_that_the_champion_was_trained_by_hand_since(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = SimpleNamespace(as_of=(NOW - timedelta(days=40)).isoformat())
    monkeypatch.setattr("mlops_ray.retraining.governor.champion_lineage", lambda *_: champion)
    governor = setting.governor(alarms=(), every=timedelta(days=30), cool_down=timedelta(0))
    assert governor.round(NOW).cause == "schedule"
    setting.cluster.end("worse")
    governor.round(NOW)
    champion.as_of = (NOW + timedelta(days=29)).isoformat()
    assert governor.round(NOW + timedelta(days=30)).cause == "calm"
    assert governor.round(NOW + timedelta(days=59)).cause == "schedule"


def test_an_alarm_that_was_information_is_heard_once_it_is_worse(setting: Setting) -> None:
    raise_alarm(setting.store, "arrivals", 1, "a", "A little drift", "info", NOW, {"question": "concept"})
    assert setting.governor().round(NOW).cause == "calm"
    change = {"question": "concept", "window": {}, "change": {"id": "c"}}
    worsen_alarm(setting.store, "arrivals", 1, "a", "Labels no longer follow the answers", "critical", change)
    decision = setting.governor().round(NOW)
    assert (decision.action, decision.cause) == ("retrain", "alarm")
    assert "Labels no longer follow the answers" in decision.reason


def test_a_silenced_alarm_is_not_heard_until_the_silence_ends(setting: Setting) -> None:
    setting.alarm()
    now = datetime.now(UTC)
    silence_alarm(setting.store, SYSTEM, USE_CASE.name, "a", "a strike", now + DAY, now)
    assert setting.governor().round(now).cause == "calm"
    assert setting.governor().round(now + 2 * DAY).action == "retrain"


def test_one_that_dies_without_a_result_is_started_again_and_then_given_up(setting: Setting) -> None:
    setting.alarm()
    for attempt in range(1, ATTEMPTS + 1):
        setting.governor().round(NOW)
        assert len(setting.cluster.orders) == attempt
        setting.cluster.use(1800, f"attempt-{attempt}")
        setting.cluster.end(result=False)
    setting.governor().round(NOW)
    (finished,) = setting.events("retraining.finished")
    assert finished.payload["cpu_hours"] == ATTEMPTS / 2, "what dead attempts used is paid for"
    assert finished.payload["outcome"] == "failed"
    assert finished.severity == "warning"
    assert len({order.retraining for order in setting.cluster.orders}) == 1


def test_one_that_never_ends_is_stopped_and_has_failed(setting: Setting) -> None:
    setting.alarm()
    setting.governor().round(NOW)
    (order,) = setting.cluster.orders
    setting.wall += RETRAINING.time_limit - timedelta(minutes=5)
    setting.governor().round(NOW + 30 * DAY)  # simulated time may run faster than the limit's
    assert setting.cluster.phases[order.submission] == "running"
    setting.wall += timedelta(minutes=10)
    for attempt, used_s in enumerate((3600.0, 7200.0)):
        setting.cluster.use(used_s, f"host-{attempt}")
    setting.governor().round(NOW)
    assert setting.cluster.phases[order.submission] == "ended"
    (finished,) = setting.events("retraining.finished")
    assert finished.payload["outcome"] == "failed"
    assert "12.1 hours (limit 12)" in finished.reason
    assert finished.payload["cpu_hours"] == 3, "what its processes used, not how long it took"
    assert setting.causes()[-1] == "cool-down"
    assert setting.cluster.orders == [order]


def test_a_governor_that_died_after_it_stopped_one_starts_it_no_more(setting: Setting) -> None:
    setting.alarm()
    setting.governor().round(NOW)
    setting.wall += 2 * RETRAINING.time_limit
    setting.cluster.stop(setting.cluster.orders[0].submission)
    setting.governor().round(NOW)
    assert len(setting.cluster.orders) == 1
    assert [event.payload["outcome"] for event in setting.events("retraining.finished")] == ["failed"]


def test_a_result_that_came_late_counts(setting: Setting) -> None:
    setting.alarm()
    setting.governor().round(NOW)
    setting.cluster.end()
    setting.wall += 2 * RETRAINING.time_limit
    setting.governor().round(NOW)
    assert [event.payload["outcome"] for event in setting.events("retraining.finished")] == ["better"]


def test_it_governs_nothing_that_does_not_want_it(setting: Setting) -> None:
    with pytest.raises(ConfigurationError, match="declares no retraining"):
        Governor(replace(USE_CASE, retraining=None), setting.settings, setting.cluster, lambda since, until: 0)
