"""Quality before the labels come, where it is a mean over rows: from how wrong each answer is expected to be."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf, sqrt
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.monitoring.answers import EXPECTED, answer_in
from mlops_ray.monitoring.error_tree import ErrorTree
from mlops_ray.monitoring.null_windows import NullWindows
from mlops_ray.monitoring.performance_estimation import EstimatedQuality, beyond_sampling, isotonic
from mlops_ray.monitoring.sketches import NumericSketch
from mlops_ray.tasks.evaluation import Floats
from mlops_ray.tasks.roc_auc import interval
from mlops_ray.tasks.task import Task

# Excess errors of so many deviations and more count alike in the stream of errors.
_FARTHEST = 4.0


@dataclass(frozen=True)
class ErrorEstimator:
    """The mean error of a window, estimated from the sketch of what its rows let expect.

    Of classes the entropy of an answer is the log loss to expect if its probabilities are right, as confidence is the
    accuracy (Guillory et al., "Predicting with confidence on unseen distributions", 2021, which uses both). Of numbers
    a model of the errors of past rows says it ("Direct Loss Estimation (DLE)" in the documentation of NannyML, "How it
    works", "Estimation of performance"); here that is a tree. What either says is calibrated on the rows that were held
    out, isotonic over the bins of its sketch. The interval is that of `Estimator`.

    edges: as in the sketch. expected, variance: of the errors in each bin. between, offset, windows: see `Estimator`.
    spread: deviation of a row's error from what is expected. tree: where answers do not tell.
    """

    metric: str
    edges: tuple[float, ...]
    expected: tuple[float, ...]
    variance: tuple[float, ...]
    between: float
    offset: float
    windows: int
    spread: float
    tree: ErrorTree | None = None

    column: ClassVar[str] = EXPECTED

    def estimate(self, sketch: NumericSketch) -> EstimatedQuality:
        """The quality to expect of a window with these expectations; NaN for an empty one."""
        rows = float(sketch.values)
        if not rows:
            return EstimatedQuality(self.metric, float("nan"), None, None, 0)
        value = float(sketch.counts @ np.array(self.expected)) / rows - self.offset
        sampling = float(sketch.counts @ np.array(self.variance)) / rows**2
        low, high = interval(value, sqrt(sampling + self.between), 0.0, inf) or (None, None)
        return EstimatedQuality(self.metric, max(0.0, value), low, high, int(rows))

    def excess(self, labelled: pl.DataFrame, task: Task) -> Floats:
        """By how much each error is above what was expected, in the order of the rows. labelled: with `EXPECTED`."""
        return task.errors(task.encoded(labelled["label"]), answer_in(labelled, task)) - self.expected_of(labelled)

    def expected_of(self, rows: pl.DataFrame) -> Floats:
        """The mean error to expect of each row, [rows]."""
        cell = np.searchsorted(np.array(self.edges, dtype=np.float32), _float32(rows[EXPECTED]))
        return np.array(self.expected)[cell]

    def stream(self, labelled: pl.DataFrame, task: Task) -> Floats:
        """The same in -1..1, as a stream of errors is followed."""
        excess = self.excess(labelled, task)
        return np.clip(excess / (_FARTHEST * self.spread), -1, 1) if self.spread > 0 else np.zeros_like(excess)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ErrorEstimator":
        lists = {name: tuple(part) for name, part in value.items() if isinstance(part, list)}
        tree = None if value["tree"] is None else ErrorTree.from_json(value["tree"])
        return cls(**{**value, **lists, "tree": tree})


def fit_errors(
    labelled: pl.DataFrame, sketch: NumericSketch, windows: NullWindows, task: Task, tree: ErrorTree | None
) -> ErrorEstimator:
    """Learn from scored rows with labels, in order of time, and the windows of them. labelled: with `EXPECTED`.

    Of windows that do not overlap each is estimated with the calibration of all other rows, and compared with what its
    labels say.
    """
    errors = task.errors(task.encoded(labelled["label"]), answer_in(labelled, task))
    cell, bins = np.searchsorted(sketch.edges, _float32(labelled[EXPECTED])), len(sketch.counts)
    weights = np.ones_like(errors), errors, errors**2
    rows, sums, squares = (np.bincount(cell, weight, bins).astype(np.float64) for weight in weights)
    expected = isotonic(sums, rows)
    off, sampling = [], []
    pairs = zip(windows.sums(cell, bins), windows.sums(cell, bins, errors), strict=True)
    for (count, _), (total, _) in list(pairs)[:: windows.overlap]:
        if count.sum() > 1:
            others = isotonic(sums - total, rows - count)
            off.append(float(count @ others - total.sum()) / float(count.sum()))
            sampling.append(float(errors.var()) / float(count.sum()))
    around = squares - 2 * expected * sums + expected**2 * rows
    variance = np.where(rows > 1, around / np.maximum(rows, 1), around.sum() / max(1.0, rows.sum()))
    between, offset, compared = beyond_sampling(off, sampling)
    return ErrorEstimator(
        metric=next(iter(task.metrics)),
        edges=tuple(sketch.edges.astype(np.float64).tolist()),
        expected=tuple(expected.tolist()),
        variance=tuple(np.maximum(0.0, variance).tolist()),
        between=between,
        offset=offset,
        windows=compared,
        spread=sqrt(max(0.0, float(around.sum() / max(1.0, rows.sum())))),
        tree=tree,
    )


def _float32(values: pl.Series) -> NDArray[np.float32]:
    return values.cast(pl.Float64).to_numpy().astype(np.float32)
