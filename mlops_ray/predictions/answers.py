"""Answers: what a model answered, as bytes of a record and as columns of the ledger.

A column of several numbers a row lies in the ledger as a list, as versions may differ in how many they are.
"""

from collections.abc import Iterable

import numpy as np
import polars as pl

from mlops_ray.tasks.stored import ANSWER_COLUMNS
from mlops_ray.tasks.task import Task

# Of each column its name, and how many numbers a row has in it; None where it is one number and no list.
Layout = tuple[tuple[str, int | None], ...]
YES_OR_NO: Layout = (("probability", None),)


def layout_of(task: Task) -> Layout:
    """The columns of an answer in the ledger."""
    return tuple(
        (name, type_.size if isinstance(type_, pl.Array) else None) for name, type_ in task.ledger_types.items()
    )


def numbers_in(layout: Layout) -> int:
    """How many numbers the answer to a row is."""
    return sum(1 if size is None else size for _, size in layout)


def columns_of(layout: Layout, content: bytes) -> dict[str, pl.Series]:
    """The columns of answers that are float32, row after row."""
    numbers = np.frombuffer(content, np.float32).reshape(-1, numbers_in(layout))
    found, start = dict[str, pl.Series](), 0
    for name, size in layout:
        end = start + (size or 1)
        values = np.ascontiguousarray(numbers[:, start:end])
        found[name] = (
            pl.Series(values.ravel())
            if size is None
            else pl.Series(values, dtype=pl.Array(pl.Float32, size)).arr.to_list()
        )
        start = end
    return found


def types_of_answers(frames: Iterable[pl.DataFrame]) -> dict[str, pl.DataType]:
    """The columns of answers that rows of the ledger have; where there is none yet, those of yes and no."""
    found = {name: rows.schema[name] for rows in frames for name in ANSWER_COLUMNS if name in rows.columns}
    return found or {name: pl.Float32() for name, _ in YES_OR_NO}
