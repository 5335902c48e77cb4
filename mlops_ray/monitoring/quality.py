"""Quality in production: labels as they come, joined to predictions, and metrics by window and slice."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import inf, sqrt

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import DataError
from mlops_ray.tasks.day_variance import variance_between, variance_of_sum, widened
from mlops_ray.monitoring.reliability import Reliability
from mlops_ray.tasks.roc_auc import count_scores, interval, roc_auc
from mlops_ray.monitoring.slices import slice_rows
from mlops_ray.tasks.binary import BINARY

_Float = NDArray[np.float64]
_KEYS = ("request_id", "row")
# A label that says the other thing at the same moment cannot be told from an error; the later one in this order holds.
_ORDER = ("known_at", "received_at", "label")


@dataclass(frozen=True)
class Measured:
    """A metric with its 95 % interval, None where too few rows leave no way to tell; value NaN without rows."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Quality:
    """Of the predictions made in start <= time < end that are in `slice` and have labels by now.

    roc_auc: higher is better. log_loss (nats), brier: lower is better. predictions: with and without labels.
    reliability, missing: of the rows with, and of those without label.
    """

    start: datetime
    end: datetime
    slice: str
    rows: int
    predictions: int
    positive: float
    roc_auc: Measured
    log_loss: Measured
    brier: Measured
    reliability: Reliability
    missing: Reliability


def latest_labels(labels: pl.DataFrame) -> pl.DataFrame:
    """One label for each prediction, sorted by `request_id` and `row`.

    labels: request_id, row, label (boolean; null withdraws it), known_at, received_at. A label that came twice counts
    once. Of different ones that with the latest `known_at` holds, then that with the latest `received_at`, then true
    before false: which label holds does not depend on the order in which they came.

    Raises DataError if a column is missing or `label` is not boolean.
    """
    missing = [name for name in (*_KEYS, *_ORDER) if name not in labels.columns]
    if missing or not BINARY.reads(labels.schema["label"]):
        raise DataError(
            f"Labels need a boolean label and {', '.join((*_KEYS, *_ORDER))}; missing: {missing or 'none'}."
        )
    # By the moments first and the ids of what is left last: texts take most of the time of sorting.
    return labels.sort(_ORDER, nulls_last=False).unique(_KEYS, keep="last").sort(_KEYS)


@dataclass(frozen=True)
class Joined:
    """predictions: each with `label`, null where none came. unknown: labels of predictions that were not found."""

    predictions: pl.DataFrame
    unknown: pl.DataFrame


def join_labels(predictions: pl.DataFrame, labels: pl.DataFrame) -> Joined:
    """Join one partition: `predictions` with request_id and row, each pair once, and labels as they came."""
    found = latest_labels(labels)
    joined = predictions.join(found.select(*_KEYS, "label", "known_at"), on=_KEYS, how="left")
    return Joined(joined.sort(_KEYS), found.join(predictions, on=_KEYS, how="anti"))


def quality_by_window(
    joined: pl.DataFrame, length: timedelta, edges: _Float, slices: Sequence[str] = ()
) -> tuple[Quality, ...]:
    """Metrics of each window of `length` (from multiples of it since 1970) and of each slice in it, in order.

    joined: request_id, row, time (UTC), probability, label, and the columns of `slices`. edges: the bins of the
    reference's reliability. Rows are put in order of their id first, so the same labels give the same bits, whatever
    the order in which they came.
    """
    length_us = length // timedelta(microseconds=1)
    rows = joined.sort(_KEYS).with_columns(__start=pl.col("time").dt.truncate(f"{length_us}us"))
    parts = sorted(rows.partition_by("__start", as_dict=True, maintain_order=True).items())
    return tuple(one for (start,), window in parts for one in quality_of(window, start, start + length, edges, slices))


def quality_of(
    joined: pl.DataFrame, start: datetime, end: datetime, edges: _Float, slices: Sequence[str] = ()
) -> tuple[Quality, ...]:
    """Metrics of one window, which has all rows of `joined`, in order of their ids, and of each slice in it; see
    `quality_by_window`."""
    return tuple(
        _quality(start, end, name, joined.filter(row), edges) for name, row in slice_rows(joined, slices).items()
    )


def _quality(start: datetime, end: datetime, name: str, rows: pl.DataFrame, edges: _Float) -> Quality:
    answered = rows.drop_nulls("probability")
    labelled, missing = answered.drop_nulls("label"), answered.filter(pl.col("label").is_null())
    label = labelled["label"].to_numpy().astype(np.bool_)
    guess = labelled["probability"].cast(pl.Float64).to_numpy()
    smallest = np.finfo(np.float64).eps
    inside = np.clip(guess, smallest, 1 - smallest)
    day = labelled["time"].dt.epoch("d").to_numpy()
    auc = roc_auc(*count_scores(guess, label))
    variance = max(auc.variance, variance_between(guess, label, day)) if auc.variance < inf else inf
    ends = interval(auc.value, widened(sqrt(variance), day))
    return Quality(
        start,
        end,
        name,
        len(labelled),
        len(rows),
        float(label.mean()) if len(label) else float("nan"),
        Measured(auc.value, *(ends or (None, None))),
        _mean(-np.where(label, np.log(inside), np.log1p(-inside)), day, inf),
        _mean((guess - label) ** 2, day, 1.0),
        Reliability.of(guess, label, edges),
        Reliability.of(missing["probability"].cast(pl.Float64), np.zeros(len(missing)), edges),
    )


def _mean(losses: _Float, day: NDArray[np.int64], highest: float) -> Measured:
    """With its interval: rows of one day resemble each other, where there are enough days to tell how much."""
    if len(losses) < 2:
        return Measured(float(losses.mean()) if len(losses) else float("nan"), None, None)
    value = float(losses.mean())
    independent = float(losses.var(ddof=1)) / len(losses)
    variance = max(independent, variance_of_sum((losses - value) / len(losses), day))
    ends = interval(value, widened(sqrt(variance), day), 0.0, highest)
    return Measured(value, *(ends or (None, None)))
