"""ROC AUC of counts, with its variance."""

from dataclasses import dataclass
from math import inf, nan

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Auc:
    """value: NaN unless there are rows of both labels. variance: inf with fewer than two rows of a label."""

    value: float
    variance: float


def roc_auc(positives: ArrayLike, negatives: ArrayLike) -> Auc:
    """From how many rows with and without the label have each score, in ascending order of the score; float64 [scores].

    DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
    characteristic curves", 1988, equations 1, 4 and 5; equal scores count a half. Counts may be fractions: expected
    ones give the expected AUC, up to the covariance of its numerator and denominator.
    """
    ups, downs = np.asarray(positives, dtype=np.float64), np.asarray(negatives, dtype=np.float64)
    m, n = ups.sum(), downs.sum()
    if not m > 0 or not n > 0:
        return Auc(nan, inf)
    beaten = (np.cumsum(downs) - downs / 2) / n
    beating = (m - np.cumsum(ups) + ups / 2) / m
    value = float(ups @ beaten / m)
    if m <= 1 or n <= 1:
        return Auc(value, inf)
    of_ups = ups @ (beaten - value) ** 2 / (m - 1)
    of_downs = downs @ (beating - value) ** 2 / (n - 1)
    return Auc(value, float(of_ups / m + of_downs / n))


def count_scores(
    score: NDArray[np.float64], label: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows with and without the label at each different score, ascending."""
    distinct, position = np.unique(score, return_inverse=True)
    ups = np.bincount(position, label, minlength=len(distinct)).astype(np.float64)
    return ups, np.bincount(position, minlength=len(distinct)).astype(np.float64) - ups


def interval(value: float, deviation: float, low: float = 0.0, high: float = 1.0) -> tuple[float, float] | None:
    """The 95 % interval of a normal estimate within low..high; None where its deviation is not known."""
    if not deviation < inf or value != value:
        return None
    return max(low, value - Z_95 * deviation), min(high, value + Z_95 * deviation)
