"""Importance: how much worse a model's answers are without what one feature says."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from mlops_ray.tasks.task import Task

ROWS = 5_000

Ask = Callable[[pl.DataFrame], ArrayLike]


def permutation_importance(
    task: Task, ask: Ask, rows: pl.DataFrame, labels: NDArray[Any], features: Sequence[str], seed: int
) -> dict[str, float]:
    """By how much the mean loss (`Task.losses`) grows when a feature's values are dealt out to other rows; or 0.

    Breiman, "Random forests", Machine Learning 45, 2001, section 10. Deviations: the loss is the task's, each feature
    is permuted once, and of many rows 5,000 are taken. What two features say together counts for neither.

    ask: the model's answer to each row. rows: held-out rows with a column for each feature.
    """
    random = np.random.default_rng(seed)
    if rows.height > ROWS:
        chosen = np.sort(random.choice(rows.height, ROWS, replace=False))
        rows, labels = rows[chosen], labels[chosen]

    def loss(asked: pl.DataFrame) -> float:
        return float(task.losses(labels, np.asarray(ask(asked), dtype=np.float64)).mean())

    usual = loss(rows)
    grown = {}
    for name in features:
        dealt = rows.with_columns(rows[name].gather(random.permutation(rows.height)))
        grown[name] = max(0.0, loss(dealt) - usual)
    return grown
