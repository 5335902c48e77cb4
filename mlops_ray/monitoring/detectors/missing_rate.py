"""Change of the share of missing values."""

from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.monitoring.detectors.cells import is_missing, shares_of
from mlops_ray.monitoring.detectors.contract import Family, Values
from mlops_ray.monitoring.sketches import Sketch
from mlops_ray.use_case import FeatureKind


@dataclass(frozen=True)
class MissingRate:
    """|q - p| with p and q the shares of missing values: a column that fills up is as much a change as one that goes.

    Unlike the other detectors it also compares columns that have no values at all.
    """

    name: str = "missing_rate"
    kinds: frozenset[FeatureKind] = frozenset({"number", "category"})
    family: Family = "gaps"

    def statistic(self, reference: Sketch, window: Sketch) -> float:
        if not reference.rows or not window.rows:
            return nan
        return float(abs(window.missing / window.rows - reference.missing / reference.rows))

    def statistics(self, reference: NDArray[Any], windows: NDArray[Any]) -> NDArray[np.float64]:
        """See `contract.ManyWindows`."""
        p, q = shares_of(reference)[:, -1], shares_of(windows)[:, -1]
        return np.asarray(np.abs(q - p), dtype=np.float64)

    def exact(self, reference: Values, window: Values) -> float:
        old, new = is_missing(reference), is_missing(window)
        return float(abs(new.mean() - old.mean())) if len(old) and len(new) else nan
