"""Jensen-Shannon distance."""

from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray

from mlops_ray.monitoring.detectors.cells import Cells, cells, exact_cells
from mlops_ray.monitoring.detectors.contract import Family, Values
from mlops_ray.monitoring.sketches import Sketch
from mlops_ray.use_case import FeatureKind


@dataclass(frozen=True)
class JensenShannon:
    """sqrt((KL(p, m) + KL(q, m)) / 2) in bits, with m = (p + q) / 2: from 0 (alike) to 1 (nothing in common).

    Lin, "Divergence measures based on the Shannon entropy", 1991, equation 3.1; its root is a metric (Endres and
    Schindelin, 2003). The same as scipy.spatial.distance.jensenshannon(p, q, base=2). Numbers are in tenths of the
    reference.
    """

    name: str = "jensen_shannon"
    kinds: frozenset[FeatureKind] = frozenset({"number", "category"})
    family: Family = "values"

    def statistic(self, reference: Sketch, window: Sketch) -> float:
        return _distance(cells(reference, window))

    def exact(self, reference: Values, window: Values) -> float:
        return _distance(exact_cells(reference, window))


def _distance(both: Cells) -> float:
    if not both.comparable:
        return nan
    p, q = both.shares()
    middle = (p + q) / 2
    return float(np.sqrt(max(0.0, (_divergence(p, middle) + _divergence(q, middle)) / 2)))


def _divergence(p: NDArray[np.float64], middle: NDArray[np.float64]) -> float:
    there = p > 0
    return float(p[there] @ np.log2(p[there] / middle[there]))
