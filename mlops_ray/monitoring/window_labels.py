"""Labels of finished windows: which have new ones, and what they say. All of it follows from the ledger and the labels.

Which predictions are in a window stands in its members; metrics are computed anew from all labels of these, in the
order of ids, so it does not matter in which order, how often and how late they came. Of large windows a sample is
taken, by ids, so memory does not grow with them.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta

import numpy as np
import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.monitoring.alarm_change import wrongest
from mlops_ray.monitoring.error_stream import excess_errors
from mlops_ray.monitoring.label_times import LabelTimes, label_times
from mlops_ray.monitoring.ledger_feed import moment
from mlops_ray.monitoring.members import IDENTITY, Members, power_of_two
from mlops_ray.monitoring.quality import join_labels, quality_of
from mlops_ray.monitoring.slices import ALL_ROWS
from mlops_ray.monitoring.version_watch import Labelled, VersionWatch, Watched, WindowRecord
from mlops_ray.predictions.labels import KEYS, UNDATED, Labels, LabelSegment
from mlops_ray.predictions.reader import rows_between
from mlops_ray.predictions.segments import COLUMNS, FEATURE, KEY

MOST_ROWS = 200_000
_HELD_ROWS = 1_000_000
_DAY = timedelta(days=1)
_COLUMNS = ("request_id", "row", "time", "as_of", "probability")

Name = tuple[str, str, int]
"""A window: version, kind, number."""


class WindowLabels:
    """Of one use case. `due` are the windows whose quality may have changed."""

    def __init__(self, artifacts: Artifacts, use_case: str, most_rows: int = MOST_ROWS):
        self._artifacts, self._use_case, self._most_rows = artifacts, use_case, most_rows
        self._times = LabelTimes()
        self._labels, self._members = Labels(artifacts, use_case), Members(artifacts, use_case)
        self._seen: set[LabelSegment] = set()
        self._predictions: OrderedDict[Name, pl.DataFrame] = OrderedDict()
        # None: the window is new here, or has grown up. Else the segments of labels that came since.
        self.due: dict[Name, list[LabelSegment] | None] = {}

    def look(self, watches: Iterable[VersionWatch], now: datetime) -> None:
        """Find new segments of labels, and the windows that they may be about, or that have grown up since."""
        self._times = label_times(self._artifacts, self._use_case)
        found = [segment for segment in self._labels.segments() if segment not in self._seen]
        for watch in watches:
            for name, record in _windows(watch):
                about = [segment for segment in found if _may_be_about(segment, record)]
                waiting = self.due.get(name, [])
                if about and waiting is not None:
                    self.due[name] = [*waiting, *about]
                if record.quality and not record.grown_up and self._is_grown_up(record, now):
                    self.due[name] = None
        self._seen.update(found)

    def renew(self, names: Iterable[Name]) -> None:
        """These windows are new: all labels of theirs are to be looked at."""
        for name in names:
            self._predictions.pop(name, None)
            self.due[name] = None

    def measure(
        self, watches: dict[str, VersionWatch], watched: Callable[[str], Watched | None], now: datetime, seconds: float
    ) -> dict[Name, Labelled]:
        """What the labels of the windows that are due say, as many windows as fit into the time; at least one."""
        begun = time.monotonic()
        measured: dict[Name, Labelled] = {}
        self.due = {name: waiting for name, waiting in self.due.items() if _find(watches.get(name[0]), *name[1:])}
        if not self._seen:
            return measured  # no label has ever come
        for name in list(self.due):
            if measured and time.monotonic() - begun > seconds:
                break
            waiting, watch = self.due.pop(name), watches[name[0]]
            judged, record = watched(watch.version), watch.record(*name[1:])
            if judged is None:
                continue
            predictions = self._predictions_of(name, record, watch, judged)
            if waiting is None or self._concerned(predictions, waiting):
                measured[name] = self._measured(predictions, record, judged, now)
        return measured

    def _is_grown_up(self, record: WindowRecord, now: datetime) -> bool:
        return record.end + self._times.complete_after <= now

    def _concerned(self, predictions: pl.DataFrame, waiting: list[LabelSegment]) -> bool:
        if any(segment.part.startswith(KEYS) for segment in waiting):
            return True
        told = self._labels.read(waiting).select("request_id", "row")
        return not predictions.join(told, on=["request_id", "row"], how="semi").is_empty()

    def _measured(self, predictions: pl.DataFrame, record: WindowRecord, watched: Watched, now: datetime) -> Labelled:
        joined = join_labels(predictions, self._labels.of(predictions)).predictions
        in_time = pl.col("known_at") <= pl.col("time") + self._times.count_for
        joined = joined.with_columns(pl.when(in_time).then("label").alias("label"))
        whole = watched.reference.reliability.get(ALL_ROWS)
        edges = np.empty(0) if whole is None else whole.edges
        qualities = quality_of(joined, record.start, record.end, edges, watched.slices)
        grown_up = self._is_grown_up(record, now)
        if whole is None:
            return Labelled(qualities, wrongest(joined), grown_up=grown_up)
        in_turn = joined.drop_nulls(["label", "probability"]).sort("time", "request_id", "row")
        return Labelled(qualities, wrongest(joined), excess_errors(in_turn, whole), grown_up)

    def _predictions_of(self, name: Name, record: WindowRecord, watch: VersionWatch, watched: Watched) -> pl.DataFrame:
        found = self._predictions.get(name)
        if found is None:
            found = self._predictions[name] = self._read(record, watch, watched)
        self._predictions.move_to_end(name)
        while sum(map(len, self._predictions.values())) > _HELD_ROWS and len(self._predictions) > 1:
            self._predictions.popitem(last=False)
        return found

    def _read(self, record: WindowRecord, watch: VersionWatch, watched: Watched) -> pl.DataFrame:
        """The window's predictions: request_id, row, time (their moments), probability, slices and keys."""
        one_in = power_of_two(record.rows / self._most_rows)
        members = self._members.of(watch.members, record.spec, record.panes, one_in).rows
        wanted = {*_COLUMNS, *_slice_columns(watched.slices)}
        answered = rows_between(
            self._artifacts, self._use_case, record.answered_from, record.answered_to + timedelta(microseconds=1),
            lambda name: name in wanted or name.startswith(KEY),
        )  # fmt: skip
        frames = [pl.DataFrame(schema={name: COLUMNS[name] for name in _COLUMNS})]
        frames += [rows.join(members, on=IDENTITY, how="semi") for rows in answered]
        # A segment that is written twice, as it was moved while it was read, has each row once.
        found = pl.concat(frames, how="diagonal_relaxed").unique(IDENTITY, keep="first", maintain_order=True)
        slices = [_slice(name, found.columns) for name in watched.slices]
        return found.with_columns(*slices, time=moment()).drop("as_of")


def _windows(watch: VersionWatch) -> Iterable[tuple[Name, WindowRecord]]:
    for spec, stream in watch.streams.items():
        for record in stream.records:
            yield (watch.version, spec, record.number), record


def _find(watch: VersionWatch | None, spec: str, number: int) -> WindowRecord | None:
    stream = None if watch is None else watch.streams.get(spec)
    return next((one for one in stream.records if one.number == number), None) if stream else None


def _may_be_about(segment: LabelSegment, record: WindowRecord) -> bool:
    """A day in a request id is of the caller's clock, which may be wrong by as much as a day."""
    if segment.part == UNDATED or segment.part.startswith(KEYS):
        return True
    day = date.fromisoformat(segment.part)
    return (record.answered_from - _DAY).date() <= day <= (record.answered_to + _DAY).date()


def _slice_columns(slices: tuple[str, ...]) -> list[str]:
    return [f"{prefix}{name}" for name in slices for prefix in (FEATURE, KEY)]


def _slice(name: str, columns: list[str]) -> pl.Expr:
    found = [column for column in _slice_columns((name,)) if column in columns]
    return (pl.col(found[0]).cast(pl.String) if found else pl.lit(None, dtype=pl.String)).alias(name)
