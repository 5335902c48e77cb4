"""Answers as the ledger has them, and the columns of numbers that they are watched by."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.tasks.evaluation import Floats
from mlops_ray.tasks.task import Task

PREDICTION = "prediction"
# How wrong an answer is expected to be; only where quality is estimated by it, and never compared by itself.
EXPECTED = "expected error"
_RANKING = "roc_auc"


def is_ranked(task: Task) -> bool:
    """Whether answers are watched by how they rank rows, which is no mean over rows and is estimated otherwise."""
    return next(iter(task.metrics)) == _RANKING


def answer_in(rows: pl.DataFrame, task: Task) -> Floats:
    """The answers in the ledger's columns of the task, [rows] or [rows, width]; NaN where there is none."""
    parts: list[Floats] = []
    for name, dtype in task.ledger_types.items():
        values = rows[name] if name in rows.columns else pl.Series([None] * len(rows), dtype=dtype)
        columns = [values] if dtype.is_numeric() else _columns(values, dtype)
        parts += [one.cast(pl.Float64).to_numpy() for one in columns]
    return parts[0] if task.width == 1 else np.column_stack(parts)


def answer_columns(answer: NDArray[np.floating[Any]], task: Task) -> list[pl.Series]:
    """The answers as float64 in the ledger's columns."""
    found, at = [], 0
    by_column = np.asarray(answer, dtype=np.float64).reshape(len(answer), -1)
    for name, dtype in task.ledger_types.items():
        wide = 1 if dtype.is_numeric() else dtype.shape[0]  # type: ignore[attr-defined]
        part = by_column[:, at : at + wide]
        at += wide
        kept = part[:, 0] if dtype.is_numeric() else part
        found.append(pl.Series(name, kept, dtype=pl.Float64() if dtype.is_numeric() else pl.Array(pl.Float64, wide)))
    return found


def is_answered(task: Task) -> pl.Expr:
    """Which rows have an answer."""
    return pl.all_horizontal(pl.col(name).is_not_null() for name in task.ledger_types)


def watched_columns(answer: Floats, task: Task) -> list[pl.Series]:
    """The numbers that answers are compared by, with the names that references and windows have them under."""
    return [pl.Series(_named(name), values) for name, values in task.watched(answer).items()]


def watched_names(task: Task) -> Sequence[str]:
    return [_named(name) for name in task.watched(np.empty((0, task.width)))]


def is_answer(column: str) -> bool:
    """Whether this is the name of one of `watched_columns`."""
    return column == PREDICTION or column.startswith(f"{PREDICTION} of ")


def _named(name: str) -> str:
    return f"{PREDICTION} of {name}" if name else PREDICTION


def _columns(values: pl.Series, dtype: pl.DataType) -> list[pl.Series]:
    """Of a column of several numbers a row each place: as arrays, or as lists, which ledgers have."""
    lists = values.arr.to_list() if isinstance(values.dtype, pl.Array) else values.cast(pl.List(pl.Float64))
    return [lists.list.get(at, null_on_oob=True) for at in range(dtype.shape[0])]  # type: ignore[attr-defined]
