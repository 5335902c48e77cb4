"""What a replica counts reaches the metrics, each answer once, while callers are answered."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops_ray.config import Prices, Settings, load_settings
from mlops_ray.cost.usage import Usage
from mlops_ray.errors import UnavailableError
from mlops_ray.governance.budgets import Budget, set_budget, take_budget_away
from mlops_ray.governance.channels import Channels
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, record
from mlops_ray.governance.notifications import pause, subscribe
from mlops_ray.governance.schedule_runs import begin, decide_next, running
from mlops_ray.governance.schedules import Wanted, declare
from mlops_ray.governance.usage import Part, keep_prices, month_of, write_usage
from mlops_ray.operations.backup.create import CREATED
from mlops_ray.operations.due import decide
from mlops_ray.predictions.collect import Lag
from mlops_ray.serving import metrics as module
from mlops_ray.serving import overdue as overdue_module
from mlops_ray.serving.counters import Counts
from mlops_ray.serving.metrics import Metrics
from mlops_ray.serving.overdue import GAUGES, Overdue, overdue


class _Series:
    """Stands for one of Ray's metrics: with no cluster there is nobody to ask for its value."""

    def __init__(self, name: str, *described: Any):
        self.name = name

    def set(self, value: float, tags: dict[str, str]) -> None: ...


def test_answers_that_are_given_while_metrics_are_published_are_in_the_next_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version, answers = Counts(), {200: Counts()}
    published = Counter[str]()

    def answered_meanwhile(counter: _Series, by: float, tags: dict[str, str]) -> None:
        published[counter.name] += int(by)
        if sum(published.values()) < 1_000:
            version.answered(0.001)
            answers[200].answered(0.001)

    monkeypatch.setattr(module, "Counter", _Series)
    monkeypatch.setattr(module, "Gauge", _Series)
    monkeypatch.setattr(module, "_increase", answered_meanwhile)
    metrics = Metrics("flights")
    version.answered(0.001)
    for _ in range(200):
        metrics.publish({("7", "champion"): version}, [], 0, Lag(0, 0, 0.0))
        metrics.publish_answers(answers)
    assert published["mlops_ray_requests_total"] == version.requests > 10
    assert published["mlops_ray_answers_total"] == answers[200].requests > 10


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(state=f"{tmp_path}/state", data=str(tmp_path), backups=f"{tmp_path}/kept")


@pytest.fixture
def put_on(monkeypatch: pytest.MonkeyPatch, store: ControlStore) -> Callable[[timedelta], None]:
    """Lets the metrics' clock run ahead of the store's."""
    real = overdue_module.now
    return lambda by: monkeypatch.setattr(overdue_module, "now", lambda store: real(store) + by)


def test_a_new_installation_is_behind_with_nothing(settings: Settings, store: ControlStore) -> None:
    found = overdue(settings, store)
    assert set(found.values()) == {0.0}
    assert ("backup_age_seconds", "") in found
    assert ("backup_age_seconds", "") not in overdue(settings.model_copy(update={"backups": ""}), store)


def test_runs_are_overdue_where_no_scheduler_looks_and_where_none_can_be_started(
    settings: Settings, store: ControlStore, put_on: Callable[[timedelta], None]
) -> None:
    declare(store, SYSTEM, "flights", "flights", "/r", (Wanted("features", "0 0 1 1 *", "UTC", False),))
    late = "schedule_overdue_seconds", "flights"
    assert overdue(settings, store)[late] == 0.0
    put_on(timedelta(days=366))
    new_year = datetime(overdue_module.now(store).year, 1, 1, tzinfo=UTC)
    behind = (overdue_module.now(store) - new_year).total_seconds()
    assert overdue(settings, store)[late] == pytest.approx(behind, abs=60)
    decide_next(store, "flights", "features", decide, overdue_module.now(store))
    assert overdue(settings, store)[late] < 60
    (run,) = running(store)
    put_on(timedelta(days=366, minutes=10))
    assert overdue(settings, store)[late] == pytest.approx(600, abs=60), "decided on, and not begun"
    begin(store, run)
    assert overdue(settings, store)[late] == 0.0


