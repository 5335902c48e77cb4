"""Kolmogorov-Smirnov distance."""

from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.monitoring.detectors.cells import bins, finite, shares_of
from mlops_ray.monitoring.detectors.contract import Family, Values
from mlops_ray.monitoring.sketches import NumericSketch, Sketch
from mlops_ray.use_case import FeatureKind


@dataclass(frozen=True)
class KolmogorovSmirnov:
    """sup |F - G| of the two empirical distribution functions: the statistic of scipy.stats.ks_2samp.

    Smirnov, "Table for estimating the goodness of fit of empirical distributions", 1948. Deviation in sketches: the
    supremum is taken over the edges of the bins, so it is at most the largest share of one bin too small, and nothing
    where each value has its own bin. Without shared bins each rank is off by the KLL sketch's error as well.
    """

    name: str = "kolmogorov_smirnov"
    kinds: frozenset[FeatureKind] = frozenset({"number"})
    family: Family = "values"

    def statistic(self, reference: Sketch, window: Sketch) -> float:
        assert isinstance(reference, NumericSketch)
        assert isinstance(window, NumericSketch)
        both = bins(reference, window)
        if not both.comparable:
            return nan
        p, q = both.shares()
        return float(np.abs(np.cumsum(p - q)).max())

    def statistics(self, reference: NDArray[Any], windows: NDArray[Any]) -> NDArray[np.float64]:
        """See `contract.ManyWindows`."""
        p, q = shares_of(reference[:, :-1]), shares_of(windows[:, :-1])
        return np.asarray(np.abs(np.cumsum(p - q, axis=1)).max(axis=1), dtype=np.float64)

    def exact(self, reference: Values, window: Values) -> float:
        old, new = np.sort(finite(reference)), np.sort(finite(window))
        if not len(old) or not len(new):
            return nan
        points = np.concatenate([old, new])
        below = (np.searchsorted(part, points, side="right") / len(part) for part in (old, new))
        return float(np.abs(np.subtract(*below)).max())
