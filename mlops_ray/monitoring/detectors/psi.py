"""Population stability index."""

from dataclasses import dataclass
from math import nan

import numpy as np

from mlops_ray.monitoring.detectors.cells import Cells, cells, exact_cells
from mlops_ray.monitoring.detectors.contract import Family, Values
from mlops_ray.monitoring.sketches import Sketch
from mlops_ray.use_case import FeatureKind

# Jeffreys' prior: half a row in each cell, so that an empty one does not make the index infinite.
_PRIOR_ROWS = 0.5


@dataclass(frozen=True)
class PopulationStabilityIndex:
    """sum over cells of (q - p) ln(q / p), with p and q the shares of reference and window.

    Siddiqi, "Credit Risk Scorecards", 2006, chapter 9; the divergence J(1, 2) of Kullback and Leibler, "On information
    and sufficiency", 1951, equation 2.6. Numbers are in tenths of the reference. Deviation: each cell counts half a
    row more. The rules of thumb 0.1 and 0.2 are not used: what chance alone makes grows with the cells and shrinks
    with the rows (Yurdakul, "Statistical properties of population stability index", 2018).
    """

    name: str = "psi"
    kinds: frozenset[FeatureKind] = frozenset({"number", "category"})
    family: Family = "values"

    def statistic(self, reference: Sketch, window: Sketch) -> float:
        return _index(cells(reference, window))

    def exact(self, reference: Values, window: Values) -> float:
        return _index(exact_cells(reference, window))


def _index(both: Cells) -> float:
    if not both.comparable:
        return nan
    old, new = both.reference + _PRIOR_ROWS, both.window + _PRIOR_ROWS
    p, q = old / old.sum(), new / new.sum()
    return float((q - p) @ np.log(q / p))
