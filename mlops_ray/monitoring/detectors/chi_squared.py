"""Chi-squared distance of categories."""

from dataclasses import dataclass
from math import nan

import numpy as np

from mlops_ray.monitoring.detectors.cells import Cells, cells, exact_cells
from mlops_ray.monitoring.detectors.contract import Family, Values
from mlops_ray.monitoring.sketches import Sketch
from mlops_ray.use_case import FeatureKind


@dataclass(frozen=True)
class ChiSquared:
    """Pearson's statistic of the table with two rows (reference, window) and a column for each category.

    Pearson, "On the criterion that a given system of deviations ...", 1900; the same as
    scipy.stats.chi2_contingency(table, correction=False). All values never seen in the reference are one more
    category; categories that neither has are left out.
    """

    name: str = "chi_squared"
    kinds: frozenset[FeatureKind] = frozenset({"category"})
    family: Family = "values"

    def statistic(self, reference: Sketch, window: Sketch) -> float:
        return _pearson(cells(reference, window))

    def exact(self, reference: Values, window: Values) -> float:
        return _pearson(exact_cells(reference, window))


def _pearson(both: Cells) -> float:
    if not both.comparable:
        return nan
    table = np.vstack([both.reference, both.window])
    table = table[:, table.sum(axis=0) > 0]
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return float(((table - expected) ** 2 / expected).sum())
