"""Baseline: what one would answer without a model, and whether a model is better than that."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.features.columns import LABEL
from mlops_ray.tasks.task import Task

# A group with fewer rows says less than all rows do.
FEWEST_ROWS = 20


def baseline(
    task: Task, seen: pl.DataFrame, asked: pl.DataFrame, by: Sequence[str], metric: str
) -> NDArray[np.float64]:
    """What one would answer to each row of `asked` without a model, from rows of `seen` with the same values of `by`.

    It is the one that is best by the metric, such as their rate, mean or median (`Task.without_model`); with hour and
    weekday a seasonal baseline. Numbers count by their whole part. Of all rows where `by` is empty, and for groups of
    fewer than FEWEST_ROWS rows.
    """
    labels = task.encoded(seen[LABEL])
    of_all = task.without_model(labels, metric)
    answers = np.tile(of_all, (asked.height, 1)) if task.width > 1 else np.full(asked.height, of_all)
    if not by:
        return answers
    keys = [_whole(column, seen.schema[column]) for column in by]
    groups = (
        seen.lazy()
        .select(*keys)
        .with_row_index("row")
        .group_by(by)
        .agg("row")
        .filter(pl.col("row").list.len() >= FEWEST_ROWS)
    )
    known = groups.with_row_index("group").collect()
    joined = asked.select(*keys).join(
        known.select("group", *by), on=by, how="left", nulls_equal=True, maintain_order="left"
    )
    group = joined["group"].fill_null(known.height).to_numpy()
    guesses = np.array([*(task.without_model(labels[rows], metric) for rows in known["row"]), of_all])
    found: NDArray[np.float64] = guesses[group]
    return found


def _whole(column: str, dtype: pl.DataType) -> pl.Expr:
    return pl.col(column).cast(pl.Float64).floor() if dtype.is_numeric() else pl.col(column)
