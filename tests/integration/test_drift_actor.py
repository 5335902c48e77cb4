"""The drift actor on Ray: killed again and again it counts each prediction once; new code finds what the old knew."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import uuid6

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.governance.alarms import alarms_of
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.live import VersionRef
from mlops_ray.monitoring import drift_actor
from mlops_ray.monitoring.drift_actor import NAMESPACE, start_watching, stop_watching
from mlops_ray.monitoring.label_join import labelled_predictions
from mlops_ray.monitoring.ledger_upkeep import last_upkeep
from mlops_ray.monitoring.watch_state import WatchState, read_state
from mlops_ray.predictions.label_writer import LabelWriter
from mlops_ray.predictions.labels import Label
from mlops_ray.predictions.reader import Ledger
from mlops_ray.predictions.segments import segments
from mlops_ray.predictions.table import LedgerTable
from mlops_ray.predictions.writer import LedgerWriter
from mlops_ray.registry.sealed_model import seal
from mlops_ray.testing.example_model import example_answer, example_onnx, example_rows, example_schema
from mlops_ray.testing.example_stream import BY_COUNT, example_watched

NAME = "departures"


@dataclass(frozen=True)
class Sealed:
    """A registry with one version."""

    folder: str
    digest: str

    def find(self, name: str, version: int) -> VersionRef:
        return VersionRef(version, self.digest)

    def fetch(self, name: str, version: VersionRef, folder: Path) -> Path:
        return Path(self.folder)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import it
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    folder = tmp_path_factory.mktemp("sealed")
    rows = example_rows()
    answers = [example_answer(row) for row in rows.to_dicts()]
    reference = example_watched().reference.to_files()
    digest = seal(folder, example_onnx(), example_schema(), rows, answers, {}, reference=reference)
    return Sealed(str(folder), digest)


@pytest.fixture
def settings(tmp_path: Path, registry: Sealed) -> Iterator[Settings]:
    settings = Settings(state=str(tmp_path), data=str(tmp_path), ledger_rotate_s=0.5)
    set_champion(open_store(settings), SYSTEM, NAME, VersionRef(7, registry.digest), "the example")
    yield settings
    stop_watching(NAME)


def write(ledger: LedgerWriter, rows: int, seed: int) -> list[str]:
    """Predictions as a replica appends them, in requests of 100; returns the ids of the requests."""
    random = np.random.default_rng(seed)
    ids = []
    for _ in range(rows // 100):
        ids.append(str(uuid6.uuid7()))
        numbers = np.column_stack(
            [random.uniform(100, 2000, 100), random.integers(5, 23, 100), random.normal(5, 10, 100)]
        )
        ledger.append(
            "7", request_id=ids[-1], route="champion", keys=None, numbers=numbers.astype(np.float32),
            categories=random.choice(np.array(["EWR", "JFK", "AA", "UA"], dtype=object), (100, 2)),
            answer=random.random(100).astype(np.float32), latency_s=0.001,
        )  # fmt: skip
    return ids


def open_ledger(settings: Settings) -> LedgerWriter:
    ledger = LedgerWriter(settings, NAME, rotate_bytes=200_000)
    ledger.add_version("7", example_schema())
    return ledger


def state_of(settings: Settings) -> WatchState:
    return read_state(Artifacts(settings.artifacts), NAME)


def counted(settings: Settings) -> int:
    return state_of(settings).rows.get("7", 0)


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def pid_of(actor: Any) -> int:
    """Of the actor's process, as soon as it answers."""
    return int(ray.get(actor.pid.remote(), timeout=60))


def watchers() -> list[str]:
    found = ray.util.list_named_actors(all_namespaces=True)
    return [one["name"] for one in found if one["namespace"] == NAMESPACE]


def test_killed_ten_times_while_predictions_come_each_is_counted_once(settings: Settings, registry: Sealed) -> None:
    actor = start_watching(settings, NAME, registry, round_s=0.1)
    total, pids = 0, set()
    with open_ledger(settings) as ledger:
        for number in range(10):
            total += len(write(ledger, 5_000, number)) * 100
            pids.add(pid_of(actor))
            time.sleep(0.3 + 0.05 * number)
            os.kill(pid_of(actor), signal.SIGKILL)
        total += len(write(ledger, 50_000, 99)) * 100
    assert (total, len(pids)) == (100_000, 10)
    wait_until(lambda: counted(settings) >= total)
    time.sleep(0.5)
    state = state_of(settings)
    assert (counted(settings) - total, state.repeated) == (0, 0)
    assert state.watches["7"].rows == total
    assert state.watches["7"].streams[BY_COUNT.name].finished == total // (BY_COUNT.rows or 1)
    records = state.watches["7"].streams[BY_COUNT.name].records
    assert {record.data.answer for record in records} == {"not enough data"}  # of seconds, and judged as days
    assert "It is judged together with the next ones" in records[0].data.reason
    assert alarms_of(open_store(settings), NAME) == []


