"""Which answers have been counted: the identities of those that a repetition can still come of.

Nothing of this is committed. It follows from the segments that the commit says are done, and is read again by whoever
goes on: once, and then what is counted is added. So a batch costs the same however many segments there are.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts
from mlops_ray.monitoring.sorted_runs import SortedRuns
from mlops_ray.predictions.ids import moment_of
from mlops_ray.predictions.reader import LONGEST_RETRY
from mlops_ray.predictions.record import UNWATCHED
from mlops_ray.predictions.segments import LONGEST_SEGMENT, Segment, read_between, read_segment, segments, settled
from mlops_ray.predictions.table import LedgerTable

IDENTITY = ("request_id", "row", "time", "as_of", "version", "route", "question")
# Segments come out of order by about as much as one holds.
_SLACK = LONGEST_SEGMENT
# So far beyond what is asked is read of a past to which late segments lead, as others follow them.
_AHEAD = timedelta(minutes=30)
# The present, and one past: files of a node that was away come between those of the others.
_SPANS = 2


@dataclass
class _Span:
    """All identities that are done and were answered in `since <= time < until`; until None: to the present."""

    since: datetime
    until: datetime | None
    runs: SortedRuns = field(default_factory=SortedRuns)

    def covers(self, begin: datetime, end: datetime) -> bool:
        return self.since <= begin and (self.until is None or end <= self.until)


class KnownAnswers:
    """Of one use case."""

    def __init__(self, artifacts: Artifacts, use_case: str):
        self._artifacts, self._use_case = artifacts, use_case
        self._spans: list[_Span] = []
        self._done: frozenset[str] = frozenset()
        self._read: dict[str, tuple[NDArray[np.uint64], datetime]] = {}

    def of(
        self, batch: Sequence[Segment], answers: NDArray[np.uint64], time: pl.Series, done: Collection[str]
    ) -> NDArray[np.bool_]:
        """Which of `answers` [rows], the identities of a batch's rows in order of `time`, are in the segments that are
        `done`. Of what was read with the batch (see `read`) none counts yet."""
        self._follow(frozenset(done))
        if not len(answers) or not done:
            return np.zeros(len(answers), dtype=np.bool_)
        last: datetime = time[-1]
        begin = min(segment.time for segment in batch) - LONGEST_RETRY - LONGEST_SEGMENT
        return self._span(begin, last + LONGEST_RETRY).runs.has(answers)

    def read(self, segment: Segment, answers: NDArray[np.uint64], time: pl.Series) -> None:
        """These are the rows of a segment, which counts as soon as it is among those that are done."""
        if len(answers):
            latest: datetime = time.max()  # type: ignore[assignment]
            self._read[segment.id] = answers, latest

    def _follow(self, done: frozenset[str]) -> None:
        """Take what was read last, if it was committed. What another process has committed is read from the ledger."""
        new = done - self._done
        if not new <= self._read.keys():
            self._spans.clear()
        for values, latest in (found for id, found in self._read.items() if id in new):
            for span in self._spans:
                span.runs.add(values, latest)
        self._read.clear()
        self._done = done

    def _span(self, begin: datetime, end: datetime) -> _Span:
        found = next((span for span in self._spans if span.covers(begin, end)), None)
        if found is None:
            found = settled(lambda: self._loaded(begin, end), self._use_case)
        self._spans = [*(span for span in self._spans if span is not found), found][-_SPANS:]
        if found.until is None and begin - _SLACK > found.since:
            found.since = begin - _SLACK
            found.runs.forget_before(found.since)
        return found

    def _loaded(self, begin: datetime, end: datetime) -> _Span:
        newest = moment_of(max(self._done)[:36])
        present = newest is None or end + _AHEAD >= newest
        span = _Span(begin - _SLACK, None if present else end + _AHEAD)
        near = segments(self._artifacts, self._use_case, span.since, span.until)
        for segment in near:
            if segment.id in self._done:
                self._add(span, read_segment(segment.url, IDENTITY))
        # Only what is done is ever moved to the table.
        for file in LedgerTable(self._artifacts, self._use_case).files(span.since, span.until):
            until = span.until or file.last + timedelta(seconds=1)  # the table's log has it in milliseconds
            self._add(span, read_between(file.url, "time", span.since, until, IDENTITY.__contains__))
        return span

    def _add(self, span: _Span, rows: pl.DataFrame) -> None:
        answered = rows.filter(~pl.col("route").is_in(UNWATCHED))
        if len(answered):
            latest: datetime = answered["time"].max()  # type: ignore[assignment]
            span.runs.add(identities(answered), latest)


def identities(rows: pl.DataFrame) -> NDArray[np.uint64]:
    """64 bits of what makes an answer one: request, row, question, and the version if it was asked in shadow.

    The first seven are the minutes (of 65 s) in a UUIDv7, so that those of the same time lie together.
    """
    shadow = pl.when(pl.col("route") == "shadow").then("version").alias("shadow")
    question = pl.col("question") if "question" in rows.columns else pl.lit(None, pl.Int64).alias("question")
    hashed = rows.select("request_id", "row", question, shadow).hash_rows().to_numpy()
    digits = pl.col("request_id").str.head(8).str.to_integer(base=16, strict=False, dtype=pl.Int64)
    minutes = rows.select(digits.fill_null(-1)).to_series().to_numpy()
    dated = (minutes.astype(np.uint64) << np.uint64(57)) | (hashed >> np.uint64(7))
    return np.where(minutes < 0, hashed, dated)
