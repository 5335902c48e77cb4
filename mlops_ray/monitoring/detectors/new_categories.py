"""Categories that the reference has never seen."""

from dataclasses import dataclass
from math import nan

from mlops_ray.monitoring.detectors.cells import exact_cells
from mlops_ray.monitoring.detectors.contract import Family, Values
from mlops_ray.monitoring.sketches import CategoricalSketch, Sketch
from mlops_ray.use_case import FeatureKind


@dataclass(frozen=True)
class NewCategories:
    """The share of the window's values, missing ones left out, that are not among the reference's categories."""

    name: str = "new_categories"
    kinds: frozenset[FeatureKind] = frozenset({"category"})
    family: Family = "gaps"

    def statistic(self, reference: Sketch, window: Sketch) -> float:
        assert isinstance(window, CategoricalSketch)
        return window.unseen / window.values if reference.values and window.values else nan

    def exact(self, reference: Values, window: Values) -> float:
        both = exact_cells(reference, window)
        return float(both.window[-1] / both.window.sum()) if both.comparable else nan
