"""Importance: how much worse a model's answers are without what one feature says."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from mlops_ray.tasks.days import blocks_of
from mlops_ray.tasks.estimate import Estimate, freedom_of, jackknife
from mlops_ray.tasks.evaluation import Floats, weighted_mean, weights_without
from mlops_ray.tasks.task import Task

ROWS = 5_000

Ask = Callable[[pl.DataFrame], ArrayLike]


def permutation_importance(
    task: Task,
    ask: Ask,
    rows: pl.DataFrame,
    labels: NDArray[Any],
    day: NDArray[np.intp],
    features: Sequence[str],
    seed: int,
) -> dict[str, Estimate]:
    """By how much the mean loss (`Task.losses`) grows when a feature's values are dealt out to other rows; or 0. The
    interval is what other days would have made of it (`estimate.jackknife`), and is not cut off at 0.

    Breiman, "Random forests", Machine Learning 45, 2001, section 10. Deviations: the loss is the task's, each feature
    is permuted once, and of many rows 5,000 are taken. What two features say together counts for neither.

    ask: the model's answer to each row. rows: held-out rows with a column for each feature. day: of each, see days_of.
    """
    random = np.random.default_rng(seed)
    if rows.height > ROWS:
        chosen = np.sort(random.choice(rows.height, ROWS, replace=False))
        rows, labels, day = rows[chosen], labels[chosen], day[chosen]
    block = blocks_of(day)
    weights, freedom = weights_without(block), freedom_of(np.bincount(block).astype(np.float64))

    def losses(asked: pl.DataFrame) -> Floats:
        return task.losses(labels, np.asarray(ask(asked), dtype=np.float64))

    usual = losses(rows)
    grown = {}
    for name in features:
        dealt = rows.with_columns(rows[name].gather(random.permutation(rows.height)))
        means = weighted_mean(losses(dealt) - usual, block, weights)
        found = jackknife(float(means[0]), means[1:], freedom)
        grown[name] = replace(found, value=max(0.0, found.value))
    return grown
