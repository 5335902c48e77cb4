"""Wasserstein distance."""

from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray

from mlops_ray.monitoring.detectors.cells import bins, finite, single_values
from mlops_ray.monitoring.detectors.contract import Family, Values
from mlops_ray.monitoring.sketches import NumericSketch, Sketch, edges_of
from mlops_ray.use_case import FeatureKind


@dataclass(frozen=True)
class Wasserstein:
    """Integral of |F - G|, in standard deviations of the reference: how far the mass must travel.

    Ramdas, Garcia and Cuturi, "On Wasserstein two-sample testing and related families of nonparametric tests", 2017,
    proposition 1 for p = 1; the same as scipy.stats.wasserstein_distance over the deviation. Deviations: values beyond
    the outermost edges of the reference (its 1 % and 99 % quantiles) count as those edges, so that a single outlier
    does not decide, and one deviation more where the edge lies beyond all of its values or is the largest of them (see
    `sketches.edges_of`), so that of a constant it is the share of other values; in sketches the distribution functions
    are straight lines within a bin, which is off by at most the sum over bins of width times the larger of the two
    shares, and nothing where both have only values with bins of their own.
    """

    name: str = "wasserstein"
    kinds: frozenset[FeatureKind] = frozenset({"number"})
    family: Family = "values"

    def statistic(self, reference: Sketch, window: Sketch) -> float:
        assert isinstance(reference, NumericSketch)
        assert isinstance(window, NumericSketch)
        both = bins(reference, window)
        if not both.comparable:
            return nan
        p, q = both.shares()
        apart = np.cumsum(p - q)[:-1]
        if not len(apart):
            return 0.0
        below, above = both.edges[0] < reference.minimum, both.edges[-1] >= reference.maximum
        beyond = below * abs(apart[0]) + above * abs(apart[-1])
        # Sealed by earlier releases, each value has a bin that begins at the one before: F and G are steps.
        steps = single_values(both.edges) | (above and both.edges[0] >= reference.minimum)
        heights = np.where(steps, np.abs(apart[:-1]), _mean_absolute(apart[:-1], apart[1:]))
        return float(beyond + _in_deviations(float(heights @ np.diff(both.edges)), reference.deviation))

    def exact(self, reference: Values, window: Values) -> float:
        old, new = finite(reference), finite(window)
        if not len(old) or not len(new):
            return nan
        edges = edges_of(old).astype(np.float64)
        points = np.unique(np.clip(np.concatenate([old, new]), edges[0], edges[-1]))
        below = (np.searchsorted(np.sort(part), points, side="right") / len(part) for part in (old, new))
        travelled = np.abs(np.subtract(*below))[:-1] @ np.diff(points)
        lowest, highest = old.min(), old.max()
        beyond = (edges[0] < lowest) * (new < lowest).mean() + (edges[-1] >= highest) * (new > highest).mean()
        return float(beyond + _in_deviations(float(travelled), float(old.std())))


def _in_deviations(distance: float, deviation: float) -> float:
    return distance / deviation if deviation > 0 else 0.0


def _mean_absolute(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of |straight line from left to right|, which may cross zero."""
    high, low = np.abs(left), np.abs(right)
    crossed = (left * right < 0) & (high + low > 0)
    return np.where(crossed, (high**2 + low**2) / np.where(crossed, 2 * (high + low), 1), (high + low) / 2)
