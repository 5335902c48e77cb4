"""Slices: the rows that share a value of a column, judged for themselves."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import UseCaseError
from mlops_ray.evaluation.fairness import GroupCounts
from mlops_ray.evaluation.metrics import evaluate
from mlops_ray.tasks.days import blocks_of
from mlops_ray.tasks.evaluation import Evaluation
from mlops_ray.tasks.task import Task

# With fewer rows, or of the rarer label, a metric says more about chance than about the model.
MINIMUM_ROWS = 200
MINIMUM_LABELS = 20
MISSING = ""


@dataclass(frozen=True)
class SliceEvaluation:
    """The rows whose `column`, as text, is `value` ("" for missing)."""

    column: str
    value: str
    evaluation: Evaluation


@dataclass(frozen=True)
class SlicesEvaluation:
    """judged: every slice with enough rows and labels. left_out: "column=value" of the others, with their rows.

    counts: for each column, how often each of its judged values was chosen at the decision's threshold.
    """

    judged: tuple[SliceEvaluation, ...]
    left_out: tuple[tuple[str, int], ...]
    counts: tuple[GroupCounts, ...] = ()

    def to_json(self) -> dict[str, Any]:
        judged = [{"column": o.column, "value": o.value, "evaluation": o.evaluation.to_json()} for o in self.judged]
        return asdict(replace(self, judged=())) | {"judged": judged}


def evaluate_slices(
    task: Task,
    rows: pl.DataFrame,
    columns: Sequence[str],
    labels: NDArray[Any],
    answer: NDArray[np.float64],
    day: NDArray[np.intp],
) -> SlicesEvaluation:
    """Metrics of each value of each of `columns`; labels, answer and day as in `metrics.evaluate`.

    A slice is judged with at least MINIMUM_ROWS rows, MINIMUM_LABELS of them with the rarest label. Raises UseCaseError
    if `rows` has no such column.
    """
    judged, left_out, inside = [], [], dict[str, dict[str, NDArray[np.bool_]]]()
    for column, value, those in slices_of(rows, columns):
        if those.sum() < MINIMUM_ROWS or task.rarest(labels[those]) < MINIMUM_LABELS or task.shortfall(labels[those]):
            left_out.append((f"{column}={value}", int(those.sum())))
            continue
        judged.append(SliceEvaluation(column, value, evaluate(task, labels[those], answer[those], day[those])))
        inside.setdefault(column, {})[value] = those
    if task.threshold is None:
        return SlicesEvaluation(tuple(judged), tuple(left_out))
    block, chosen = blocks_of(day), task.chosen(answer)
    counts = tuple(_counts(column, task.threshold, inside[column], block, labels, chosen) for column in inside)
    return SlicesEvaluation(tuple(judged), tuple(left_out), counts)


def _counts(
    column: str,
    threshold: float,
    inside: dict[str, NDArray[np.bool_]],
    block: NDArray[np.intp],
    label: NDArray[np.bool_],
    chosen: NDArray[np.bool_],
) -> GroupCounts:
    blocks = int(block.max()) + 1

    def count(wanted: NDArray[np.bool_]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(np.bincount(block[those & wanted], minlength=blocks).tolist()) for those in inside.values())

    every = np.ones(len(label), dtype=np.bool_)
    return GroupCounts(
        column, threshold, tuple(inside), count(every), count(chosen), count(label), count(chosen & label)
    )


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
