"""Labels of finished windows: which have new ones, and what they say. All of it follows from the ledger and the labels.

Which predictions are in a window stands in its members; metrics are computed anew from all labels of these, in the
order of ids, so it does not matter in which order, how often and how late they came. Of large windows a sample is
taken, by ids, so memory does not grow with them.
"""

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import DataError
from mlops_ray.monitoring.alarm_change import wrongest
from mlops_ray.monitoring.answers import EXPECTED
from mlops_ray.monitoring.label_times import LabelTimes, label_times
from mlops_ray.monitoring.labelling import Labelled
from mlops_ray.monitoring.ledger_feed import moment
from mlops_ray.monitoring.members import IDENTITY, Members, power_of_two
from mlops_ray.monitoring.quality import join_labels, quality_of
from mlops_ray.monitoring.slices import ALL_ROWS
from mlops_ray.monitoring.version_watch import VersionWatch, Watched
from mlops_ray.monitoring.window_archive import WindowArchive
from mlops_ray.monitoring.window_record import WindowBlock, WindowRecord
from mlops_ray.predictions.labels import KEYS, UNDATED, Labels, LabelSegment
from mlops_ray.predictions.reader import rows_between
from mlops_ray.predictions.segments import COLUMNS, FEATURE, KEY, read_segment, together
from mlops_ray.tasks.stored import ANSWER_COLUMNS

MOST_ROWS = 200_000
_HELD_ROWS = 1_000_000
# Windows of at most so many rows are read together, in at most so many times the time of one.
_STRETCH_ROWS, _STRETCH_WINDOWS = 300_000, 4
_DAY = timedelta(days=1)
_COLUMNS = ("request_id", "row", "time", "as_of")

_logger = logging.getLogger(__name__)

_NO_PANES = np.empty(0, dtype=np.int64)
_TURN = 8

Name = tuple[str, str, int]
"""A window: version, kind, number."""


