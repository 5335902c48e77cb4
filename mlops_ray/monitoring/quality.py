"""Quality in production: labels as they come, joined to predictions, and metrics by window and slice."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import inf, sqrt

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import DataError
from mlops_ray.monitoring.reliability import Reliability
from mlops_ray.monitoring.roc_auc import count_scores, interval, roc_auc
from mlops_ray.monitoring.slices import slice_rows

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


def latest_labels(labels: pl.DataFrame) -> pl.DataFrame:
    """One label for each prediction, sorted by `request_id` and `row`.

    labels: request_id, row, label (boolean; null withdraws it), known_at, received_at. A label that came twice counts
    once. Of different ones that with the latest `known_at` holds, then that with the latest `received_at`, then true
    before false: which label holds does not depend on the order in which they came.

    Raises DataError if a column is missing or `label` is not boolean.
    """
    missing = [name for name in (*_KEYS, *_ORDER) if name not in labels.columns]
    if missing or labels.schema["label"] != pl.Boolean:
        raise DataError(
            f"Labels need a boolean label and {', '.join((*_KEYS, *_ORDER))}; missing: {missing or 'none'}."
        )
    ordered = labels.sort(*_KEYS, *_ORDER, nulls_last=False)
    return ordered.unique(_KEYS, keep="last", maintain_order=True)


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
    rows = joined.with_columns(__start=pl.col("time").dt.truncate(f"{length // timedelta(microseconds=1)}us"))
    parts = sorted(rows.partition_by("__start", as_dict=True, maintain_order=True).items())
    return tuple(one for (start,), window in parts for one in quality_of(window, start, start + length, edges, slices))


def quality_of(
    joined: pl.DataFrame, start: datetime, end: datetime, edges: _Float, slices: Sequence[str] = ()
) -> tuple[Quality, ...]:
    """Metrics of one window, which has all rows of `joined`, and of each slice in it; see `quality_by_window`."""
    window = joined.sort(_KEYS)
    return tuple(
        _quality(start, end, name, window.filter(row), edges) for name, row in slice_rows(window, slices).items()
    )


def _quality(start: datetime, end: datetime, name: str, rows: pl.DataFrame, edges: _Float) -> Quality:
    labelled = rows.drop_nulls(["label", "probability"])
    label = labelled["label"].to_numpy().astype(np.bool_)
    guess = labelled["probability"].cast(pl.Float64).to_numpy()
    smallest = np.finfo(np.float64).eps
    inside = np.clip(guess, smallest, 1 - smallest)
    auc = roc_auc(*count_scores(guess, label))
    ends = interval(auc.value, sqrt(auc.variance) if auc.variance < inf else inf)
    return Quality(
        start,
        end,
        name,
        len(labelled),
        len(rows),
        float(label.mean()) if len(label) else float("nan"),
        Measured(auc.value, *(ends or (None, None))),
        _mean(-np.where(label, np.log(inside), np.log1p(-inside)), inf),
        _mean((guess - label) ** 2, 1.0),
        Reliability.of(guess, label, edges),
    )


def _mean(losses: _Float, highest: float) -> Measured:
    """With the interval of the central limit theorem, as if rows were independent; those of one day are less so."""
    if len(losses) < 2:
        return Measured(float(losses.mean()) if len(losses) else float("nan"), None, None)
    value = float(losses.mean())
    ends = interval(value, float(losses.std(ddof=1)) / sqrt(len(losses)), 0.0, highest)
    return Measured(value, *(ends or (None, None)))
