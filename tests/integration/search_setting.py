"""A small search that tests run in their own process or in a subprocess that they kill.

Run as `python search_setting.py <folder> <key> <Ray's address>`: prints a line for each change of a trial.
"""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import ray
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.tasks.link import Logistic
from mlops_ray.training.candidates.graph import Graph
from mlops_ray.training.search import search
from mlops_ray.training.trial import SearchProgress
from mlops_ray.use_case import (
    Candidate,
    Column,
    Feature,
    FitData,
    Label,
    Parameters,
    Search,
    SearchSpace,
    Source,
    Split,
    Uniform,
    UseCase,
)

AS_OF = datetime(2013, 12, 31, tzinfo=UTC)


@dataclass(frozen=True)
class Leaning:
    """Probability from one feature and from noise; the higher `skill`, the less noise."""

    skill: float

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        noise = np.random.default_rng(0).normal(size=len(matrix))
        score = self.skill * matrix[:, 0].astype(np.float64) + (1 - self.skill) * noise
        return 1 / (1 + np.exp(-score))

    def to_onnx(self) -> bytes:
        graph = Graph()
        first = graph.add("Gather", "matrix", graph.constant("first", np.array([0])), axis=1)
        return graph.model(Logistic(), "probability", first, np.float32)


@dataclass(frozen=True)
class Steady:
    """A candidate whose result is known beforehand: the higher `skill`, the better."""

    name: str = "steady"
    space: SearchSpace = field(default_factory=lambda: {"skill": Uniform(0.0, 1.0)})
    seconds_per_step: float = 0.0

    def fit(self, data: FitData, parameters: Parameters) -> Iterator[tuple[float, Leaning]]:
        for fraction in (0.25, 0.5, 1.0):
            time.sleep(self.seconds_per_step)
            yield fraction, Leaning(float(parameters["skill"]))


@dataclass(frozen=True)
class Broken(Steady):
    """Raises in the middle of its budget."""

    name: str = "broken"

    def fit(self, *args: object, **kwargs: object) -> Iterator[tuple[float, Leaning]]:
        yield 0.25, Leaning(0.1)
        raise RuntimeError("the broken candidate broke")


@dataclass(frozen=True)
class Endless(Steady):
    """Ends on the training period; on more rows than `rows` never: it sleeps, or computes in C and hears no signal."""

    name: str = "endless"
    rows: int = 0
    sleeps: bool = True
    folder: str = ""

    def fit(self, data: FitData, parameters: Parameters) -> Iterator[tuple[float, Leaning]]:
        if len(data.label) > self.rows:
            Path(self.folder, "process").write_text(str(os.getpid()))
            _ = time.sleep(1e6) if self.sleeps else sum(range(10**13))
        yield from super().fit(data, parameters)


@dataclass(frozen=True)
class Telling(Steady):
    """Fails with the names of modules that its worker has imported."""

    name: str = "telling"

    def fit(self, *args: object, **kwargs: object) -> Iterator[tuple[float, Leaning]]:
        raise RuntimeError(f"imported: {' '.join(sorted(sys.modules))}")


@dataclass(frozen=True)
class Noted(Steady):
    """Its fits take their seconds until two of them run at once, which is noted as `both`. Every worker but the first
    takes longer to start than its fits."""

    name: str = "noted"
    folder: str = ""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        try:
            Path(self.folder, "started").touch(exist_ok=False)
        except FileExistsError:
            time.sleep(8 * self.seconds_per_step)

    def fit(self, data: FitData, parameters: Parameters) -> Iterator[tuple[float, Leaning]]:
        both, mine = Path(self.folder, "both"), Path(self.folder, f"{time.monotonic_ns()}.running")
        mine.touch()
        end = time.monotonic() + self.seconds_per_step
        while time.monotonic() < end and not both.exists():
            if len(list(Path(self.folder).glob("*.running"))) > 1:
                both.touch()
            time.sleep(0.02)
        mine.unlink()
        yield 1.0, Leaning(float(parameters["skill"]))


def make_settings(folder: Path) -> Settings:
    return Settings(state=str(folder), data=str(folder / "data"))


def make_use_case(candidates: tuple[Candidate, ...], trials: int) -> UseCase:
    return UseCase(
        name="planes",
        sources={
            "planes": Source("planes.csv", (Column("id", "text"), Column("at", "timestamp"), Column("late", "boolean")))
        },
        entities=("id",),
        event_time="at",
        label=Label("late", pl.col("late"), pl.col("at")),
        candidates=candidates,
        split=Split(test=timedelta(days=20), validation=timedelta(days=40)),
        search=Search(trials_per_candidate=trials),
    )


def make_training_set(settings: Settings, rows: int = 2000) -> TrainingSet:
    random = np.random.default_rng(5)
    at = pl.Series([AS_OF - timedelta(hours=2 + 4 * index) for index in range(rows)])
    wind = random.normal(size=rows)
    label = random.random(rows) < 1 / (1 + np.exp(-2 * wind))
    frame = pl.DataFrame(
        {
            "id": [str(index) for index in range(rows)],
            "at": at,
            "event_timestamp": at,
            "wind": wind,
            "origin": random.choice(["JFK", "LGA"], rows),
            "label": label,
            "label_known_at": at.dt.offset_by("1h"),
        }
    )
    url = Artifacts(settings.artifacts).write_table(frame, "training_sets", "planes.parquet")
    features = (Feature("wind", "number"), Feature("origin", "category"))
    return TrainingSet(url, "d" * 64, rows, AS_OF, "s" * 64, None, features)


def slow_use_case() -> UseCase:
    return make_use_case((Steady(seconds_per_step=0.3), Steady("other", seconds_per_step=0.3)), trials=3)


def tell(change: SearchProgress) -> None:
    print(change.done, change.trial.trial_id, change.trial.fraction, change.trial.status, flush=True)


if __name__ == "__main__":
    folder, key, address = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    settings = make_settings(folder)
    search(slow_use_case(), settings, make_training_set(settings), key, tell)
