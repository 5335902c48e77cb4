"""Measured: metrics of answers in production, each with the interval that chance, and the days, leave open."""

from math import inf, nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.tasks.day_variance import LEAST_DAYS, variance_between, variance_of_sum, widened
from mlops_ray.tasks.days import blocks_of
from mlops_ray.tasks.estimate import jackknife
from mlops_ray.tasks.evaluation import Floats, Measured, weights_without
from mlops_ray.tasks.roc_auc import count_scores, interval, roc_auc
from mlops_ray.tasks.task import Task

_Days = NDArray[np.int64]
# Where there are too few days to tell how much they differ, rows are taken to be independent, in so many blocks.
_BLOCKS = 20


UNKNOWN = Measured(nan, None, None)


def measured_by_blocks(task: Task, labels: NDArray[Any], answer: Floats, day: _Days) -> dict[str, Measured]:
    """Every metric of a task, but those that are mostly chance in few rows, with the interval of the jackknife over
    blocks of days (see `estimate.jackknife`), or of rows in turn where there are fewer than `LEAST_DAYS` days.

    labels, answer: as the task has them. day [rows]: a number for each day.
    """
    wanted = [name for name, metric in task.metrics.items() if not metric.biased]
    if not len(labels):
        return dict.fromkeys(wanted, UNKNOWN)
    enough = len(np.unique(day)) >= LEAST_DAYS
    block = blocks_of(day.astype(np.intp)) if enough else np.arange(len(labels)) % min(_BLOCKS, len(labels))
    values = task.values(wanted, labels, answer, block, weights_without(block))
    found = {}
    for name in wanted:
        metric, (value, *without) = task.metrics[name], values[name]
        freedom = task.freedom(name, labels, block)
        one = jackknife(float(value), np.array(without), freedom, metric.lowest, metric.highest)
        found[name] = Measured(one.value, one.low, one.high)
    return found


def measured_yes_no(label: NDArray[np.bool_], guess: Floats, log_losses: Floats, day: _Days) -> dict[str, Measured]:
    """ROC AUC, log loss and Brier score of probabilities of yes, exactly and in one pass.

    The variance of the ROC AUC is DeLong's, or that between days where it is larger.
    """
    auc = roc_auc(*count_scores(guess, label))
    variance = max(auc.variance, variance_between(guess, label, day)) if auc.variance < inf else inf
    ends = interval(auc.value, widened(sqrt(variance), day))
    return {
        "roc_auc": Measured(auc.value, *(ends or (None, None))),
        "log_loss": _mean(log_losses, day, inf),
        "brier": _mean((guess - label) ** 2, day, 1.0),
    }


def _mean(losses: Floats, day: _Days, highest: float) -> Measured:
    """With its interval: rows of one day resemble each other, where there are enough days to tell how much."""
    if len(losses) < 2:
        return Measured(float(losses.mean()) if len(losses) else nan, None, None)
    value = float(losses.mean())
    independent = float(losses.var(ddof=1)) / len(losses)
    variance = max(independent, variance_of_sum((losses - value) / len(losses), day))
    ends = interval(value, widened(sqrt(variance), day), 0.0, highest)
    return Measured(value, *(ends or (None, None)))
