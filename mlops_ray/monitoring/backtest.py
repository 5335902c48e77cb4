"""A definition of monitoring over the recorded ledger: which windows would have alarmed, and which did.

The watch itself runs, in simulated time and in a folder of its own: predictions come as they were answered, labels as
they were received. What is not repeated is the order in which replicas brought their files.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import DataError
from mlops_ray.governance.monitoring_definitions import MonitoringRevision
from mlops_ray.monitoring.alarm_change import AlarmChange
from mlops_ray.monitoring.drift_watch import DriftWatch, FindReference
from mlops_ray.monitoring.label_times import set_label_times
from mlops_ray.monitoring.watch_state import WatchState
from mlops_ray.monitoring.window_archive import WindowArchive
from mlops_ray.monitoring.window_record import WindowRecord
from mlops_ray.predictions.ids import uuid7_at
from mlops_ray.predictions.labels import Labels, LabelSegment, rewrite_labels
from mlops_ray.predictions.reader import rows_between
from mlops_ray.predictions.record import UNWATCHED
from mlops_ray.predictions.segments import read_segment, together, write_segment

_SHORTEST_STEP, _MOST_STEPS = timedelta(minutes=5), 200
_SEGMENT = "10m"

LiveAt = Callable[[datetime], Sequence[str] | None]


@dataclass(frozen=True)
class Told:
    """What the watch would have announced, and when in simulated time."""

    at: datetime
    change: AlarmChange


@dataclass(frozen=True)
class Backtest:
    """rows: predictions that were replayed. told: in order. windows: that were finished, by version and kind.
    unwatched: versions that could not be judged, and why."""

    start: datetime
    end: datetime
    rows: int
    told: tuple[Told, ...]
    windows: dict[tuple[str, str], tuple[WindowRecord, ...]]
    unwatched: dict[str, str]


def backtest(
    artifacts: Artifacts,
    use_case: str,
    find: FindReference,
    revision: MonitoringRevision | None,
    start: datetime,
    end: datetime,
    live_at: LiveAt = lambda moment: None,
) -> Backtest:
    """Replay what was answered in `start <= time < end`. Nothing is written but in a folder that is removed.

    find: what versions are judged by. revision: whose times for labels count; None for those that count now. live_at:
    the versions that took traffic at a moment, the champion first. Raises DataError if nothing was recorded.
    """
    recorded = _Recorded(artifacts, use_case)
    begun = recorded.first(start, end)
    step = max(_SHORTEST_STEP, (end - begun) / _MOST_STEPS)
    with TemporaryDirectory(prefix="mlops-ray-backtest-") as folder:
        scratch = Artifacts(str(Path(folder).absolute()))
        times = artifacts.read_json("monitoring", use_case, "labels.json")
        if times is not None:
            scratch.write_json(times, "monitoring", use_case, "labels.json")
        if revision is not None:
            set_label_times(scratch, use_case, revision)
        told, now, rows = list[Told](), begun, 0
        seen: dict[tuple[str, str], dict[int, WindowRecord]] = {}
        watch = DriftWatch(scratch, use_case, find, lambda change: told.append(Told(now, change)))
        while now < end:
            until = min(now + step, end)
            rows += recorded.bring(scratch, now, until)
            now = until
            while watch.round(now, live_at(now)).measured:  # a round measures for so many seconds
                pass
            for name, records in _at_hand(watch.state):  # no label counts for the oldest any more, which are forgotten
                seen.setdefault(name, {}).update({record.number: record for record in records})
        watch.round(now, live_at(now))
        for name, records in finished_windows(scratch, use_case, watch.state).items():
            seen.setdefault(name, {}).update({record.number: record for record in records})
        windows = {name: tuple(found[number] for number in sorted(found)) for name, found in seen.items()}
        return Backtest(begun, end, rows, tuple(told), windows, dict(watch.state.unwatched))


def finished_windows(
    artifacts: Artifacts, use_case: str, state: WatchState
) -> dict[tuple[str, str], tuple[WindowRecord, ...]]:
    """All windows that a watch knows of, by version and kind, those in files too."""
    archive = WindowArchive(artifacts, use_case)
    return {
        (version, spec): (*(record for block in stream.archive for record in archive.read(block)), *stream.records)
        for version, watch in state.watches.items()
        for spec, stream in watch.streams.items()
    }


def _at_hand(state: WatchState) -> Iterator[tuple[tuple[str, str], tuple[WindowRecord, ...]]]:
    for version, watch in state.watches.items():
        for spec, stream in watch.streams.items():
            yield (version, spec), stream.records


class _Recorded:
    """What was answered and told, in the order in which it was."""

    def __init__(self, artifacts: Artifacts, use_case: str):
        self._artifacts, self._use_case = artifacts, use_case
        self._labels = [
            (segment, rows.sort("received_at")) for segment, rows in _label_segments(Labels(artifacts, use_case))
        ]

    def first(self, start: datetime, end: datetime) -> datetime:
        """When the first prediction of the span was answered."""
        found = rows_between(self._artifacts, self._use_case, start, end, {"time", "route"}.__contains__)
        times = [rows.filter(~pl.col("route").is_in(UNWATCHED))["time"].min() for rows in found]
        known = [time for time in times if isinstance(time, datetime)]
        if not known:
            raise DataError(
                f"The ledger of {self._use_case} has no predictions from {start:%Y-%m-%d %H:%M} to "
                f"{end:%Y-%m-%d %H:%M} UTC. Give another span with --from and --to."
            )
        return min(known)

    def bring(self, scratch: Artifacts, start: datetime, end: datetime) -> int:
        """Write what was answered and told in `start <= time < end`; returns how many predictions."""
        found = [rows for rows in rows_between(self._artifacts, self._use_case, start, end) if len(rows)]
        count = 0
        if found:
            rows = together(found).sort("time", "request_id", "row", maintain_order=True)
            count = len(rows)
            for (slot,), part in rows.group_by(pl.col("time").dt.truncate(_SEGMENT), maintain_order=True):
                first = part["time"][0]
                assert isinstance(slot, datetime)
                id = uuid7_at(int(first.timestamp() * 1000), slot.isoformat().encode()[:10].rjust(10))
                write_segment(scratch, self._use_case, id, part)
        for number, (segment, labels) in enumerate(self._labels):
            part = labels.filter((pl.col("received_at") >= start) & (pl.col("received_at") < end))
            if len(part):
                id = uuid7_at(int(start.timestamp() * 1000), f"{number:010}".encode())
                rewrite_labels(scratch, self._use_case, LabelSegment(segment.part, id, ""), part)
        return count


def _label_segments(labels: Labels) -> Iterator[tuple[LabelSegment, pl.DataFrame]]:
    for segment in labels.segments():
        yield segment, read_segment(segment.url)
