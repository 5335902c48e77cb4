"""Slices: the rows that share a value of a column, judged for themselves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import UseCaseError
from mlops_ray.evaluation.metrics import Evaluation, evaluate

# With fewer rows a metric says more about chance than about the model.
MINIMUM_ROWS = 200
MISSING = ""
# Half of them bound an interval within a few hundredths of what 300 do, and there are many slices.
_RESAMPLES = 100


@dataclass(frozen=True)
class SliceEvaluation:
    """The rows whose `column`, as text, is `value` ("" for missing).

    selection_rate: the fraction with a probability of at least the threshold. true_positive_rate: the same among the
    rows with the label.
    """

    column: str
    value: str
    evaluation: Evaluation
    selection_rate: float
    true_positive_rate: float


@dataclass(frozen=True)
class SlicesEvaluation:
    """judged: every slice with enough rows and both labels. left_out: "column=value" of the others, with their rows."""

    judged: tuple[SliceEvaluation, ...]
    left_out: tuple[tuple[str, int], ...]


def evaluate_slices(
    rows: pl.DataFrame,
    columns: Sequence[str],
    label: NDArray[np.bool_],
    probability: NDArray[np.float64],
    moment: NDArray[np.datetime64],
    seed: int,
    threshold: float = 0.5,
    minimum_rows: int = MINIMUM_ROWS,
) -> SlicesEvaluation:
    """Metrics of each value of each of `columns`; all arrays have the shape [rows].

    Raises UseCaseError if `rows` has no such column.
    """
    judged, left_out = [], []
    for column, value, inside in slices_of(rows, columns):
        labels, guesses = label[inside], probability[inside]
        if len(labels) < minimum_rows or labels.all() or not labels.any():
            left_out.append((f"{column}={value}", len(labels)))
            continue
        found = evaluate(labels, guesses, moment[inside], seed, _RESAMPLES)
        chosen = guesses >= threshold
        judged.append(SliceEvaluation(column, value, found, float(chosen.mean()), float(chosen[labels].mean())))
    return SlicesEvaluation(tuple(judged), tuple(left_out))


def slices_of(rows: pl.DataFrame, columns: Sequence[str]) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Column, value and the rows that have it. Each row is in one slice of each column."""
    for column in columns:
        if column not in rows.columns:
            raise UseCaseError(
                f"Slice {column!r} is neither a request column nor a feature; there are {', '.join(rows.columns)}."
            )
        values = rows[column].cast(pl.String).fill_null(MISSING)
        for value in values.unique().sort():
            yield column, value, (values == value).to_numpy()
