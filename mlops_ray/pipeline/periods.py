"""Periods: the stretches of a training set that sealing reads, in memory where they fit, else a block at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.artifacts import read_parquet
from mlops_ray.features.blocks import Rows, Stored, stored_rows
from mlops_ray.features.columns import LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.features.training_set import TrainingSet, expect_labels, split_by_time
from mlops_ray.training.encoded_rows import labels_of
from mlops_ray.training.fitted_on import is_whole
from mlops_ray.use_case import UseCase

# What of a set that does not fit in memory is looked at for what all rows are not needed for.
SOME_ROWS = 500_000
# Where a label comes the sooner the smaller it is, as a duration does, those of a period's last days that were known at
# its end are the small ones. So such a share of the labels must be known, or no interval or threshold is found on them.
_KNOWN = 0.99


@dataclass(frozen=True)
class Stretch:
    """The rows of a file, or of all in a folder, with moments of prediction in [since, before); None: without a
    bound."""

    url: str
    since: datetime | None = None
    before: datetime | None = None


@dataclass(frozen=True)
class Periods:
    """train, test: see `split_by_time`. validation: likewise, without its last rows (see `_settled_until`), unless more
    than half would be lacking. before_gap: what the last fit learns from; seen: all rows before the test
    period; gap: those between validation and test of which nearly all labels were known before the test, maybe none.
    looked_at: so many rows of a period are looked at at once; None: all. stretches: of the whole set those from which
    rows are asked for again."""

    train: Rows
    validation: Rows
    test: Rows
    before_gap: Rows
    seen: Rows
    gap: Rows
    looked_at: int | None
    stretches: tuple[Stretch, ...]

    def some(self, rows: Rows, seed: int) -> pl.DataFrame:
        return rows.some(self.looked_at, seed)


def periods_of(use_case: UseCase, training_set: TrainingSet, memory_bytes: int) -> Periods:
    """Raises DataError naming the period whose labels are too few, or hold a value that can be none."""
    if is_whole(training_set.rows, len(training_set.features), memory_bytes):
        return _in_memory(use_case, training_set)
    split, as_of, task = use_case.split, training_set.as_of, use_case.label.task
    validated, tested = split.trained_until(as_of), split.test_start(as_of)
    trained = validated - split.validation

    def between(since: datetime | None, before: datetime, known_by: datetime | None) -> Rows:
        return stored_rows(training_set, since, before, known_by, memory_bytes)

    test = between(tested, as_of, as_of)
    found = {"train": between(None, trained, trained), "validation": between(trained, validated, validated)}
    found["test"] = test
    for name, rows in found.items():
        expect_labels(task, name, labels_of(rows, task), as_of)
    delay = _label_delay(between(None, trained, None))
    settled = stored_rows(
        training_set, trained, _settled_until(validated, delay), validated, memory_bytes, expected=False
    )
    found["validation"] = _unless_few(settled, found["validation"])
    first: Any = test.blocks[0].read([PREDICTION_TIME])[PREDICTION_TIME].min()
    seen = between(None, first, None)
    ends = dict.fromkeys((seen.blocks[0], seen.blocks[-1], test.blocks[-1]))
    stretches = tuple(Stretch(one.url, one.since, one.before) for one in ends if isinstance(one, Stored))
    fitted = between(None, validated, validated)
    gap = stored_rows(training_set, validated, _settled_until(tested, delay), tested, memory_bytes, expected=False)
    return Periods(**found, before_gap=fitted, seen=seen, gap=gap, looked_at=SOME_ROWS, stretches=stretches)


def _in_memory(use_case: UseCase, training_set: TrainingSet) -> Periods:
    frame = read_parquet(training_set.url)
    parts = split_by_time(frame, training_set.as_of, use_case.split, use_case.label.task)
    split, as_of, moment = use_case.split, training_set.as_of, pl.col(PREDICTION_TIME)
    end, tested = split.trained_until(as_of), split.test_start(as_of)
    delay = _label_delay(Rows.of(frame.filter(moment < end - split.validation)))
    settled = Rows.of(parts.validation.filter(moment < _settled_until(end, delay)))
    fitted = frame.filter((moment < end) & (pl.col(LABEL_KNOWN_AT) <= end)).sort(PREDICTION_TIME, maintain_order=True)
    seen = frame.filter(moment < parts.test[PREDICTION_TIME].min())
    inside = (moment >= end) & (moment < _settled_until(tested, delay)) & (pl.col(LABEL_KNOWN_AT) <= tested)
    gap = frame.filter(inside).sort(PREDICTION_TIME, maintain_order=True)
    train, validation, test, before_gap, before, between = map(
        Rows.of, (parts.train, parts.validation, parts.test, fitted, seen, gap)
    )
    validation = _unless_few(settled, validation)
    return Periods(train, validation, test, before_gap, before, between, None, (Stretch(training_set.url),))


def _label_delay(older: Rows) -> timedelta:
    """So long it took until nearly all labels of these rows were known."""
    took = pl.col(LABEL_KNOWN_AT) - pl.col(PREDICTION_TIME)
    delays = pl.concat(frame.select(took) for frame in older.frames([PREDICTION_TIME, LABEL_KNOWN_AT]))
    delay: timedelta = delays.select(pl.all().quantile(_KNOWN, "higher")).item()
    return delay


def _settled_until(end: datetime, delay: timedelta) -> datetime:
    """Rows with moments before this one had the time that nearly all labels take when the period ended."""
    return min(end, end - delay + timedelta.resolution)


def _unless_few(settled: Rows, rows: Rows) -> Rows:
    return settled if 2 * len(settled) >= len(rows) else rows


def answers_to(rows: Rows, ask: Callable[[pl.DataFrame], NDArray[Any]]) -> NDArray[Any]:
    """What a model answers to all rows, asked a block at a time."""
    return np.concatenate([ask(frame) for frame in rows.frames()])


def telling(rows: Rows, closed: Sequence[str], others: Sequence[str]) -> pl.DataFrame:
    """Few rows that tell of all: each value of the closed columns is among them, and of each column that has a missing
    one, that too."""
    columns = list(dict.fromkeys([*closed, *others]))
    found = pl.DataFrame()
    for frame in rows.frames(columns):
        kept = [frame.unique(name, keep="first", maintain_order=True) for name in closed]
        kept += [frame.filter(pl.col(name).is_null()).head(1) for name in columns]
        found = pl.concat([found, *kept, frame.head(1)], how="diagonal").unique(maintain_order=True)
    return found