class WindowLabels:
    """Of one use case. `due` are the windows whose quality may have changed. parts: a digest of what was seen of each
    part of the labels. late: labels that no window can have, as they became known later than they count for, by when
    they were received."""

    def __init__(self, artifacts: Artifacts, use_case: str, known: Mapping[str, str]):
        """known: `parts` of the process before, whose labels are in what is known of the windows."""
        self._artifacts, self._use_case = artifacts, use_case
        self._known, self._times, self._turn = known, LabelTimes(), 0
        self.parts: dict[str, str] = {}
        self._labels, self._members = Labels(artifacts, use_case), Members(artifacts, use_case)
        self._archive = WindowArchive(artifacts, use_case)
        self._seen: dict[str, frozenset[str]] = {}
        self._stirred: dict[str, datetime] = {}
        self._predictions: OrderedDict[Name, pl.DataFrame] = OrderedDict()
        self._stretch: _Stretch | None = None
        self.due: dict[Name, None] = {}
        self.late: list[datetime] = []

    def look(self, watches: Iterable[VersionWatch], now: datetime) -> None:
        """Find new segments of labels, and the windows that they are about, or that have grown up since."""
        self._times = label_times(self._artifacts, self._use_case)
        found = self._new_segments(now)
        parts = {segment.part: [one for one in found if one.part == segment.part] for segment in found}
        told = {part: self._labels.read(new).select("request_id", "row").unique() for part, new in parts.items()}
        for watch in watches:
            for part, rows in told.items():
                self._note(watch, part, rows)
            for spec, stream in watch.streams.items():
                grown = [one for one in stream.archive if one.young and one.young + self._times.complete_after <= now]
                for record in (*stream.records, *(record for block in grown for record in self._archive.read(block))):
                    if record.quality and not record.grown_up and self._is_grown_up(record, now):
                        self.due[watch.version, spec, record.number] = None

    def renew(self, names: Iterable[Name]) -> None:
        """These windows are new: all labels of theirs are to be looked at."""
        self._stretch = None  # what is held may lack the segments that ended them
        for name in names:
            self._predictions.pop(name, None)
            self.due[name] = None

    def measure(
        self, watches: dict[str, VersionWatch], watched: Callable[[str], Watched | None], now: datetime, seconds: float
    ) -> dict[Name, Labelled]:
        """What the labels of the windows that are due say, as many windows as fit into the time; at least one.

        They are due until `settle` is told that it is committed, and those that are not at hand stay so.
        """
        begun = time.monotonic()
        measured: dict[Name, Labelled] = {}
        if not self._seen:
            self.due.clear()  # no label has ever come
        for name in list(self.due):
            if measured and time.monotonic() - begun > seconds:
                break
            watch = watches.get(name[0])
            record = _find(watch, *name[1:])
            judged = watched(name[0])
            if watch is None or judged is None or (record is None and not _is_away(watch, *name[1:])):
                del self.due[name]
            elif record is not None:
                try:
                    predictions = self._predictions_of(name, record, watch, judged)
                    measured[name] = self._measured(predictions, record, judged, now)
                except DataError as error:  # looked at again, it would be the same: until other labels come
                    _logger.warning("Version %s, %s: window %d is not measured. %s", *name, error)
                    del self.due[name]
        return measured

    def settle(self, names: Iterable[Name]) -> None:
        """What the labels of these windows say is committed."""
        for name in names:
            self.due.pop(name, None)
        if not self.due:
            self._stretch = None

    def _new_segments(self, now: datetime) -> list[LabelSegment]:
        """What has come since the last look, in the parts that are looked into this time.

        Those of the last days, and where something came within an hour, are looked into each time, and of the others a
        few, in turn: a round costs the same however long there have been labels.
        """
        parts, oldest = self._labels.parts(), (now - self._times.count_for - _DAY).date().isoformat()
        recent, hour_ago = (now - 2 * _DAY).date().isoformat(), now - timedelta(hours=1)
        often = {p for p in parts if p.removeprefix(KEYS) >= recent or self._stirred.get(p, hour_ago) > hour_ago}
        others = [part for part in parts if part not in often]
        first = not self._seen
        turn = others if first else [others[(self._turn + at) % len(others)] for at in range(min(_TURN, len(others)))]
        self._turn += _TURN
        found = []
        for part in (*sorted(often), *turn):
            segments = self._labels.of_part(part)
            self.parts[part] = _digest(segments)
            seen = self._seen.get(part, frozenset())
            new = [] if first and self.parts[part] == self._known.get(part) else segments
            new = [one for one in new if one.id not in seen]
            if new:
                self._stirred[part] = now
            if part.removeprefix(KEYS) < oldest:
                for one in new:
                    self.late += self._late_of(one)
            else:
                found += new
            self._seen[part] = frozenset(one.id for one in segments)
        for gone in self._seen.keys() - set(parts):
            del self._seen[gone], self.parts[gone]
        return found

    def _late_of(self, segment: LabelSegment) -> list[datetime]:
        """When those of its labels were received that became known too late for any prediction of its day."""
        day = date.fromisoformat(segment.part.removeprefix(KEYS))
        last = datetime.combine(day, datetime.min.time(), UTC) + _DAY + self._times.count_for
        told = read_segment(segment.url, ["known_at", "received_at"])
        return told.filter(pl.col("known_at") > last)["received_at"].to_list()

    def _note(self, watch: VersionWatch, part: str, told: pl.DataFrame) -> None:
        """Which windows of a version labels are about: by its members, or where they do not name requests by days."""
        by_members = not (part == UNDATED or part.startswith(KEYS))
        panes = self._members.panes_about(watch.members, told) if by_members else {}
        for spec, stream in watch.streams.items():

            def about(one: WindowRecord | WindowBlock, spec: str = spec) -> bool:
                if not by_members:
                    return _may_be_about(part, one)
                low, high = np.searchsorted(panes.get(spec, _NO_PANES), [one.panes[0], one.panes[1] + 1])
                return bool(high > low)

            away = [record for block in stream.archive if about(block) for record in self._archive.read(block)]
            for record in filter(about, (*away, *stream.records)):
                self.due[watch.version, spec, record.number] = None

    def _is_grown_up(self, record: WindowRecord, now: datetime) -> bool:
        return record.end + self._times.complete_after <= now

    def _measured(self, predictions: pl.DataFrame, record: WindowRecord, watched: Watched, now: datetime) -> Labelled:
        reference = watched.reference
        task, fit = reference.task, reference.label_fit
        labels = self._labels.of(predictions)
        if not task.reads(labels.schema["label"]):  # none, or those of another kind, which say nothing of these answers
            labels = labels.clear().cast({"label": task.label_type})
        joined = join_labels(predictions, labels, task, self._times.count_for)
        readable = task.can_be(joined["label"])
        unreadable = len(readable) - int(readable.sum()) - readable.null_count()
        joined = joined.with_columns(pl.when(readable).then("label").alias("label"))
        whole = reference.reliability.get(ALL_ROWS)
        edges = np.empty(0) if whole is None else whole.edges
        qualities = quality_of(joined, record.start, record.end, edges, watched.slices, fit)
        grown_up = self._is_grown_up(record, now)
        if whole is None:
            return Labelled(qualities, wrongest(joined, task), grown_up=grown_up, unreadable=unreadable)
        in_turn = fit.labelled(joined).sort("time", "request_id", "row")
        return Labelled(qualities, wrongest(joined, task), fit.stream(in_turn, whole), grown_up, unreadable)

    def _predictions_of(self, name: Name, record: WindowRecord, watch: VersionWatch, watched: Watched) -> pl.DataFrame:
        found = self._predictions.get(name)
        if found is None:
            found = self._predictions[name] = self._read(record, watch, watched)
        self._predictions.move_to_end(name)
        while sum(map(len, self._predictions.values())) > _HELD_ROWS and len(self._predictions) > 1:
            self._predictions.popitem(last=False)
        return found

    def _read(self, record: WindowRecord, watch: VersionWatch, watched: Watched) -> pl.DataFrame:
        """The window's predictions: request_id, row, time (their moments), the answers, slices and keys."""
        one_in = power_of_two(record.rows / MOST_ROWS)
        members = self._members.of(watch.members, record.spec, record.panes, one_in).rows
        stretch = self._stretch
        if stretch is None or not stretch.has(watch.version, record):
            stretch = self._stretch = self._read_stretch(record, watch, watched)
        answered = stretch.rows.filter(pl.col("time").is_between(record.answered_from, record.answered_to))
        # A segment that is written twice, as it was moved while it was read, has each row once.
        found = answered.join(members, on=IDENTITY, how="semi").unique(IDENTITY, keep="first", maintain_order=True)
        slices = [_slice(name, found.columns) for name in watched.slices]
        return _with_expected(found, watched).with_columns(*slices, time=moment()).drop("as_of")

    def _read_stretch(self, record: WindowRecord, watch: VersionWatch, watched: Watched) -> "_Stretch":
        """What was answered in a window, and about then in others that are due: they are in the same segments, whose
        reading takes most of the time of measuring short windows."""
        first, last = record.answered_from, record.answered_to
        longest = (_STRETCH_WINDOWS if record.rows <= _STRETCH_ROWS else 1) * (last - first)
        for one in (_find(watch, *name[1:]) for name in self.due if name[0] == watch.version):
            if one is not None and max(last, one.answered_to) - min(first, one.answered_from) <= longest:
                first, last = min(first, one.answered_from), max(last, one.answered_to)
        asked = (f"{FEATURE}{name}" for name in watched.reference.error_columns)
        wanted = {*_COLUMNS, *ANSWER_COLUMNS, *asked, *_slice_columns(watched.slices)}
        frames = rows_between(
            self._artifacts, self._use_case, first, last + timedelta(microseconds=1),
            lambda name: name in wanted or name.startswith(KEY),
        )  # fmt: skip
        empty = pl.DataFrame(schema={name: COLUMNS[name] for name in _COLUMNS})
        rows = together([empty, *frames])
        answer = watched.reference.task.ledger_types.items()
        rows = rows.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in answer if name not in rows.columns)
        return _Stretch(watch.version, first, last, rows)


