"""Quality before the labels come, estimated from calibrated probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf, nan, sqrt
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlops_ray.monitoring.answers import PREDICTION
from mlops_ray.monitoring.sketches import NumericSketch
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.roc_auc import interval, roc_auc

_Float = NDArray[np.float64]


@dataclass(frozen=True)
class EstimatedQuality:
    """What labels would show of `metric` if they were as the model's calibrated answers say; low, high: 95 %, or None.

    confusion: of yes and no, expected rows with (predicted, true) = (yes, yes), (yes, no), (no, yes), (no, no), where
    `threshold`, the upper end of a bin, parts no from yes. Both None of other answers.
    """

    metric: str
    value: float
    low: float | None
    high: float | None
    rows: int
    confusion: tuple[float, float, float, float] | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class Estimator:
    """Confidence-based performance estimation from the counts of a window's prediction sketch.

    Guillory et al., "Predicting with confidence on unseen distributions", 2021, for the accuracy; Białek, Kuberski,
    Perrakis and Bifet, "Estimating model performance under covariate shift without labels", 2024, section 3.2, for the
    confusion matrix and the AUC: with p the calibrated probabilities, a row counts p times as having the label and
    1 - p times as not. Deviations: rows are taken by bins of the probability, as sketches have them; calibration is
    isotonic over those bins; and the interval is not only the sampling error. It also holds what the estimate was off
    by beyond that on windows of the scored rows (DerSimonian and Laird, "Meta-analysis in clinical trials", 1986):
    the estimate cannot see concept drift, but the calm kind that the past had is in its interval.

    edges: as in the sketch. calibrated: probability of the label in each bin, rising. between: variance of (estimated
    minus true AUC) beyond sampling. offset: its mean. windows: how many were compared.
    """

    edges: tuple[float, ...]
    calibrated: tuple[float, ...]
    between: float
    offset: float
    windows: int

    metric: ClassVar[str] = "roc_auc"
    column: ClassVar[str] = PREDICTION

    def estimate(self, prediction: NumericSketch, threshold: float = BINARY.threshold) -> EstimatedQuality:
        """The quality to expect of a window with these predictions; NaN for an empty one."""
        ups, downs = self._expected(prediction.counts)
        auc = roc_auc(ups, downs)
        value = auc.value - self.offset
        ends = interval(value, sqrt(auc.variance + self.between) if auc.variance < inf else inf)
        least = np.float32(threshold)
        above = _above(self.edges, least)
        yes, no = (np.where(above, part, 0.0) for part in (ups, downs))
        confusion = (yes.sum(), no.sum(), ups.sum() - yes.sum(), downs.sum() - no.sum())
        low, high = ends or (None, None)
        used = max((edge for edge in self.edges if edge <= least), default=0.0)
        counted: Any = tuple(map(float, confusion))
        return EstimatedQuality(self.metric, value, low, high, int(prediction.values), counted, used)

    def _expected(self, counts: NDArray[Any]) -> tuple[_Float, _Float]:
        probability = np.array(self.calibrated)
        return counts * probability, counts * (1 - probability)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Estimator":
        lists = {name: tuple(value[name]) for name in ("edges", "calibrated")}
        return cls(**{**value, **lists})


def decision_rate(answers: NumericSketch, threshold: float = BINARY.threshold) -> float:
    """The part of the answers that are yes, to the bin in which the threshold lies; NaN without answers."""
    above = _above(answers.edges, np.float32(threshold))
    return float(answers.counts[above].sum() / answers.values) if answers.values else nan


def _above(edges: ArrayLike, least: np.float32) -> NDArray[np.bool_]:
    """Which bins are yes, by their upper ends; least: the threshold as answers are compared with it, in float32."""
    return np.append(np.asarray(edges, dtype=np.float64), inf) > least


def fit_estimator(edges: _Float, windows: Sequence[tuple[_Float, _Float]], ups: _Float, downs: _Float) -> Estimator:
    """Learn from scored rows: those with and without the label in each bin of the prediction, [bins].

    windows: the same for windows of these rows that do not overlap. Each is estimated with the calibration of all
    other rows, and compared with its true AUC.
    """
    calibrated = isotonic(ups, ups + downs)
    errors, sampling = [], []
    for up, down in windows:
        p = isotonic(ups - up, ups + downs - up - down)
        rows = up + down
        estimated, true = roc_auc(rows * p, rows * (1 - p)), roc_auc(up, down)
        if true.variance < inf:
            errors.append(estimated.value - true.value)
            sampling.append(true.variance)
    found = beyond_sampling(errors, sampling)
    return Estimator(tuple(edges.tolist()), tuple(calibrated.tolist()), *found)


def beyond_sampling(errors: Sequence[float], sampling: Sequence[float]) -> tuple[float, float, int]:
    """`between`, `offset` and `windows` of an estimator from what it was off by on windows, and the variances that
    chance alone makes of that."""
    # With one window nothing is known of how far they lie apart, and the interval is the sampling error.
    offset = float(np.mean(errors)) if len(errors) > 1 else 0.0
    spread = float(np.var(errors, ddof=1) * (1 + 1 / len(errors))) if len(errors) > 1 else 0.0
    return max(0.0, spread - float(np.mean(sampling or [0.0]))), offset, len(errors)


def isotonic(ups: _Float, rows: _Float) -> _Float:
    """The share of ups in each bin, made to rise: pool adjacent violators (Ayer et al., 1955), weighted by rows.

    A bin without rows takes the value of the one before it, or where none before it has any that of the first that has;
    without rows at all it is 0.
    """
    blocks: list[list[float]] = []
    for up, row in zip(ups.tolist(), rows.tolist(), strict=True):
        blocks.append([up, row, 1])
        while len(blocks) > 1 and _share(blocks[-2]) >= _share(blocks[-1]):
            last = blocks.pop()
            blocks[-1] = [mine + theirs for mine, theirs in zip(blocks[-1], last, strict=True)]
    found = np.concatenate([np.full(int(block[2]), max(0.0, _share(block))) for block in blocks])
    first = int(np.argmax(rows > 0))
    found[:first] = found[first]
    return found


def _share(block: list[float]) -> float:
    up, rows, _ = block
    return up / rows if rows > 0 else -inf
