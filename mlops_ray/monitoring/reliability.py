"""How far labels are from their probabilities: what shows concept drift and stays still when only inputs drift."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlops_ray.tasks.roc_auc import roc_auc

_Float = NDArray[np.float64]
_BINS = 10
_SMALLEST = 1e-9


@dataclass(frozen=True)
class Reliability:
    """Rows with labels by bins of their probability, `edges` [bins - 1] being upper ends that belong to their bin.

    rows, predicted (sum of probabilities), positives (rows with the label): float64 [bins]. Of other answers than yes
    and no, predicted and positives are the sums of `Task.guess` and `Task.observed`, and there are more: squares, of
    observed minus guess; excess and its squares, of the errors above what was expected; and foretold_squares, of what
    was expected, with which the others' variance grows where inputs become harder.
    """

    edges: _Float
    rows: _Float
    predicted: _Float
    positives: _Float
    squares: _Float | None = None
    excess: _Float | None = None
    excess_squares: _Float | None = None
    foretold_squares: _Float | None = None

    @classmethod
    def of(cls, probability: ArrayLike, label: ArrayLike, edges: ArrayLike) -> "Reliability":
        """Rows [n] with labels in {0, 1}. The sums depend on the order of rows only in their last bit."""
        guess, observed = np.asarray(probability, dtype=np.float64), np.asarray(label, dtype=np.float64)
        return cls.of_sums({"predicted": guess, "positives": observed}, edges)

    @classmethod
    def of_sums(cls, sums: Mapping[str, _Float], edges: ArrayLike) -> "Reliability":
        """From what the rows [n] add to each sum, by the names of the fields; they lie in the bin of "predicted"."""
        ends = np.asarray(edges, dtype=np.float64)
        cell, weights = np.searchsorted(ends, sums["predicted"]), {"rows": np.ones(len(sums["predicted"])), **sums}
        return cls(
            ends, **{name: np.bincount(cell, one, len(ends) + 1).astype(np.float64) for name, one in weights.items()}
        )

    @property
    def sums(self) -> dict[str, _Float]:
        """By name, without those that there are not."""
        return {name: value for name, value in vars(self).items() if name != "edges" and value is not None}

    def plus(self, other: "Reliability", sign: int = 1) -> "Reliability":
        """Both together, or this one without the other (sign -1); of the sums that both have."""
        theirs = other.sums
        both = {name: mine + sign * theirs[name] for name, mine in self.sums.items() if name in theirs}
        return Reliability(self.edges, **both)

    def times(self, part: float) -> "Reliability":
        """With this part of the rows, and the same shares."""
        return Reliability(self.edges, **{name: part * value for name, value in self.sums.items()})

    def to_json(self) -> dict[str, Any]:
        return {name: value.tolist() for name, value in {"edges": self.edges, **self.sums}.items()}

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
    inputs moves rows between bins and changes nothing else. Where what is observed is no yes or no, the variance is
    that of the reference in the bin, times by how much larger errors were to be expected. NaN without rows.
    """
    there, expected, variance = _expected(reference, window)
    if not there.any():
        return nan
    rows = window.rows[there]
    errors = (window.positives[there] - rows * expected) ** 2 / variance
    return float(errors.mean())


def lost_discrimination(reference: Reliability, window: Reliability) -> float:
    """How far the ROC AUC is below the one to expect of rows with these probabilities; 0 where it is above.

    Like `miscalibration` it stays still while P(Y|X) does. A calm or a stormy week, in which all labels are less or
    more probable than the model says, moves it less, and labels that no longer follow the inputs move it more. AUCs
    are of the bins, so a bit low, both alike. NaN without rows of both labels.
    """
    there, expected, _ = _expected(reference, window)
    rows, positives = window.rows[there], window.positives[there]
    found, wanted = roc_auc(positives, rows - positives), roc_auc(rows * expected, rows * (1 - expected))
    return max(0.0, wanted.value - found.value) if found.value == found.value else nan


def calibrated(reference: Reliability, probability: _Float) -> _Float:
    """The probability of the label where the model answers `probability` [n]: corrected by the reference's own error in
    its bin, and kept within 0..1."""
    offset = (reference.positives - reference.predicted) / np.maximum(reference.rows, 1)
    return np.clip(probability + offset[np.searchsorted(reference.edges, probability)], 0, 1)


def excess_error(reference: Reliability, window: Reliability) -> float:
    """How far the mean error is above what the answers let expect, in deviations of a row; 0 where it is below. NaN
    without rows."""
    sums, rows = reference.sums, window.rows.sum()
    if not rows or window.excess is None or not reference.rows.sum():
        return nan
    usual = sums["excess"].sum() / reference.rows.sum()
    variance = sums["excess_squares"].sum() / reference.rows.sum() - usual**2
    variance *= _harder(reference.sums, window.sums, np.sum)
    more = float(window.excess.sum() / rows - usual)
    return max(0.0, more) / max(float(np.sqrt(max(variance, 0.0))), _SMALLEST)


def _harder(reference: Mapping[str, _Float], window: Mapping[str, _Float], of: Callable[[_Float], Any]) -> Any:
    """By how much more the errors of the window's rows vary than those of the reference's, by what is expected; `of`
    takes the bins together, or some of them."""
    if "foretold_squares" not in reference or "foretold_squares" not in window:
        return 1.0
    ours, theirs = (of(part["foretold_squares"]) / of(part["rows"]) for part in (window, reference))
    return np.where(theirs > 0, ours / np.where(theirs > 0, theirs, 1.0), 1.0)


def _expected(reference: Reliability, window: Reliability) -> tuple[NDArray[np.bool_], _Float, _Float]:
    """The bins that have rows, what to expect of a row in each of them, and the variance of the sum of its rows."""
    there = (reference.rows > 0) & (window.rows > 0)
    rows, old = window.rows[there], reference.rows[there]
    offset = (reference.positives[there] - reference.predicted[there]) / old
    expected = window.predicted[there] / rows + offset
    if reference.squares is not None:
        whole = reference.squares.sum() / reference.rows.sum()
        variance = reference.squares[there] / old - offset**2
        variance *= _harder(reference.sums, window.sums, lambda part: part[there])
        return there, expected, rows * np.maximum(variance, max(_SMALLEST, _SMALLEST * whole))
    expected = np.clip(expected, 1 / (old + 2), 1 - 1 / (old + 2))
    return there, expected, rows * expected * (1 - expected)


@dataclass(frozen=True)
class ConceptStatistic:
    """floor: differences that chance makes of it in a few hundred rows."""

    distance: Callable[[Reliability, Reliability], float]
    floor: float


CONCEPT_STATISTICS = {
    "miscalibration": ConceptStatistic(miscalibration, 0.5),
    "lost_discrimination": ConceptStatistic(lost_discrimination, 0.01),
    "excess_error": ConceptStatistic(excess_error, 0.05),
}


def statistics_of(reference: Reliability) -> tuple[str, ...]:
    """The statistics that can be taken of such sums."""
    return "miscalibration", "lost_discrimination" if reference.excess is None else "excess_error"
