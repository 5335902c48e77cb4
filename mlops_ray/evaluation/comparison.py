"""Comparison: is the challenger better than the champion, or was it lucky with these days?"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mlops_ray.errors import DataError
from mlops_ray.evaluation.metrics import Estimate, days_of, draw_days, estimate, ranking

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
    label: NDArray[np.bool_],
    challenger: _Float,
    champion: _Float,
    moment: NDArray[np.datetime64],
    metric: RankingMetric,
    seed: int,
) -> Comparison:
    """Compare two models' probabilities for the same rows; all arrays have the shape [rows].

    The interval is the percentile interval of the paired bootstrap (Efron, Tibshirani, "An Introduction to the
    Bootstrap", 1993, section 13.3) of the difference, over whole days as blocks (see `metrics.evaluate`): both models
    are scored on each resample, so what makes a day hard for both cancels out. DeLong's test (DeLong, DeLong,
    Clarke-Pearson, Biometrics 44, 1988) pairs the models as well, but takes rows as independent, which those of one
    day are not.

    Raises DataError if the rows have only one of the two labels, or the arrays differ in length.
    """
    if not len(label) == len(challenger) == len(champion) == len(moment):
        raise DataError(
            f"The models gave {len(challenger)} and {len(champion)} answers for {len(label)} rows: they cannot be "
            f"compared."
        )
    if label.all() or not label.any():
        raise DataError(f"The {len(label)} rows to compare on have only one of the two labels.")
    truth, day = label.astype(np.float64), days_of(moment)
    days = int(day.max()) + 1
    weights = np.vstack([np.ones(days), draw_days(days, seed)])
    which = 0 if metric == "roc_auc" else 1
    ours, theirs = (ranking(truth, guess.astype(np.float64), day, weights)[which] for guess in (challenger, champion))
    return Comparison(metric, float(ours[0]), float(theirs[0]), estimate(ours - theirs), len(label), days)
