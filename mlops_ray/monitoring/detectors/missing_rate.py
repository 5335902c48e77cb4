"""Change of the share of missing values."""

from dataclasses import dataclass
from math import nan

from mlops_ray.monitoring.detectors.cells import is_missing
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

    def exact(self, reference: Values, window: Values) -> float:
        old, new = is_missing(reference), is_missing(window)
        return float(abs(new.mean() - old.mean())) if len(old) and len(new) else nan
