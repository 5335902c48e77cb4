"""Variance of metrics of rows that come by days: those of one day are less than so many independent rows."""

from math import inf

import numpy as np
from numpy.typing import NDArray

from mlops_ray.tasks.roc_auc import Z_95, count_scores, roc_auc

_Float = NDArray[np.float64]
_Days = NDArray[np.int64]
# Fewer days do not tell how much they differ, and rows are taken to be independent.
LEAST_DAYS = 5


def variance_of_sum(parts: _Float, day: _Days) -> float:
    """Of the sum of `parts` [rows], which have mean 0, where those of a `day` [rows] may depend on each other; 0 with
    fewer than `LEAST_DAYS`.

    Liang and Zeger, "Longitudinal data analysis using generalized linear models", 1986, with the factor K / (K - 1)
    for K days.
    """
    number, position = np.unique(day, return_inverse=True)
    if len(number) < LEAST_DAYS:
        return 0.0
    sums = np.bincount(position, parts)
    return float(sums @ sums) * len(number) / (len(number) - 1)


def variance_between(score: _Float, label: NDArray[np.bool_], day: _Days) -> float:
    """Of the ROC AUC; 0 with fewer than `LEAST_DAYS` or rows of one label only.

    Obuchowski, "Nonparametric analysis of clustered ROC curve data", 1997: DeLong's components of the rows, summed by
    day.
    """
    ups, downs = count_scores(score, label)
    auc, m, n = roc_auc(ups, downs), ups.sum(), downs.sum()
    if not auc.variance < inf:
        return 0.0
    place = np.unique(score, return_inverse=True)[1]
    beaten = (np.cumsum(downs) - downs / 2) / n
    beating = (m - np.cumsum(ups) + ups / 2) / m
    parts = np.where(label, (beaten[place] - auc.value) / m, (beating[place] - auc.value) / n)
    return variance_of_sum(parts, day)


def widened(deviation: float, day: _Days) -> float:
    """The deviation with which a normal interval is as wide as Student's with that many days."""
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    days = len(np.unique(day))
    return deviation if days < LEAST_DAYS else deviation * float(stdtrit(days - 1, 0.975)) / Z_95
