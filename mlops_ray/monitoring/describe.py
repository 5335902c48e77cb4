"""What the watch of an endpoint knows, in words for a terminal."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlops_ray.governance.alarms import AlarmRecord
from mlops_ray.monitoring.performance_estimation import EstimatedQuality
from mlops_ray.monitoring.version_watch import Stream, VersionWatch
from mlops_ray.monitoring.watch_state import WatchState
from mlops_ray.monitoring.window_record import WindowRecord
from mlops_ray.tasks.evaluation import Measured, metric_words


def describe(state: WatchState, alarms: Sequence[AlarmRecord], now: datetime, windows: int = 5) -> Iterator[str]:
    """The last windows of each version and kind with their verdicts and quality, then the alarms that are not over."""
    if not state.rows:
        yield "Nothing was counted yet."
    for version, rows in sorted(state.rows.items(), key=lambda item: (len(item[0]), item[0])):
        yield f"Version {version}: {rows:,} predictions."
        if version in state.unwatched:
            yield f"  Not watched: {state.unwatched[version]}"
        elif version in state.watches:
            yield from _of_version(state.watches[version], windows)
    yield from notes_of(state)
    yield from _alarm_lines(alarms, now)


def notes_of(state: WatchState) -> Iterator[str]:
    """What was counted and is in no window, or changed nothing."""
    if state.repeated:
        yield f"{state.repeated:,} answers were repetitions, and not counted."
    if state.aside.ahead:
        yield f"{state.aside.ahead:,} predictions are in no window: they were answered ahead of the database's clock."
    if state.aside.astray:
        yield f"{state.aside.astray:,} predictions are in no window: their moments are far from those of the others."
    if state.late_labels:
        yield f"{state.late_labels:,} labels came later than `labels_count_for`, and changed nothing."


def alarm_lines(alarms: Iterable[AlarmRecord], now: datetime) -> Iterator[str]:
    """An alarm a line: its id, severity and state, and what it says."""
    for alarm in alarms:
        state = "resolved" if alarm.resolved_at else "open"
        if not alarm.resolved_at and not alarm.is_open(now):
            state = f"silenced until {alarm.silenced_until:%Y-%m-%d %H:%M}Z ({alarm.silenced_because})"
        yield f"{alarm.id}  {alarm.severity}  {state}  {alarm.title}"


def alarm_details(alarm: AlarmRecord, now: datetime) -> Iterator[str]:
    """One alarm: what it says, since when, each finding with its size and share of the importance, and example rows."""
    yield from alarm_lines([alarm], now)
    window = alarm.payload["window"]
    times = f"{str(window['start'])[:16]} to {str(window['end'])[:16]}"
    yield f"  since {alarm.since:%Y-%m-%d %H:%M}; worst in the window of {window['kind']} from {times}"
    for finding in alarm.payload["findings"]:
        share = finding["importance"]
        known = "" if share is None or share != share else f", {100 * share:.3g} % of the model's importance"
        size = f"{finding['detector']} {finding['value']:.3g}, threshold {finding['threshold']:.3g}"
        yield f"  {finding['column']}: {finding['shift']} ({size}{known})"
    for example in alarm.payload["examples"]:
        yield f"  for example {example_words(example)}"


def example_words(example: Mapping[str, Any]) -> str:
    """A row of an alarm's examples on one line."""
    numbers = {name: f"{value:.6g}" for name, value in example.items() if isinstance(value, float)}
    return ", ".join(f"{name} {numbers.get(name, value)}" for name, value in example.items())


def _of_version(watch: VersionWatch, windows: int) -> Iterator[str]:
    for name, stream in watch.streams.items():
        yield f"  Windows of {name}: {stream.finished:,} finished, {_open_rows(stream):,} rows in the next."
        for record in stream.records[-windows:]:
            times = f"{record.start:%Y-%m-%d %H:%M} to {record.end:%Y-%m-%d %H:%M}"
            yield f"    {times}, {record.rows:,} rows{_misdated(record)}{_revision(record)}"
            yield f"      {record.diagnosis}"
            if record.prediction.answer == "drift":
                yield f"      The predictions have changed: {record.prediction.reason}"
            yield f"      {_quality(record)}"


def _open_rows(stream: Stream) -> int:
    return stream.state.open.rows if stream.state.open else 0


def _misdated(record: WindowRecord) -> str:
    return f" ({record.misdated:,} of another time)" if record.misdated else ""


def _revision(record: WindowRecord) -> str:
    return f", judged by revision {record.revision}" if record.revision else ""


def _quality(record: WindowRecord) -> str:
    unreadable = f"; {record.unreadable:,} labels can be none of this version's" if record.unreadable else ""
    return f"Quality: {estimated_words(record)}; {measured_words(record)}{unreadable}."


def estimated_words(record: WindowRecord) -> str:
    """The quality that a window's predictions let expect, with its interval."""
    return "not enough data to estimate it" if record.estimated is None else _estimated(record.estimated)


@dataclass(frozen=True)
class Said:
    """What a window says of quality, in words, and its end."""

    text: str
    end: datetime


@dataclass(frozen=True)
class Newest:
    """What the newest windows of a version say, of whichever kind; None where no window says it."""

    estimated: Said | None = None
    measured: Said | None = None


def newest_quality(watch: VersionWatch) -> Newest:
    estimated = measured = None
    records = (one for stream in watch.streams.values() for one in stream.records)
    for record in sorted(records, key=lambda one: one.end):
        if record.estimated is not None:
            estimated = Said(estimated_words(record), record.end)
        if record.labelled:
            measured = Said(measured_words(record), record.end)
    return Newest(estimated, measured)


def measured_words(record: WindowRecord) -> str:
    """The quality of a window by its labels, and whether that is what was expected."""
    if not record.labelled:
        return "no labels yet"
    whole = record.quality[0]
    first, *others = (f"{metric_words(name)} {_measured(found)}" for name, found in whole.metrics.items())
    said = ", ".join((f"{first}{_checked(record.estimated, whole.watched.value)}", *others))
    return f"measured on {whole.rows:,} labels: {said}"


def _checked(estimated: EstimatedQuality | None, truth: float) -> str:
    """Whether the estimate held, once labels have come."""
    if estimated is None or estimated.low is None or estimated.high is None or truth != truth:
        return ""
    return ", as estimated" if estimated.low <= truth <= estimated.high else ", NOT as estimated"


def _estimated(quality: EstimatedQuality) -> str:
    found = Measured(quality.value, quality.low, quality.high)
    return f"{metric_words(quality.metric)} estimated {_measured(found)}"


def _measured(found: Measured) -> str:
    if found.value != found.value:
        return "unknown"
    if found.low is None or found.high is None:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _alarm_lines(alarms: Sequence[AlarmRecord], now: datetime) -> Iterator[str]:
    standing = [alarm for alarm in alarms if alarm.resolved_at is None]
    yield f"{len(standing)} alarms stand." if standing else "No alarm stands."
    yield from (f"  {line}" for line in alarm_lines(standing, now))
