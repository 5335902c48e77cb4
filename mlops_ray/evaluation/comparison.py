"""Comparison: is the challenger better than the champion, or was it lucky with these days?"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mlops_ray.errors import DataError
from mlops_ray.evaluation.days import blocks_of
from mlops_ray.evaluation.estimate import Estimate, jackknife
from mlops_ray.evaluation.metrics import freedom_by_label, ranking, weights_without

RankingMetric = Literal["roc_auc", "average_precision"]
_Float = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """difference: challenger minus champion; above 0 the challenger is better."""

    metric: RankingMetric
    challenger: float
    champion: float
    difference: Estimate
    rows: int
    days: int


def compare(
    label: NDArray[np.bool_], challenger: _Float, champion: _Float, day: NDArray[np.intp], metric: RankingMetric
) -> Comparison:
    """Compare two models' probabilities for the same rows; all arrays have the shape [rows]. day: see `days.days_of`.

    The interval of the difference is `estimate.jackknife`'s, over blocks of whole days: both models are scored without
    each block, so what makes a day hard for both cancels out. DeLong's test (DeLong, DeLong, Clarke-Pearson, Biometrics
    44, 1988) pairs the models as well, but takes rows as independent, which those of one day are not; where they are,
    both agree. With few days Student's t is what keeps the level, and with fewer than five there is no interval.

    Raises DataError if the rows have only one of the two labels, or the arrays differ in length.
    """
    if not len(label) == len(challenger) == len(champion) == len(day):
        raise DataError(
            f"The models gave {len(challenger)} and {len(champion)} answers for {len(label)} rows: they cannot be "
            f"compared."
        )
    if label.all() or not label.any():
        raise DataError(f"The {len(label)} rows to compare on have only one of the two labels.")
    truth, block = label.astype(np.float64), blocks_of(day)
    weights = weights_without(block)
    which = 0 if metric == "roc_auc" else 1
    ours, theirs = (ranking(truth, guess.astype(np.float64), block, weights)[which] for guess in (challenger, champion))
    gain = ours - theirs
    difference = jackknife(float(gain[0]), gain[1:], freedom_by_label(truth, block), -1.0, 1.0)
    return Comparison(metric, float(ours[0]), float(theirs[0]), difference, len(label), len(np.unique(day)))
