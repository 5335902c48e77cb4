"""Partial dependence: the mean answer where one feature has one value and all others are as they are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from mlops_ray.tasks.days import blocks_of
from mlops_ray.tasks.estimate import freedom_of, jackknife
from mlops_ray.tasks.evaluation import Blocks, Floats, weighted_mean, weights_without
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import Feature

# At most so many features, values of each and rows are asked about: 30,000 answers.
FEATURES, VALUES, ROWS = 6, 10, 500

Ask = Callable[[pl.DataFrame], ArrayLike]


@dataclass(frozen=True)
class Curve:
    """Of one part of the answer, the mean at each value with its 95 % interval, which is None with too few days."""

    mean: Sequence[float]
    low: Sequence[float | None]
    high: Sequence[float | None]


@dataclass(frozen=True)
class Dependence:
    """kind: of the feature. values: numbers, or texts. curves: by the part of the answer, as `Task.parts` names them;
    "" where there is one."""

    kind: str
    values: Sequence[float | str]
    curves: Mapping[str, Curve]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def partial_dependence(
    task: Task, ask: Ask, rows: pl.DataFrame, day: NDArray[np.intp], features: Sequence[Feature], seed: int
) -> dict[str, Dependence]:
    """Of each of the first FEATURES features, by name; nothing of one that has no two values.

    Friedman, "Greedy function approximation: a gradient boosting machine", Annals of Statistics 29, 2001, section 8.2.
    The values are quantiles of a number, and the most frequent ones of a category. Where features go together, rows
    are asked about that do not exist. The intervals say what other days would have made of the mean: the model is taken
    as it is.

    ask: the model's answer to each row. rows: held-out rows with a column for each feature. day: of each, see days_of.
    """
    chosen = np.arange(rows.height)
    if rows.height > ROWS:
        chosen = np.sort(np.random.default_rng(seed).choice(rows.height, ROWS, replace=False))
    asked, block = rows[chosen], blocks_of(day[chosen])
    found = {}
    for feature in features[:FEATURES]:
        values = _values(rows[feature.name], feature.kind)
        if len(values) > 1:
            set_to = pl.Series(feature.name, [value for value in values for _ in range(asked.height)])
            answers = ask(pl.concat([asked] * len(values)).with_columns(set_to.cast(rows[feature.name].dtype)))
            by_value = np.asarray(answers, dtype=np.float64).reshape(len(values), asked.height, task.width)
            found[feature.name] = Dependence(feature.kind, values, _curves(task, by_value, block))
    return found


def _values(column: pl.Series, kind: str) -> list[Any]:
    if kind == "category":
        texts = column.cast(pl.String).drop_nulls()
        counts = (
            texts.filter(texts != "").value_counts(name="rows").sort(["rows", column.name], descending=[True, False])
        )
        return counts[column.name][:VALUES].to_list()
    numbers = column.cast(pl.Float64)
    numbers = numbers.filter(numbers.is_finite())
    if not len(numbers):
        return []
    # "nearest": a value between two whole numbers may be none.
    quantiles = (numbers.quantile(share, "nearest") for share in np.linspace(0.01, 0.99, VALUES))
    return sorted({float(one) for one in quantiles if one is not None})


def _curves(task: Task, answers: Floats, block: Blocks) -> dict[str, Curve]:
    """answers: [values, rows, width]."""
    weights, freedom = weights_without(block), freedom_of(np.bincount(block).astype(np.float64))
    curves = {}
    for at, name in enumerate(task.parts or ("",)):
        means = [weighted_mean(of_value, block, weights) for of_value in answers[:, :, at]]
        estimates = [jackknife(float(one[0]), one[1:], freedom) for one in means]
        bounds = ([getattr(one, side) for one in estimates] for side in ("value", "low", "high"))
        curves[name] = Curve(*bounds)
    return curves
