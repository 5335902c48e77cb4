"""Two processes watch the same endpoint and are killed (SIGKILL) at any moment: counts and verdicts are bit-equal."""

import multiprocessing
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.monitoring.drift_watch import DriftWatch, Round
from mlops_ray.monitoring.watch_state import read_state
from mlops_ray.testing.example_stream import write_example_segments
from tests.unit.test_drift_watch import CALM, END, NAME, WATCHED, shifted
from tests.unit.test_watch_commits import seen, steps
from tests.unit.watch_process import TOLD, open_watch, watch

LONGEST_S = 60.0
# Not ours: polars does not outlive a fork.
LIBRARIES = ["numpy", "scipy.special", "pyarrow.parquet", "pyarrow.fs", "pydantic", "sqlalchemy", "datasketches"]
# Asked after a past moment, so that windows by time end by what was read, in whichever step, and not by the clock. They
# begin where files do, which are longer here than a segment may be: one is found by when it begins.
ROWS = pl.concat([CALM.head(800), shifted(CALM.tail(800))]).with_columns(as_of=pl.col("time") - timedelta(hours=6))


@dataclass
class Processes:
    context: multiprocessing.context.ForkServerContext
    root: Path
    reference: dict[str, bytes]

    def start_two(self) -> list[BaseProcess]:
        """Two that watch for ever, and have begun."""
        started = []
        for _ in range(2):
            ready = self.context.Event()
            process = self.context.Process(target=watch, args=(str(self.root), NAME, self.reference, END, ready))
            process.start()
            started.append((process, ready))
        assert all(ready.wait(LONGEST_S) for _, ready in started)
        return [process for process, _ in started]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    yield Processes(context, tmp_path / "killed", WATCHED.reference.to_files())
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


def finish(watch: DriftWatch) -> float:
    """Watch until nothing is new; how many seconds that took."""
    begun, quiet = time.monotonic(), 0
    while quiet < 2:
        quiet = quiet + 1 if watch.round(END) == Round() else 0
    return time.monotonic() - begun


def told(root: Path) -> set[str]:
    artifacts = Artifacts(str(root))
    return {artifacts.read_bytes(TOLD, entry.name).decode() for entry in artifacts.entries(TOLD)}


def test_two_watching_processes_killed_at_random_moments_count_as_one_that_lives(
    tmp_path: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlops_ray.monitoring.drift_watch._LABELS_S", 60.0)
    ids = write_example_segments(Artifacts(str(tmp_path / "ids")), NAME, CALM)
    clean, killed, moments = tmp_path / "clean", processes.root, random.Random(20)
    both = (list(steps(Artifacts(str(root)), ids, ROWS)) for root in (clean, killed))
    lives, deaths = open_watch(str(clean), NAME, WATCHED), 0
    for calm_step, step in zip(*both, strict=True):
        calm_step()
        took_s = finish(lives)
        two = processes.start_two()
        step()
        for process in two:
            time.sleep(moments.uniform(0, took_s))
            process.kill()
            process.join()
            deaths += process.exitcode == -signal.SIGKILL
        finish(open_watch(str(killed), NAME, WATCHED))
    assert deaths == 12
    expected, found = (read_state(Artifacts(str(root)), NAME) for root in (clean, killed))
    assert seen(found) == seen(expected)
    assert len(seen(found)) > 5
    assert told(killed) == told(clean) != set()