def test_down_for_a_while_the_backlog_is_counted(settings: Settings, registry: Sealed) -> None:
    start_watching(settings, NAME, registry, round_s=0.1)
    with open_ledger(settings) as ledger:
        write(ledger, 1_000, 1)
        ledger.rotate()
        wait_until(lambda: counted(settings) == 1_000)
        stop_watching(NAME)
        write(ledger, 20_000, 2)
    start_watching(settings, NAME, registry, round_s=0.1)
    wait_until(lambda: counted(settings) == 21_000)


def test_what_the_actor_has_read_it_moves_to_the_table(settings: Settings, registry: Sealed) -> None:
    soon = settings.model_copy(update={"ledger_upkeep_every_s": 0.5})
    start_watching(soon, NAME, registry, round_s=0.1)
    with LedgerWriter(soon, NAME, clock=lambda: time.time() - 2 * 3600) as ledger:
        ledger.add_version("7", example_schema())
        write(ledger, 5_000, 4)
    artifacts = Artifacts(soon.artifacts)
    wait_until(lambda: counted(soon) == 5_000 and not segments(artifacts, NAME))
    assert Ledger(soon, NAME).frame().height == 5_000
    assert sum(file.bytes for file in LedgerTable(artifacts, NAME).files()) > 0
    done = last_upkeep(artifacts, NAME)
    assert done is not None
    assert done.problem == ""


def test_new_code_takes_over_with_windows_and_reference_unchanged(
    settings: Settings, registry: Sealed, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = start_watching(settings, NAME, registry, round_s=0.1)
    with open_ledger(settings) as ledger:
        write(ledger, 1_300, 3)
    wait_until(lambda: counted(settings) == 1_300)
    before, pid = state_of(settings).watches["7"].to_bytes(), pid_of(old)
    assert start_watching(settings, NAME, registry, round_s=0.1) == old
    assert pid_of(old) == pid
    monkeypatch.setattr(drift_actor, "code_digest", lambda *parts: "other code")
    new = start_watching(settings, NAME, registry, round_s=0.1)
    assert pid_of(new) != pid
    ray.get(new.round.remote(NAME, datetime.now(UTC)))
    assert state_of(settings).watches["7"].to_bytes() == before
    assert len(watchers()) == 1, "the old one has ended, as it had nothing else to watch"


def test_many_endpoints_share_a_few_processes_and_are_watched_again_after_a_kill(
    settings: Settings, registry: Sealed
) -> None:
    names, store = [f"endpoint-{number}" for number in range(8)], open_store(settings)
    actors = set()
    for name in names:
        set_champion(store, SYSTEM, name, VersionRef(7, registry.digest), "the example")
        actors.add(start_watching(settings, name, registry, round_s=0.1))
    assert len(watchers()) == len(actors) == settings.drift_watchers == 2
    assert sorted(name for actor in actors for name in ray.get(actor.watched.remote())) == sorted(names)
    for actor in actors:
        os.kill(pid_of(actor), signal.SIGKILL)
    artifacts = Artifacts(settings.artifacts)
    for name in names:
        with LedgerWriter(settings, name) as ledger:
            ledger.add_version("7", example_schema())
            write(ledger, 1_000, 5)
    wait_until(lambda: all(read_state(artifacts, name).rows.get("7") == 1_000 for name in names))
    for name in names:
        stop_watching(name)
    wait_until(lambda: not watchers())


def test_labels_reach_the_watch_and_a_dataset(settings: Settings, registry: Sealed) -> None:
    actor = start_watching(settings, NAME, registry, round_s=0.1)
    with open_ledger(settings) as ledger, LabelWriter(settings, NAME) as labels:
        ids = write(ledger, 800, 4)
        labels.append([Label(True, request_id=id, row=row) for id in ids for row in range(100)])
    wait_until(lambda: counted(settings) == 800)
    ray.get(actor.round.remote(NAME, datetime.now(UTC) + timedelta(seconds=1)))
    record = state_of(settings).watches["7"].streams[BY_COUNT.name].records[0]
    assert (record.labelled, record.quality[0].about["positive"]) == (400, 1.0)
    joined = labelled_predictions(NAME, settings, columns=["version"]).to_pandas()
    assert joined["label"].sum() == 800
    assert set(joined.columns) == {"request_id", "row", "version", "label", "known_at"}
