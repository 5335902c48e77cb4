"""The ledger is looked after by one process at a time, at an interval, and who asks is told whether that works."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import ConflictError
from mlops_ray.governance import leases
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.leases import hold, holding
from mlops_ray.monitoring import ledger_upkeep
from mlops_ray.monitoring.ledger_upkeep import keep_up, keep_up_if_due, last_upkeep
from mlops_ray.predictions.erasure import erase_person, upkeep_lease
from mlops_ray.predictions.reader import Ledger
from mlops_ray.predictions.retention import declare_retention, retention_of
from tests.unit.test_erasure import NAME, answer, hash_of
from tests.unit.test_ledger import settings_in


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


@pytest.fixture
def store(settings: Settings) -> ControlStore:
    return open_store(settings)


def test_a_round_compacts_and_deletes_what_is_too_old(settings: Settings, store: ControlStore) -> None:
    artifacts, now = Artifacts(settings.artifacts), datetime.now(UTC)
    answer(settings, ["ada"], now - timedelta(days=40))
    answer(settings, ["bob"], now - timedelta(days=10))
    use_case: Any = SimpleNamespace(name=NAME, keep_predictions=timedelta(days=30))
    declare_retention(artifacts, use_case)
    assert retention_of(artifacts, NAME) == timedelta(days=30)
    done = keep_up_if_due(settings, store, NAME)
    assert done is not None
    assert (done.segments, done.rows) == (1, 1)
    assert Ledger(settings, NAME).frame().height == 1
    assert last_upkeep(artifacts, NAME) == done
    assert keep_up_if_due(settings, store, NAME) is None  # an hour has not passed
    soon = settings.model_copy(update={"ledger_upkeep_every_s": 1e-6})
    assert keep_up_if_due(soon, store, NAME) is not None


def test_one_process_at_a_time_changes_a_ledger(settings: Settings, store: ControlStore) -> None:
    answer(settings, ["ada"])
    with holding(store, upkeep_lease(NAME)):
        assert keep_up_if_due(settings, store, NAME) is None
        with pytest.raises(ConflictError, match=r"Another process is at work \(ledger departures\). Nothing was done"):
            keep_up(settings, store, NAME)
        with pytest.raises(ConflictError, match="Another process is at work"):
            erase_person(settings, store, SYSTEM, NAME, hash_of(settings, "ada"))
        keep_up(settings, store, "arrivals")
    assert last_upkeep(Artifacts(settings.artifacts), NAME) is None
    assert erase_person(settings, store, SYSTEM, NAME, hash_of(settings, "ada")).predictions == 1


def test_a_lease_is_kept_for_as_long_as_the_work_takes(store: ControlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "HELD_FOR", timedelta(seconds=0.3))
    ended = datetime.now(UTC) + timedelta(seconds=1)
    with holding(store, "work"):
        while datetime.now(UTC) < ended:
            assert hold(store, "work", "another", timedelta(seconds=1))
    assert not hold(store, "work", "another", timedelta(seconds=1))


def test_a_failure_is_kept_with_since_when(
    settings: Settings, store: ControlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = Artifacts(settings.artifacts)

    def fails(*given: Any) -> Any:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(ledger_upkeep, "compact", fails)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                keep_up(settings, store, NAME)
    failed = last_upkeep(artifacts, NAME)
    assert failed is not None
    assert failed.problem == "OSError: No space left on device"
    assert failed.failing_since is not None
    assert failed.failing_since < failed.at
    assert keep_up(settings, store, NAME).failing_since is None
    done = last_upkeep(artifacts, NAME)
    assert done is not None
    assert done.problem == ""
