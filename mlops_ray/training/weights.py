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


@dataclass(frozen=True)
class Weights:
    """rows: [rows], 1 on average; None: all the same. correction: what leads answers back, None where classes are not
    weighted."""

    rows: NDArray[np.float64] | None
    correction: Scaling | None


def weigh(fit: Fit, task: Task, labels: NDArray[Any], moments: pl.Series) -> Weights:
    """moments: of prediction, [rows]. Raises DataError if there is no row of a class that is to be weighted."""
    if fit.class_weights is None and fit.half_life is None:
        return Weights(None, None)
    rows, correction = np.ones(len(labels)), None
    if fit.half_life is not None:
        age = (moments.max() - moments).dt.total_microseconds().to_numpy() / 1e6  # type: ignore[operator]
        rows *= 0.5 ** (age / fit.half_life.total_seconds())
    if fit.class_weights is not None:
        by_class = _by_class(fit.class_weights, task, labels)
        rows *= by_class[task.class_numbers(labels)]
        correction = without_weights(by_class)
    return Weights(rows / rows.mean(), correction)


def _by_class(declared: Any, task: Task, labels: NDArray[Any]) -> NDArray[np.float64]:
    names, counts = task.class_names, np.bincount(task.class_numbers(labels), minlength=len(task.class_names))
    if isinstance(declared, Mapping):
        return np.array([float(declared.get(name, 1.0)) for name in names])
    if absent := [str(name) for name, count in zip(names, counts, strict=True) if not count]:
        raise DataError(
            f"class_weights is 'balanced', and none of the {len(labels)} rows to fit to has the class "
            f"{' or '.join(absent)}. Give more data, or the weight of each class."
        )
    balanced: NDArray[np.float64] = len(labels) / (len(names) * counts)
    return balanced
