"""Weights: how much each row of a fit counts, by its class and its age."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import DataError
from mlops_ray.tasks.scaling import Scaling, without_weights
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import Fit

# Of a row: what weighs less together is beyond what sums of gradients keep in float32.
_LEAST = 1e-6
# Of rows that count alike: what is learned of fewer is chance.
_FEWEST = 10


@dataclass(frozen=True)
class Weights:
    """rows: [rows], 1 on average; None: all the same. correction: what leads answers back, None where classes are not
    weighted."""

    rows: NDArray[np.float64] | None
    correction: Scaling | None


def weigh(fit: Fit, task: Task, labels: NDArray[Any], moments: pl.Series) -> Weights:
    """moments: of prediction, [rows]. Raises DataError if there is no row of a class that is to be weighted, if what
    all rows of a class weigh is next to nothing, and if of many rows of a number next to none count."""
    if fit.class_weights is None and fit.half_life is None:
        return Weights(None, None)
    rows, correction = np.ones(len(labels)), None
    if fit.half_life is not None:
        moment_us = moments.dt.timestamp("us").to_numpy()
        age_s = (moment_us.max() - moment_us) / 1e6
        rows *= 0.5 ** (age_s / fit.half_life.total_seconds())
    if fit.class_weights is not None:
        by_class = _by_class(fit.class_weights, task, labels, rows)
        rows *= by_class[task.class_numbers(labels)]
        correction = without_weights(by_class)
    # By a power of 2, which rounds nothing, so that no sum of them is beyond float64.
    rows = np.ldexp(rows, -np.frexp(rows.max())[1])
    rows /= rows.mean()
    _expect_weight(task, labels, rows)
    return Weights(rows, correction)


def _expect_weight(task: Task, labels: NDArray[Any], rows: NDArray[np.float64]) -> None:
    # As many rows of one weight have means that vary as much (Kish, "Survey sampling", 1965, section 11.7).
    alike = float(rows.sum() ** 2 / (rows**2).sum())
    if not task.class_names and alike < min(_FEWEST, len(rows) / 2):
        raise DataError(
            f"The weights of {len(rows):,} rows leave no more to learn from than {alike:.1f} rows that count alike (at "
            f"least {_FEWEST} are needed). Give Fit a longer half_life."
        )
    numbers = task.class_numbers(labels)
    for name, total, count in zip(task.class_names, np.bincount(numbers, rows), np.bincount(numbers), strict=False):
        if count and total < _LEAST:
            raise DataError(
                f"The {count} rows of the class {name} weigh {total:.1g} together, where a row weighs 1 on average, so "
                f"nothing would be learned of it. Give Fit a longer half_life, or class_weights that are less apart."
            )


def _by_class(declared: Any, task: Task, labels: NDArray[Any], ages: NDArray[np.float64]) -> NDArray[np.float64]:
    """ages: what each row weighs by its age."""
    names, numbers = task.class_names, task.class_numbers(labels)
    if isinstance(declared, Mapping):
        return np.array([float(declared.get(name, 1.0)) for name in names])
    counts = np.bincount(numbers, minlength=len(names))
    if absent := [str(name) for name, count in zip(names, counts, strict=True) if not count]:
        raise DataError(
            f"class_weights is 'balanced', and none of the {len(labels)} rows to fit to has the class "
            f"{' or '.join(absent)}. Give more data, or the weight of each class."
        )
    _expect_weight(task, labels, ages / ages.mean())
    balanced: NDArray[np.float64] = ages.sum() / (len(names) * np.bincount(numbers, ages))
    return balanced
