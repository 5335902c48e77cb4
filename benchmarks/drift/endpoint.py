"""An endpoint's watch in memory: `DriftWatch` without its ledger. All that decides is the code that an endpoint runs.

Rows are dated, counted, judged and labelled by the functions that the drift actor calls, in its order. Only what lies
on disk (segments, members, labels, commits) stays in memory, so a month takes less than a second.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count

import numpy as np
import polars as pl

from mlops_ray.monitoring.alarm_change import AlarmChange
from mlops_ray.monitoring.answers import PREDICTION
from mlops_ray.monitoring.coverage import fitting
from mlops_ray.monitoring.drift_watch import SETTLE
from mlops_ray.monitoring.label_times import LabelTimes
from mlops_ray.monitoring.labelling import Labelled, take_labels
from mlops_ray.monitoring.observation import moments_of, observe
from mlops_ray.monitoring.quality import quality_of
from mlops_ray.monitoring.stream_clock import StreamClock, date_rows
from mlops_ray.monitoring.version_watch import VersionWatch, Watched
from mlops_ray.monitoring.window_record import WindowRecord

VERSION = "1"
_KEPT = ("request_id", "row", "time", "probability", "label", "known_at")
_Name = tuple[str, int]


@dataclass
class _Pending:
    """A window whose labels are not all there: its rows, and of how many labels it has been told."""

    record: WindowRecord
    rows: pl.DataFrame
    told: int = -1


@dataclass
class Endpoint:
    """watch: as the drift actor has it. aside: rows that are in no window."""

    watched: Watched
    times: LabelTimes
    watch: VersionWatch = field(default_factory=lambda: VersionWatch(VERSION))
    aside: int = 0
    _clock: StreamClock = field(default_factory=StreamClock)
    _rows: dict[str, list[pl.DataFrame]] = field(default_factory=dict)
    _pending: dict[_Name, _Pending] = field(default_factory=dict)
    _ids: count = field(default_factory=count)
    _read: int = 0

    def round(self, rows: pl.DataFrame, now: datetime) -> list[AlarmChange]:
        """Read `rows` (see `worlds.later_rows`), and the labels that are known by `now`; what is announced."""
        names = pl.int_range(self._read, self._read + len(rows)).cast(pl.String).str.zfill(12)
        rows = rows.sort("time").with_columns(request_id=names, row=pl.lit(0, pl.Int32))
        self._read += len(rows)
        moment = moments_of(rows["time"])
        dated = date_rows(self._clock, moment, moment, now)
        self._clock, kept = dated.clock, rows.filter(pl.Series(dated.kept))
        self.aside += len(rows) - len(kept)
        if self._clock.read_up_to is None:
            return []
        features = pl.col("probability").alias(PREDICTION), *self.watched.reference.inputs
        named = kept.select("request_id", "row", *features)
        moment = moments_of(kept["time"])
        seen = observe(self.watch, self.watched, named, moment, moment, self._clock.read_up_to - SETTLE, self._id)
        self.watch = seen.watch
        for spec, panes in seen.panes.items():
            placed = kept.select(*_KEPT, *self.watched.slices).with_columns(pane=pl.Series(panes))
            self._rows.setdefault(spec, []).append(placed)
            self._finish(spec)
        return [*seen.changes, *self._take_labels(now)]

    def copy(self) -> "Endpoint":
        """Another that goes on from here."""
        rows = {spec: list(parts) for spec, parts in self._rows.items()}
        pending = {name: replace(one) for name, one in self._pending.items()}
        return replace(self, _rows=rows, _pending=pending, _ids=count(self._read))

    def _id(self) -> str:
        return f"alarm {next(self._ids)}"

    def _finish(self, spec: str) -> None:
        """Give windows that have ended their rows."""
        new = [one for one in self.watch.streams[spec].records if (spec, one.number) not in self._pending]
        if not new:
            return
        rows = pl.concat(self._rows[spec])
        last = max(record.panes[1] for record in new)
        parts = rows.filter(pl.col("pane") <= last).partition_by("pane", as_dict=True)
        self._rows[spec] = [rows.filter(pl.col("pane") > last)]
        for record in new:
            self._pending[spec, record.number] = _Pending(record, parts.get((record.panes[0],), rows.clear()))

    def _take_labels(self, now: datetime) -> list[AlarmChange]:
        found, over = {}, set()
        edges = self.watched.reference.reliability["all"].edges
        for name, pending in self._pending.items():
            rows, record = pending.rows, pending.record
            if not self._says_something(record):
                over.add(name)
                continue
            grown_up = record.end + self.times.complete_after <= now
            # A label that is known later than it counts for never counts.
            counts = (pl.col("known_at") <= pl.lit(now)) & (pl.col("known_at") <= pl.col("time") + self.times.count_for)
            told = rows.select(counts.sum()).item()
            if told == len(rows) or grown_up:
                over.add(name)
            if told == pending.told and not grown_up:
                continue
            pending.told = told
            joined = rows.with_columns(label=pl.when(counts).then("label"))
            qualities = quality_of(joined, record.start, record.end, edges, self.watched.slices)
            found[name] = Labelled(qualities, errors=np.empty(0), grown_up=grown_up)
        seen = take_labels(self.watch, self.watched, found, self._id)
        self._pending = {name: one for name, one in self._pending.items() if name not in over}
        streams = {
            spec: replace(stream, records=tuple(r for r in stream.records if (spec, r.number) in self._pending))
            for spec, stream in seen.watch.streams.items()
        }
        self.watch = replace(seen.watch, streams=streams)
        return list(seen.changes)

    def _says_something(self, record: WindowRecord) -> bool:
        """Labels of a window shorter than all that were learned from say nothing, and take half of the time."""
        learned = self.watched.reference.windows[record.spec].concept
        span_s = (record.end - record.start).total_seconds()
        return record.rows > 0 and fitting(learned, span_s, record.rows) is not None
