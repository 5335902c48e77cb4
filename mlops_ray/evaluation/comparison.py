"""Comparison: is the challenger better than the champion, or was it lucky with these days?"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import DataError
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.tasks.days import blocks_of
from mlops_ray.tasks.estimate import Estimate, jackknife
from mlops_ray.tasks.evaluation import weights_without
from mlops_ray.tasks.task import Task

Verdict = Literal["better", "not worse", "worse", "undecided"]
_Float = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """difference: by how much the challenger is better, below 0 worse; where less of a metric is better, champion minus
    challenger."""

    metric: str
    challenger: float
    champion: float
    difference: Estimate
    rows: int
    days: int


def verdict(difference: Estimate, margin: float = 0.0) -> Verdict:
    """What a difference (see `Comparison`) shows, with 95 % certainty.

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
    tasks: tuple[Task, Task],
    labels: NDArray[Any],
    challenger: _Float,
    champion: _Float,
    day: NDArray[np.intp],
    metric: str,
) -> Comparison:
    """Compare two models' answers to the same rows, by a metric of their tasks. day: [rows], see `days.days_of`.

    tasks: of challenger and champion, which may act from another threshold on (`Task.like`).

    The interval of the difference is `estimate.jackknife`'s, over blocks of whole days: both models are scored without
    each block, so what makes a day hard for both cancels out. DeLong's test (DeLong, DeLong, Clarke-Pearson, Biometrics
    44, 1988) pairs the models as well, but takes rows as independent, which those of one day are not; where they are,
    both agree. With few days Student's t is what keeps the level, and with fewer than five there is no interval.

    Raises DataError if the labels cannot be judged on (`Task.shortfall`), or the arrays differ in length.
    """
    if not len(labels) == len(challenger) == len(champion) == len(day):
        raise DataError(
            f"The models gave {len(challenger)} and {len(champion)} answers for {len(labels)} rows: they cannot be "
            f"compared."
        )
    task = tasks[0]
    if lacking := task.shortfall(labels):
        raise DataError(f"There are {lacking} to compare on.")
    for whose, one in zip(("version", "champion"), tasks, strict=True):
        if metric not in one.metrics:
            raise DataError(f"The {whose} has no {metric}: it answers without the quantiles that are declared now.")
    block = blocks_of(day)
    weights = weights_without(block)
    ours, theirs = (
        one.values({metric}, labels, answer.astype(np.float64), block, weights)[metric]
        for one, answer in zip(tasks, (challenger, champion), strict=True)
    )
    judged = task.metrics[metric]
    gain = theirs - ours if judged.lower_is_better else ours - theirs
    widest = judged.highest - judged.lowest
    difference = jackknife(float(gain[0]), gain[1:], task.freedom(metric, labels, block), -widest, widest)
    return Comparison(metric, float(ours[0]), float(theirs[0]), difference, len(labels), len(np.unique(day)))
