"""Alone: how well one feature by itself tells the labels apart. A feature that does so nearly as well as the outcome
itself most often is the outcome, known too early."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.tasks.ranking import ranking
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import Feature

ROWS_OF_A_LABEL = 2_500
# What a category's rate of labels is drawn towards that of all rows by: a value seen once says little.
_PRIOR_ROWS = 20


def roc_auc_alone(
    task: Task, seen: pl.DataFrame, rows: pl.DataFrame, features: Sequence[Feature], label: str, seed: int
) -> dict[str, float]:
    """The ROC AUC of ranking `rows` by each feature, the better one of both directions: 0.5 for one that says nothing.

    What is ranked by are the task's events: of several the one that the feature tells best. seen: rows from before, by
    which categories are ranked: by the rate of the event there. A missing number stands below all others. Of many rows
    2,500 with and 2,500 without the event are taken, which changes no ROC AUC but by chance, about 0.01.
    """
    found = dict.fromkeys((feature.name for feature in features), 0.5)
    before = task.events(task.encoded(seen[label]))
    for name, event in task.events(task.encoded(rows[label])).items():
        if event.all() or not event.any():
            continue
        parts = rows.with_columns(pl.Series(label, event)).partition_by(label, maintain_order=True)
        asked = pl.concat(part.sample(min(part.height, ROWS_OF_A_LABEL), seed=seed) for part in parts)
        known = seen.with_columns(pl.Series(label, before[name]))
        for feature in features:
            score = _rates(known, asked, feature.name, label) if feature.kind == "category" else None
            score = _numbers(asked, feature.name) if score is None else score
            found[feature.name] = max(found[feature.name], _either_way(asked[label].to_numpy(), score))
    return found


def _either_way(event: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    one_block = np.zeros(len(event), dtype=np.intp)
    auc = float(ranking(event.astype(np.float64), score, one_block, np.ones((1, 1)))[0][0])
    return max(auc, 1 - auc)


def _numbers(rows: pl.DataFrame, name: str) -> NDArray[np.float64]:
    values = rows[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    known = np.isfinite(values)
    below = values[known].min(initial=0.0) - 1
    return np.where(known, values, below)


def _rates(seen: pl.DataFrame, rows: pl.DataFrame, name: str, label: str) -> NDArray[np.float64]:
    positive = pl.col(label).cast(pl.Float64)
    overall = float(seen[label].cast(pl.Float64).mean() or 0.0)  # type: ignore[arg-type]
    rate = (positive.sum() + _PRIOR_ROWS * overall) / (pl.len() + _PRIOR_ROWS)
    rates = seen.group_by(pl.col(name).cast(pl.String)).agg(rate.alias("rate"))
    asked = rows.select(pl.col(name).cast(pl.String))
    joined = asked.join(rates, on=name, how="left", nulls_equal=True, maintain_order="left")
    return joined["rate"].fill_null(overall).to_numpy()
