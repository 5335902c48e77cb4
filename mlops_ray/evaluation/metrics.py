"""How good the answers are: the metrics of the label's task, each with the interval that its days leave open."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlops_ray.errors import DataError
from mlops_ray.tasks.days import blocks_of
from mlops_ray.tasks.estimate import jackknife
from mlops_ray.tasks.evaluation import Evaluation, weights_without
from mlops_ray.tasks.task import Task


def evaluate(task: Task, labels: NDArray[Any], answer: NDArray[np.float64], day: NDArray[np.intp]) -> Evaluation:
    """Score `answer` against `labels`, both as `task` has them; day: of each row (see `days.days_of`), [rows].

    The intervals are those of `estimate.jackknife`, over blocks of whole days: rows of one day share its weather and
    its jams, so taking rows as independent would make the intervals too narrow. What one day does to the next is seen
    only as far as both are in one block. The calibration error is never below 0 and is biased upwards by chance; so is
    its interval.

    Raises DataError if an answer cannot be one, or if the labels are too few kinds to be judged on.
    """
    if wrong := task.wrong(answer):
        raise DataError(f"{wrong} Repair the candidate.")
    if lacking := task.shortfall(labels):
        raise DataError(f"There are {lacking} to score. Choose a longer test period.")
    block = blocks_of(day)
    weights = weights_without(block)
    # With more threads BLAS adds up in another order, and two processes differ in the last digits (measured: 1e-12).
    with threadpool_limits(limits=1, user_api="blas"):
        values = task.values(task.metrics.keys(), labels, answer, block, weights)
        reliability = task.reliability(labels, answer)
    found = {
        name: jackknife(
            float(values[name][0]), values[name][1:], task.freedom(name, labels, block), metric.lowest, metric.highest
        )
        for name, metric in task.metrics.items()
    }
    return Evaluation(found, len(labels), len(np.unique(day)), reliability, task.about(labels))
