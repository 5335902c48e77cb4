"""Comparison: is the challenger better than the champion, or was it lucky with these days?"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import DataError
from mlops_ray.evaluation.days import blocks_of
from mlops_ray.evaluation.estimate import Estimate, jackknife
from mlops_ray.evaluation.metrics import freedom_by_label, ranking, weights_without
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.tasks.binary import RankingMetric

Verdict = Literal["better", "not worse", "worse", "undecided"]
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


def verdict(difference: Estimate, margin: float = 0.0) -> Verdict:
    """What a difference (challenger minus champion) shows, with 95 % certainty.

    better: it is above 0, and above `margin` where that is more. not worse: it is above `margin`, or, where that is
    more than 0, above 0; so with a negative margin the challenger may be worse by that much and is "not worse", which
    two equal models are on enough rows. worse: it is below 0. undecided: none of them, or there are too few days for
    an interval. Of two equal models at most 2.5 % are called better, and as many worse.
    """
    if difference.low is None or difference.high is None:
        return "undecided"
    if difference.low > max(margin, 0.0):
        return "better"
    if difference.low > min(margin, 0.0):
        return "not worse"
    return "worse" if difference.high < 0 else "undecided"


def unseen(rows: pl.DataFrame, *trained_until: datetime) -> pl.DataFrame:
    """The rows on which models can be compared: those that were predicted after the training of each of them.

    trained_until: of each model, the end of its last fit (`Split.trained_until`): it has seen nothing predicted later.
    """
    return rows.filter(pl.col(PREDICTION_TIME) >= max(trained_until))


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
