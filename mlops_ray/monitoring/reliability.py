"""How far labels are from their probabilities: what shows concept drift and stays still when only inputs drift."""

from collections.abc import Callable
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlops_ray.tasks.roc_auc import roc_auc

_Float = NDArray[np.float64]
_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Rows with labels by bins of their probability, `edges` [bins - 1] being upper ends that belong to their bin.

    rows, predicted (sum of probabilities), positives (rows with the label): float64 [bins].
    """

    edges: _Float
    rows: _Float
    predicted: _Float
    positives: _Float

    @classmethod
    def of(cls, probability: ArrayLike, label: ArrayLike, edges: ArrayLike) -> "Reliability":
        """Rows [n] with labels in {0, 1}. The sums depend on the order of rows only in their last bit."""
        ends, guess = np.asarray(edges, dtype=np.float64), np.asarray(probability, dtype=np.float64)
        weights = (np.ones(len(guess)), guess, np.asarray(label, dtype=np.float64))
        cell = np.searchsorted(ends, guess)
        return cls(ends, *(np.bincount(cell, weight, len(ends) + 1).astype(np.float64) for weight in weights))

    def plus(self, other: "Reliability", sign: int = 1) -> "Reliability":
        """Both together, or this one without the other (sign -1)."""
        sums = ((self.rows, other.rows), (self.predicted, other.predicted), (self.positives, other.positives))
        return Reliability(self.edges, *(mine + sign * theirs for mine, theirs in sums))

    def times(self, part: float) -> "Reliability":
        """With this part of the rows, and the same shares."""
        return Reliability(self.edges, *(part * one for one in (self.rows, self.predicted, self.positives)))

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name).tolist() for name in ("edges", "rows", "predicted", "positives")}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Reliability":
        return cls(**{name: np.array(numbers, dtype=np.float64) for name, numbers in value.items()})


def reliability_edges(probability: ArrayLike) -> _Float:
    """Edges of ten bins with equally many of the probabilities, fewer where they repeat."""
    guess = np.asarray(probability, dtype=np.float64)
    return np.unique(np.quantile(guess, np.arange(1, _BINS) / _BINS)) if len(guess) else np.empty(0)


def miscalibration(reference: Reliability, window: Reliability) -> float:
    """Mean over bins of (observed - expected)^2 / variance, about 1 while P(label | probability) stays as it was.

    Hosmer and Lemeshow, "Goodness of fit tests for the multiple logistic regression model", 1980, statistic C, divided
    by the bins that have rows. Deviation: what is expected is the probability plus the reference's own calibration
    error in the bin, so a model that was a bit off from the start is not drift. While P(Y|X) stays, a shift of the
    inputs moves rows between bins and changes nothing else. NaN without rows.
    """
    there, expected = _expected(reference, window)
    if not there.any():
        return nan
    rows = window.rows[there]
    errors = (window.positives[there] - rows * expected) ** 2 / (rows * expected * (1 - expected))
    return float(errors.mean())


def lost_discrimination(reference: Reliability, window: Reliability) -> float:
    """How far the ROC AUC is below the one to expect of rows with these probabilities; 0 where it is above.

    Like `miscalibration` it stays still while P(Y|X) does. A calm or a stormy week, in which all labels are less or
    more probable than the model says, moves it less, and labels that no longer follow the inputs move it more. AUCs
    are of the bins, so a bit low, both alike. NaN without rows of both labels.
    """
    there, expected = _expected(reference, window)
    rows, positives = window.rows[there], window.positives[there]
    found, wanted = roc_auc(positives, rows - positives), roc_auc(rows * expected, rows * (1 - expected))
    return max(0.0, wanted.value - found.value) if found.value == found.value else nan


def calibrated(reference: Reliability, probability: _Float) -> _Float:
    """The probability of the label where the model answers `probability` [n]: corrected by the reference's own error in
    its bin, and kept within 0..1."""
    offset = (reference.positives - reference.predicted) / np.maximum(reference.rows, 1)
    return np.clip(probability + offset[np.searchsorted(reference.edges, probability)], 0, 1)


def _expected(reference: Reliability, window: Reliability) -> tuple[NDArray[np.bool_], _Float]:
    """The bins that have rows, and the share with the label to expect in each of them."""
    there = (reference.rows > 0) & (window.rows > 0)
    rows, old = window.rows[there], reference.rows[there]
    offset = (reference.positives[there] - reference.predicted[there]) / old
    return there, np.clip(window.predicted[there] / rows + offset, 1 / (old + 2), 1 - 1 / (old + 2))


@dataclass(frozen=True)
class ConceptStatistic:
    """floor: differences that chance makes of it in a few hundred rows."""

    distance: Callable[[Reliability, Reliability], float]
    floor: float


CONCEPT_STATISTICS = {
    "miscalibration": ConceptStatistic(miscalibration, 0.5),
    "lost_discrimination": ConceptStatistic(lost_discrimination, 0.01),
}