@dataclass(frozen=True)
class _Stretch:
    """All that was answered from `first` to `last`, with the columns that are wanted of a version's windows."""

    version: str
    first: datetime
    last: datetime
    rows: pl.DataFrame

    def has(self, version: str, record: WindowRecord) -> bool:
        inside = self.first <= record.answered_from and record.answered_to <= self.last
        return inside and self.version == version


def _find(watch: VersionWatch | None, spec: str, number: int) -> WindowRecord | None:
    stream = None if watch is None else watch.streams.get(spec)
    return next((one for one in stream.records if one.number == number), None) if stream else None


def _is_away(watch: VersionWatch, spec: str, number: int) -> bool:
    stream = watch.streams.get(spec)
    return stream is not None and any(block.first <= number <= block.last for block in stream.archive)


def _may_be_about(part: str, window: WindowRecord | WindowBlock) -> bool:
    """Of labels whose requests are not known, by the day of the event: nobody asks after it, but any time before."""
    if part == UNDATED:
        return True
    return (window.start - _DAY).date() <= date.fromisoformat(part.removeprefix(KEYS))


def _with_expected(rows: pl.DataFrame, watched: Watched) -> pl.DataFrame:
    """With how wrong each answer was expected to be, where labels are held against that."""
    reference = watched.reference
    if reference.label_fit.errors is None:
        return rows
    named = {name: f"{FEATURE}{name}" for name in reference.error_columns if f"{FEATURE}{name}" in rows.columns}
    made = reference.with_answers(rows.select(*reference.task.ledger_types, **named))
    return rows.with_columns(made[EXPECTED])


def _digest(segments: Sequence[LabelSegment]) -> str:
    return hashlib.sha256(" ".join(one.id for one in segments).encode()).hexdigest()[:16]


def _slice_columns(slices: tuple[str, ...]) -> list[str]:
    return [f"{prefix}{name}" for name in slices for prefix in (FEATURE, KEY)]


def _slice(name: str, columns: list[str]) -> pl.Expr:
    found = [column for column in _slice_columns((name,)) if column in columns]
    return (pl.col(found[0]).cast(pl.String) if found else pl.lit(None, dtype=pl.String)).alias(name)