def test_the_age_of_the_last_backup_counts_from_the_first_event_while_there_is_none(
    settings: Settings, store: ControlStore, put_on: Callable[[timedelta], None]
) -> None:
    with store.transaction() as connection:
        record(connection, "key.created", SYSTEM, "key", now=datetime.now(UTC) - timedelta(days=3))
    assert overdue(settings, store)["backup_age_seconds", ""] == pytest.approx(3 * 86_400, abs=60)
    with store.transaction() as connection:
        record(connection, CREATED, SYSTEM, "backup 1")
    put_on(timedelta(hours=1))
    assert overdue(settings, store)["backup_age_seconds", ""] == pytest.approx(3_600, abs=60)


def test_a_budget_is_shown_by_the_part_that_is_spent(settings: Settings, store: ControlStore) -> None:
    keep_prices(store, "p", Prices(currency="EUR", cpu_hour=1.0).model_dump())
    month = month_of(datetime.now(UTC))
    part = Part("r", "step", "train", "flights", "", "p")
    write_usage(store, part, month, Usage(wall_s=1.0, cpu_s=3 * 3600.0).to_json(), "ended")
    set_budget(store, SYSTEM, Budget("flights", "", 4.0, "EUR"), "x")
    set_budget(store, SYSTEM, Budget("nothing", "", 0.0, "EUR"), "x")
    found = overdue(settings, store)
    assert found["budget_spent_ratio", "flights"] == 0.75
    assert found["budget_spent_ratio", "nothing"] == 1.0


def test_events_wait_for_whoever_has_not_paused(
    settings: Settings, store: ControlStore, put_on: Callable[[timedelta], None]
) -> None:
    channels = Channels(("127.0.0.1",))
    made = [subscribe(store, SYSTEM, channels, f"https://127.0.0.1/{name}", "flights") for name in "ab"]
    before = overdue(settings, store)["undelivered_events", ""]  # they are told of themselves
    with store.transaction() as connection:
        record(connection, "schedule.failed", SYSTEM, "schedule flights", "flights")
    put_on(timedelta(hours=2))
    found = overdue(settings, store)
    assert found["undelivered_events", ""] == before + 2
    assert found["undelivered_oldest_seconds", ""] == pytest.approx(7_200, abs=60)
    for one in made:
        pause(store, SYSTEM, one.subscription.id, "away")
    assert overdue(settings, store)["undelivered_events", ""] == 0


def test_an_audit_log_that_was_changed_is_shown_until_a_day_has_passed_without_its_being_found_again(
    settings: Settings, store: ControlStore, put_on: Callable[[timedelta], None]
) -> None:
    with store.transaction() as connection:
        record(connection, "audit.failed", SYSTEM, "audit")
    assert overdue(settings, store)["audit_failed", ""] == 1
    put_on(timedelta(hours=30))
    assert overdue(settings, store)["audit_failed", ""] == 0


def test_while_the_store_is_away_the_last_values_stay_and_what_is_gone_goes_to_0(
    settings: Settings, store: ControlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: dict[tuple[str, str], float] = {}

    class Series(_Series):
        def set(self, value: float, tags: dict[str, str]) -> None:
            said[self.name.removeprefix("mlops_ray_"), tags.get("use_case", "")] = value

    def away(store: ControlStore) -> datetime:
        raise UnavailableError("It is away.")

    monkeypatch.setattr(overdue_module, "Gauge", Series)
    set_budget(store, SYSTEM, Budget("flights", "", 0.0, "EUR"), "x")
    clock = iter([0.0, 10.0, 12.0, 100.0, 200.0, 201.0])
    shown = Overdue(settings, store, lambda: next(clock))
    shown.look()
    assert {name for name, _ in said} == GAUGES.keys() - {"schedule_overdue_seconds"}
    with monkeypatch.context() as patched:
        patched.setattr(overdue_module, "now", away)
        with pytest.raises(UnavailableError):
            shown.look()
    assert said["control_store_away_seconds", ""] == 90.0
    assert said["budget_spent_ratio", "flights"] == 1.0
    take_budget_away(store, SYSTEM, "flights", "", "x")
    shown.look()
    assert said["control_store_away_seconds", ""] == 1.0
    assert said["budget_spent_ratio", "flights"] == 0.0
