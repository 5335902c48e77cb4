"""Quality in production: labels as they come, joined to predictions, and metrics by window and slice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import DataError
from mlops_ray.monitoring.answers import answer_in
from mlops_ray.monitoring.label_fit import LabelFit
from mlops_ray.monitoring.reliability import Reliability
from mlops_ray.monitoring.slices import slice_rows
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.evaluation import Measured
from mlops_ray.tasks.task import Task

_Float = NDArray[np.float64]
_YES_NO = LabelFit()
_KEYS = ("request_id", "row")
# A label that says the other thing at the same moment cannot be told from an error; the later one in this order holds.
_ORDER = ("known_at", "received_at", "label")


@dataclass(frozen=True)
class Quality:
    """Of the predictions made in start <= time < end that are in `slice` and have labels by now.

    metrics: by name, as `Task.measured` has them. predictions: with and without labels. about: what the labels are
    like (see `Task.about`), empty without. reliability, missing: of the rows with, and of those without label.
    """

    start: datetime
    end: datetime
    slice: str
    rows: int
    predictions: int
    about: Mapping[str, Any]
    metrics: Mapping[str, Measured]
    reliability: Reliability
    missing: Reliability

    def __getitem__(self, metric: str) -> Measured:
        return self.metrics[metric]


def latest_labels(labels: pl.DataFrame, task: Task | None = BINARY) -> pl.DataFrame:
    """One label for each prediction, sorted by `request_id` and `row`.

    labels: request_id, row, label (of the task's kind, or any where that is None; null withdraws it), known_at,
    received_at. A label that came twice counts once. Of different ones that with the latest `known_at` holds, then that
    with the latest `received_at`, then true before false, or the larger one: which label holds does not depend on the
    order in which they came.

    Raises DataError if a column is missing or `label` is not of the task's kind.
    """
    missing = [name for name in (*_KEYS, *_ORDER) if name not in labels.columns]
    if missing or (task is not None and not task.reads(labels.schema["label"])):
        kind = "" if task is None else f"{str(task.label_type).lower()} "
        raise DataError(f"Labels need a {kind}label and {', '.join((*_KEYS, *_ORDER))}; missing: {missing or 'none'}.")
    # By the moments first and the ids of what is left last: texts take most of the time of sorting.
    return labels.sort(_ORDER, nulls_last=False).unique(_KEYS, keep="last").sort(_KEYS)


def join_labels(
    predictions: pl.DataFrame, labels: pl.DataFrame, task: Task | None = BINARY, count_for: timedelta | None = None
) -> pl.DataFrame:
    """The predictions of one partition with `label` and `known_at`, null where none came.

    predictions: request_id and row, each pair once. labels: as they came. count_for: what became known later than so
    long after the `time` of its prediction was never said; None: all counts.
    """
    if count_for is not None:
        last = predictions.select(*_KEYS, __last=pl.col("time") + count_for)
        labels = labels.join(last, on=_KEYS).filter(pl.col("known_at") <= pl.col("__last")).drop("__last")
    found = latest_labels(labels, task).select(*_KEYS, "label", "known_at")
    return predictions.join(found, on=_KEYS, how="left").sort(_KEYS)


def quality_by_window(
    joined: pl.DataFrame, length: timedelta, edges: _Float, slices: Sequence[str] = (), fit: LabelFit = _YES_NO
) -> tuple[Quality, ...]:
    """Metrics of each window of `length` (from multiples of it since 1970) and of each slice in it, in order.

    joined: request_id, row, time (UTC), the answer in the ledger's columns, label, `EXPECTED` where `fit` needs it, and
    the columns of `slices`. edges: the bins of the reference's reliability. Rows are put in order of their id first, so
    the same labels give the same bits, whatever the order in which they came.
    """
    length_us = length // timedelta(microseconds=1)
    rows = joined.sort(_KEYS).with_columns(__start=pl.col("time").dt.truncate(f"{length_us}us"))
    parts = sorted(rows.partition_by("__start", as_dict=True, maintain_order=True).items())
    return tuple(
        one for (start,), window in parts for one in quality_of(window, start, start + length, edges, slices, fit)
    )


def quality_of(
    joined: pl.DataFrame,
    start: datetime,
    end: datetime,
    edges: _Float,
    slices: Sequence[str] = (),
    fit: LabelFit = _YES_NO,
) -> tuple[Quality, ...]:
    """Metrics of one window, which has all rows of `joined`, in order of their ids, and of each slice in it; see
    `quality_by_window`."""
    return tuple(
        _quality(start, end, name, joined.filter(row), edges, fit) for name, row in slice_rows(joined, slices).items()
    )


def _quality(start: datetime, end: datetime, name: str, rows: pl.DataFrame, edges: _Float, fit: LabelFit) -> Quality:
    answered, task = fit.answered(rows), fit.task
    labelled, missing = answered.drop_nulls("label"), answered.filter(pl.col("label").is_null())
    labels, answer = task.encoded(labelled["label"]), answer_in(labelled, task)
    return Quality(
        start,
        end,
        name,
        len(labelled),
        len(rows),
        task.about(labels) if len(labels) else {},
        task.measured(labels, answer, labelled["time"].dt.epoch("d").to_numpy()),
        fit.reliability(labelled, edges),
        fit.without_labels(missing, edges),
    )
