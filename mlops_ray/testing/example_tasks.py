"""Streams of answers that are a number, or one of three classes, whose truth is known: what is watched of each kind."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.monitoring.answers import answer_columns
from mlops_ray.monitoring.build_reference import build_reference
from mlops_ray.monitoring.error_tree import foretell
from mlops_ray.monitoring.reference import Reference
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.regression import Regression
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import Feature
from mlops_ray.use_case.window_spec import WindowSpec

BEGIN = datetime(2026, 1, 5, tzinfo=UTC)
DAILY = 120
SPEC = WindowSpec(rows=600, minimum_rows=200)
INPUTS = (Feature("x", "number"), Feature("hard", "number"), Feature("c", "category"))
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Labels depend on `x` and `c`; where `hard` is near 1 they are hard to tell. The model knows all of it."""

    task: Task

    def inputs(self, days: int, seed: int, first: int = 0, shift: float = 0.0, harder: float = 0.0) -> pl.DataFrame:
        """`DAILY` rows a day from day `first` on. shift: of x, in deviations. harder: what `hard` is raised by."""
        random, rows = np.random.default_rng(seed), days * DAILY
        micros = (first * 86_400_000_000 + np.arange(rows) * (86_400_000_000 // DAILY)).tolist()
        moments = [BEGIN + timedelta(microseconds=one) for one in micros]
        return pl.DataFrame(
            {
                "time": pl.Series(moments, dtype=pl.Datetime("us", "UTC")),
                "x": random.normal(shift, 1, rows),
                "hard": np.minimum(1.0, random.random(rows) + harder),
                "c": random.choice(["a", "b"], rows),
                "request_id": [f"{seed}-{number:06}" for number in range(rows)],
                "row": np.zeros(rows, dtype=np.int64),
            }
        )

    def truth(self, rows: pl.DataFrame, turned: float = 0.0) -> _Floats:
        """What answers are if they are right. turned: how much less x means than it did."""
        x, hard = rows["x"].to_numpy() * (1 - turned), rows["hard"].to_numpy()
        of_c = np.where(rows["c"].to_numpy() == "a", 1.0, -1.0)
        if self.task.width == 1:
            return np.asarray(20 + 4 * x + 2 * of_c)
        scores = np.column_stack([0.5 + 0 * x, 2 * x, of_c - x]) * (1.6 - 1.5 * hard)[:, None]
        grown = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(grown / grown.sum(axis=1, keepdims=True))

    def answered(self, rows: pl.DataFrame, seed: int, turned: float = 0.0) -> pl.DataFrame:
        """With the model's answers, and labels as they are by `truth`, turned or not."""
        random, truth = np.random.default_rng(seed + 1000), self.truth(rows, turned)
        if self.task.width == 1:
            label = pl.Series("label", truth + random.normal(0, 1 + 3 * rows["hard"].to_numpy(), len(rows)))
        else:
            number = (truth.cumsum(axis=1) < random.random(len(rows))[:, None]).sum(axis=1)
            label = pl.Series("label", np.array(list("uvw"), dtype=object)[np.minimum(number, 2)], dtype=pl.String)
        return rows.with_columns(*answer_columns(self.truth(rows).astype(np.float32), self.task), label)

    def stream(
        self, days: int, seed: int, first: int, shift: float = 0, harder: float = 0, turned: float = 0
    ) -> pl.DataFrame:
        return self.answered(self.inputs(days, seed, first, shift, harder), seed, turned)

    def reference(self, days: int = 300, seed: int = 1) -> Reference:
        """Of a stream of its own."""
        past = self.stream(days, seed, 0)
        scored = foretell(past, self.task, INPUTS)
        return build_reference(
            past, "time", INPUTS, [SPEC], scored.scored, ["c"], false_alarm_days=100,
            error_detectors=("page_hinkley",), task=self.task, tree=scored.tree,
        )  # fmt: skip


NUMBERS, CLASSES = World(Regression(unit="minutes")), World(MultiClass(("u", "v", "w")))
