"""Evaluation: the metrics of a model's answers, whatever the task, each with the interval that its days leave open."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.tasks.estimate import Estimate

Floats = NDArray[np.float64]
Blocks = NDArray[np.intp]
_PERFECT = 0.001
_WORDS = {"roc_auc": "ROC AUC", "brier": "Brier score", "r2": "R²"}


@dataclass(frozen=True)
class Metric:
    """lowest, highest: what it can be. biased: most of it is chance in few rows. of_decision: it is measured of what
    `Task.decided` finds. chooses: whether a model with a better one is a better model."""

    lower_is_better: bool
    lowest: float = 0.0
    highest: float = 1.0
    biased: bool = False
    of_decision: bool = False
    chooses: bool = True

    def gain(self, value: float) -> float:
        """The value, or where lower is better its negative: more is better."""
        return -value if self.lower_is_better else value

    def is_perfect(self, value: float) -> bool:
        """Whether it is nearly as good as can be; where the worst has no end, nothing is near the best but itself."""
        if self.lower_is_better:
            return value <= self.lowest + (_PERFECT * (self.highest - self.lowest) if np.isfinite(self.highest) else 0)
        return value >= self.highest - _PERFECT


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows with similar answers: how many, the mean answer, and what was observed: a fraction, or a mean."""

    rows: int
    probability: float
    observed: float


@dataclass(frozen=True)
class Measured:
    """A metric with its 95 % interval, None where too few rows leave no way to tell; value NaN without rows."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Evaluation:
    """Metrics on `rows` rows of `days` days, by name; about: what the labels are like, such as the fraction of true."""

    metrics: Mapping[str, Estimate]
    rows: int
    days: int
    reliability: tuple[ReliabilityBin, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, metric: str) -> Estimate:
        return self.metrics[metric]

    def to_json(self) -> dict[str, Any]:
        """Flat, as evaluations of yes and no were always written: each metric under its name, beside the rest."""
        found = {name: asdict(estimate) for name, estimate in self.metrics.items()}
        bins = [asdict(one) for one in self.reliability]
        return {**found, "reliability": bins, "rows": self.rows, "days": self.days, **self.about}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], metrics: Mapping[str, Metric]) -> "Evaluation":
        """What `to_json` gave, of a task with these metrics; others in `value` are left out, and so is `about`."""
        found = {name: Estimate(**value[name]) for name in metrics if name in value}
        bins = tuple(ReliabilityBin(**one) for one in value.get("reliability", ()))
        return cls(found, value["rows"], value["days"], bins)


def metric_words(name: str) -> str:
    """The name of a metric for people."""
    return _WORDS.get(name, name.replace("_", " "))


def weights_without(block: Blocks) -> Floats:
    """Weights by block, [1 + blocks, blocks]: first all of them, then, of several, all but each in turn."""
    blocks = int(block.max()) + 1
    return np.vstack([np.ones(blocks), 1 - np.eye(blocks)]) if blocks > 1 else np.ones((1, 1))


def weighted_mean(values: Floats, block: Blocks, weights: Floats) -> Floats:
    """The mean of `values`, [rows], for each row of `weights` (by block)."""
    totals = np.bincount(block, values, minlength=weights.shape[1])
    means: Floats = weights @ totals / (weights @ np.bincount(block, minlength=weights.shape[1]))
    return means
