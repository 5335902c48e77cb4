"""A watcher has the endpoints that are assigned to it; what goes wrong with one is said once and costs no other."""

import hashlib
import logging
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import UnavailableError
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import read_events
from mlops_ray.monitoring import watcher
from mlops_ray.monitoring.drift_watch import DriftWatch
from mlops_ray.monitoring.version_watch import Watched
from mlops_ray.monitoring.watch_state import read_state
from mlops_ray.monitoring.watcher import Watcher, assign, place_of
from mlops_ray.testing.example_stream import write_example_segments
from tests.unit.test_drift_watch import CALM, WATCHED

ENCODED = msgspec.msgpack.encode([9, b"", {}])
STRANGE = hashlib.sha256(ENCODED).digest() + ENCODED
NAMES = [f"endpoint-{number}" for number in range(6)]


class Pool:
    """The watchers of one pool, and whether the registry is away."""

    def __init__(self, folder: Path, name: str = "pool"):
        self.settings = Settings(state=str(folder), data=str(folder))
        self.artifacts, self.away = Artifacts(self.settings.artifacts), False
        self.watchers = [Watcher(self.settings, name, place, self.open_watch) for place in range(2)]

    def open_watch(self, use_case: str, store: ControlStore) -> DriftWatch:
        return DriftWatch(self.artifacts, use_case, self.find, lambda change: None)

    def find(self, version: str) -> Watched:
        if self.away:
            raise UnavailableError("The registry is away.")
        return WATCHED

    def turn(self) -> list[bool]:
        return [one.turn() for one in self.watchers]

    def rows(self, use_case: str) -> int:
        return read_state(self.artifacts, use_case).rows.get("7", 0)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    found = Pool(tmp_path)
    for name in NAMES:
        assign(found.artifacts, name, "pool")
        write_example_segments(found.artifacts, name, CALM.head(300))
    for one in found.watchers:
        one.look()
    return found


def test_each_endpoint_has_one_watcher_of_its_pool_and_follows_its_assignment(pool: Pool) -> None:
    first, second = pool.watchers
    assert sorted((*first.watched, *second.watched)) == NAMES
    assert first.watched
    assert second.watched
    assign(pool.artifacts, first.watched[0], "other")
    left = first.watched[1:]
    first.look()
    assert first.watched == left
    second.drop(second.watched[0])
    second.look()
    assert len(first.watched) + len(second.watched) == len(NAMES) - 2
    for use_case in left:  # as when it is asked of all watchers
        second.drop(use_case)
    first.look()
    assert first.watched == left


def test_a_hundred_endpoints_are_spread_over_the_watchers() -> None:
    counts = Counter(place_of(f"use-case-{number}", 4) for number in range(100))
    assert min(counts.values()) >= 10


def test_a_turn_counts_for_each_endpoint_and_a_process_that_begins_anew_goes_on(pool: Pool, tmp_path: Path) -> None:
    pool.turn()
    assert [pool.rows(name) for name in NAMES] == [300] * 6
    again = Pool(tmp_path)
    write_example_segments(pool.artifacts, NAMES[3], CALM[300:500])
    for one in again.watchers:
        one.look()
    again.turn()
    assert [pool.rows(name) for name in NAMES] == [300, 300, 300, 500, 300, 300]


def test_a_state_of_another_format_is_an_event_once_and_the_others_go_on(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watcher, "STANDS_STILL_S", 0.0)
    pool.artifacts.write_bytes(STRANGE, "monitoring", NAMES[0], "state", "000000000001")
    with caplog.at_level(logging.ERROR):
        for _ in range(4):
            pool.turn()
    assert [pool.rows(name) for name in NAMES[1:]] == [300] * 5
    (event,) = read_events(open_store(pool.settings), types=["monitoring.stopped"])
    assert (event.use_case, event.severity) == (NAMES[0], "critical")
    assert "format 9; this code reads 2 and 3. Run the code that wrote it, or delete" in event.reason
    assert len(caplog.records) == 1
    pool.artifacts.delete("monitoring", NAMES[0], "state")
    pool.turn()
    assert pool.rows(NAMES[0]) == 300


def test_a_library_of_an_extra_that_is_not_installed_is_an_event_once_with_what_to_install(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def needs_river(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'river'", name="river")

    monkeypatch.setattr(watcher, "STANDS_STILL_S", 0.0)
    monkeypatch.setattr(DriftWatch, "round", needs_river)
    for _ in range(2):
        pool.turn()
    events = read_events(open_store(pool.settings), types=["monitoring.stopped"])
    assert sorted(str(event.use_case) for event in events) == NAMES
    assert all("pip install 'mlops_ray[watch]'" in event.reason for event in events)


def test_a_registry_that_is_away_is_said_once_and_what_waits_is_counted_later(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    pool.away = True
    for _ in range(3):
        pool.turn()
    assert len([one for one in caplog.records if "goes on later" in one.message]) == len(NAMES)
    pool.away = False
    pool.turn()
    assert [pool.rows(name) for name in NAMES] == [300] * 6


def test_an_endpoint_that_is_behind_leaves_the_others_their_turn(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops_ray.monitoring.drift_watch._PREDICTIONS_S", -1.0)
    monkeypatch.setattr("mlops_ray.monitoring.ledger_feed._BATCH_SEGMENTS", 1)
    assert any(pool.turn())
    assert {pool.rows(name) for name in NAMES} == {200}
    assert not any(pool.turn())
    assert {pool.rows(name) for name in NAMES} == {300}
