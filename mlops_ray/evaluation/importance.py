"""Importance: how much worse a model's answers are without what one feature says."""

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

ROWS = 5_000

Ask = Callable[[pl.DataFrame], ArrayLike]


def permutation_importance(
    ask: Ask, rows: pl.DataFrame, label: ArrayLike, features: Sequence[str], seed: int
) -> dict[str, float]:
    """By how much the log loss (nats) grows when a feature's values are dealt out to other rows; 0 where it does not.

    Breiman, "Random forests", Machine Learning 45, 2001, section 10. Deviations: the loss is the log loss, each feature
    is permuted once, and of many rows 5,000 are taken. What two features say together counts for neither.

    ask: the model's probability for each row. rows: held-out rows with a column for each feature.
    """
    random = np.random.default_rng(seed)
    if rows.height > ROWS:
        chosen = np.sort(random.choice(rows.height, ROWS, replace=False))
        rows, label = rows[chosen], np.asarray(label)[chosen]
    truth = np.asarray(label, dtype=np.bool_)
    usual = _log_loss(ask(rows), truth)
    grown = {}
    for name in features:
        dealt = rows.with_columns(rows[name].gather(random.permutation(rows.height)))
        grown[name] = max(0.0, _log_loss(ask(dealt), truth) - usual)
    return grown


def _log_loss(probability: ArrayLike, label: NDArray[np.bool_]) -> float:
    guess = np.clip(np.asarray(probability, dtype=np.float64), 1e-9, 1 - 1e-9)
    return float(-np.where(label, np.log(guess), np.log1p(-guess)).mean())
