"""What is watched of one version: its windows, their verdicts, its quality and its alarms, as one value.

    seen = observe(watch, watched, rows, ...)        # predictions: counted, windows judged, alarms stepped
    seen = take_labels(seen.watch, watched, ...)     # labels: quality measured, concept drift judged
    seen.changes                                     # alarms to announce

Nothing here reads a clock, a file or a database: the drift actor does that, and a backtest with simulated time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import nan
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import DataError
from mlops_ray.monitoring.alarm_change import (
    FINDINGS,
    AlarmChange,
    Kind,
    drifted_rows,
    raised_change,
    resolved_change,
)
from mlops_ray.monitoring.alarms import Alarm, Step, diagnose, step
from mlops_ray.monitoring.beside_champion import beside_champion, shared_concept
from mlops_ray.monitoring.error_stream import ErrorStream, take_errors
from mlops_ray.monitoring.judging import judge, judge_concept, with_error_changes
from mlops_ray.monitoring.looks import Gathered, look, not_yet
from mlops_ray.monitoring.members import MemberFile
from mlops_ray.monitoring.missing_labels import at_best
from mlops_ray.monitoring.performance_estimation import EstimatedQuality
from mlops_ray.monitoring.quality import Measured, Quality
from mlops_ray.monitoring.recalibration import UNTAUGHT, Lived, taught
from mlops_ray.monitoring.reference import PREDICTION, Reference
from mlops_ray.monitoring.severity import SEVERITIES, Severity, worse
from mlops_ray.monitoring.sketches import NumericSketch
from mlops_ray.monitoring.slices import ALL_ROWS
from mlops_ray.monitoring.verdicts import Question, Verdict, not_judged
from mlops_ray.monitoring.windows import Added, Window, WindowState, add
from mlops_ray.use_case.window_spec import WindowSpec

# A window says "no drift" once so many of its labels have come, or once it is so old that no more will.
LABELLED_SHARE = 0.8
# Its errors are followed beyond it with so many: those of the first labels are not like the rest.
FOLLOWED_SHARE = 0.99
_MICROS = "datetime64[us]"

NewId = Callable[[], str]


@dataclass(frozen=True)
class Watched:
    """What a version is judged by. importance: of each feature, in any unit; empty where not known."""

    version: str
    reference: Reference
    importance: Mapping[str, float] = field(default_factory=dict)

    @property
    def slices(self) -> tuple[str, ...]:
        """The columns by whose values rows with labels are judged for themselves."""
        names = (name.partition("=")[0] for name in self.reference.reliability if name != ALL_ROWS)
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class SliceQuality:
    """What labels say of the rows of a slice; see `quality.Quality`."""

    slice: str
    rows: int
    predictions: int
    positive: float
    roc_auc: Measured
    log_loss: Measured
    brier: Measured


@dataclass(frozen=True)
class WindowRecord:
    """A finished window. answered_from, answered_to: its predictions were answered in between (never outside).

    panes: numbers of its first and last; who is in them is stored (see `members`).
    estimated: before labels come. concept, quality: from the labels that came so far, all rows first. labelled: how
    many. settled: whether its labels have had their say on the alarm, followed: whether its errors are in the stream of
    errors. grown_up: see `Labelled`. whole: see `windows.Window`.
    """

    spec: str
    number: int
    start: datetime
    end: datetime
    rows: int
    misdated: int
    answered_from: datetime
    answered_to: datetime
    data: Verdict
    prediction: Verdict
    estimated: EstimatedQuality | None = None
    labelled: int = 0
    concept: Verdict | None = None
    quality: tuple[SliceQuality, ...] = ()
    settled: bool = False
    whole: bool = True
    panes: tuple[int, int] = (0, 0)
    followed: bool = False
    grown_up: bool = False

    @property
    def diagnosis(self) -> str:
        return diagnose(self.data, self.concept)


@dataclass(frozen=True)
class WindowBlock:
    """Windows that lie in a file (see `window_archive`): their numbers and panes, when the first begins, and until when
    their predictions were answered. young: when the first of those ended that have labels and have not grown up; None
    without.
    """

    name: str
    first: int
    last: int
    start: datetime
    answered_to: datetime
    panes: tuple[int, int]
    young: datetime | None


@dataclass(frozen=True)
class Stream:
    """The windows of one kind. finished: how many so far. records: of those at hand, archive: where the older ones are,
    as long as labels can change them. alarms: those that are open. waiting: windows that are judged together with the
    next ones. lived: what traffic has taught. last: what was judged last, of a champion beside which another version is
    rolled out.
    """

    state: WindowState
    finished: int = 0
    records: tuple[WindowRecord, ...] = ()
    alarms: Mapping[Question, Alarm] = field(default_factory=dict)
    waiting: Gathered | None = None
    lived: Mapping[Question, Lived] = field(default_factory=dict)
    last: Window | None = None
    archive: tuple[WindowBlock, ...] = ()


@dataclass(frozen=True)
class VersionWatch:
    """rows: all that were counted. streams: by `spec.name`. raised: ids of the alarms that were announced, and stand.

    An alarm is about a question, whichever kinds of windows show it: it is raised with the first, and resolved when
    none shows it any more. errors: of the settled windows of the first kind, as a stream. severities: as they were
    announced. members: files that say which predictions are in which panes.
    """

    version: str
    rows: int = 0
    streams: Mapping[str, Stream] = field(default_factory=dict)
    raised: Mapping[Question, str] = field(default_factory=dict)
    errors: ErrorStream = field(default_factory=ErrorStream)
    severities: Mapping[Question, Severity] = field(default_factory=dict)
    members: tuple[MemberFile, ...] = ()

    def record(self, spec: str, number: int) -> WindowRecord:
        return next(record for record in self.streams[spec].records if record.number == number)

    def to_bytes(self) -> bytes:
        streams = {name: _stored(stream) for name, stream in self.streams.items()}
        return msgspec.msgpack.encode(
            _StoredWatch(self.version, self.rows, streams, self.raised, self.errors, self.severities, self.members)
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> "VersionWatch":
        """What `to_bytes` wrote. Raises DataError if it is something else."""
        try:
            stored = msgspec.msgpack.decode(content, type=_StoredWatch)
            streams = {name: _stream(one) for name, one in stored.streams.items()}
        except (msgspec.MsgspecError, pl.exceptions.PolarsError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"{len(content)} bytes are not the watch of a version of this code: {error}") from error
        return cls(
            stored.version, stored.rows, streams, stored.raised, stored.errors, stored.severities, stored.members
        )


@dataclass(frozen=True)
class _Stored:
    state: bytes
    finished: int
    records: tuple[WindowRecord, ...]
    alarms: Mapping[Question, Alarm]
    waiting: tuple[bytes, float] | None
    lived: Mapping[Question, Lived]
    last: bytes | None
    archive: tuple[WindowBlock, ...]


def _stored(stream: Stream) -> _Stored:
    waiting = stream.waiting
    gathered = None if waiting is None else (waiting.window.to_bytes(), waiting.covered.total_seconds())
    last = None if stream.last is None else stream.last.to_bytes()
    return _Stored(
        stream.state.to_bytes(), stream.finished, stream.records, stream.alarms, gathered, stream.lived, last,
        stream.archive,
    )  # fmt: skip


def _stream(stored: _Stored) -> Stream:
    waiting = stored.waiting
    gathered = None if waiting is None else Gathered(Window.from_bytes(waiting[0]), timedelta(seconds=waiting[1]))
    last = None if stored.last is None else Window.from_bytes(stored.last)
    return Stream(
        WindowState.from_bytes(stored.state), stored.finished, stored.records, stored.alarms, gathered, stored.lived,
        last, stored.archive,
    )  # fmt: skip


@dataclass(frozen=True)
class _StoredWatch:
    version: str
    rows: int
    streams: Mapping[str, _Stored]
    raised: Mapping[Question, str]
    errors: ErrorStream
    severities: Mapping[Question, Severity]
    members: tuple[MemberFile, ...]


@dataclass(frozen=True)
class Rollout:
    """A version is rolled out beside a champion. champion: its watch, for that of the version; None for its own."""

    champion: VersionWatch | None = None


@dataclass(frozen=True)
class Observed:
    """The watch afterwards, what is to be announced, in order, and by kind of window the pane of each row.

    judged: the records of the windows that were judged, with what was looked at (see `looks`).
    """

    watch: VersionWatch
    changes: tuple[AlarmChange, ...] = ()
    panes: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    judged: tuple[tuple[WindowRecord, Window], ...] = ()


@dataclass(frozen=True)
class Labelled:
    """What the labels of one window say. qualities: of all rows and of each slice. examples: rows that went wrong.

    errors: of the rows with labels, in the order of their predictions (see `error_stream.excess_errors`). grown_up: the
    window is so old that labels that are missing are missing at random (see `LabelTimes.complete_after`).
    """

    qualities: tuple[Quality, ...]
    examples: tuple[Mapping[str, Any], ...] = ()
    errors: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    grown_up: bool = False


_NOTHING_TOLD = Labelled(())


def observe(
    watch: VersionWatch,
    watched: Watched,
    rows: pl.DataFrame,
    moment: NDArray[np.datetime64],
    answered: NDArray[np.datetime64],
    read_up_to: datetime,
    new_id: NewId,
    rollout: Rollout | None = None,
) -> Observed:
    """Count `rows` in order, judge the windows that they finish, and step the alarms.

    rows: a column for each feature and "prediction"; request_id and row, if there, go into the examples of alarms.
    moment [rows], read_up_to: see `windows.add`. answered [rows]: when they were answered, which is later where past
    moments are asked about. new_id: makes the id of a new alarm. rollout: where a version is rolled out.
    """
    watch = replace(watch, rows=watch.rows + len(rows))
    records: list[tuple[WindowRecord, Window]] = []
    judged: list[tuple[WindowRecord, Window]] = []
    panes: dict[str, NDArray[np.int64]] = {}
    for name, monitored in watched.reference.windows.items():
        stream = watch.streams.get(name) or _fresh(monitored.spec, watched.reference)
        added = add(stream.state, rows, moment, read_up_to, answered)
        panes[name] = added.panes
        made, stream = _judged(stream, added, watched, name, rollout)
        watch = replace(watch, streams={**watch.streams, name: stream})
        records += ((record, window) for (record, _), window in zip(made, added.finished, strict=True))
        judged += ((record, looked) for record, looked in made if looked is not None)
    changes: list[AlarmChange] = []
    # All kinds in turn, or an alarm would be told for each.
    for record, window in sorted(records, key=lambda one: one[0].end):
        for verdict in (record.data, record.prediction):
            drifted = verdict.answer == "drift"
            examples = drifted_rows(window.sample.values(), verdict, watched.reference) if drifted else ()
            watch, changed = _take(watch, record.spec, verdict, examples, new_id)
            changes += changed
    return Observed(watch, tuple(changes), panes, tuple(judged))


def take_labels(
    watch: VersionWatch,
    watched: Watched,
    labelled: Mapping[tuple[str, int], Labelled],
    new_id: NewId,
    rollout: Rollout | None = None,
) -> Observed:
    """Take what labels say of windows, by kind and number, and let concept drift be judged where enough have come.

    While labels are missing, a window is judged by what no missing one could contradict (see `missing_labels`): which
    come first alarms nobody. It has its say when 80 % have come or it has grown up, and if labels that come later
    make drift of it, again.
    """
    changes: list[AlarmChange] = []
    for name, stream in watch.streams.items():
        found = {number: one for (spec, number), one in labelled.items() if spec == name}
        records = tuple(
            _with_labels(record, found[record.number], watched, stream.lived) if record.number in found else record
            for record in stream.records
        )
        watch = replace(watch, streams={**watch.streams, name: replace(stream, records=records)})
        before = {record.number: record for record in stream.records}
        for record in records:
            if _has_say(record, before[record.number]):
                assert record.concept is not None
                told = found.get(record.number, _NOTHING_TOLD)
                watch = _marked(watch, name, record.number, settled=True)
                verdict = _beside_concept(record.concept, rollout)
                watch, changed = _take(watch, name, verdict, told.examples, new_id)
                changes += changed
        if name == next(iter(watched.reference.windows)):
            watch, changed = _follow_errors(watch, watched, name, found, new_id, rollout)
            changes += changed
    return Observed(watch, tuple(changes))


def awaiting_labels(watch: VersionWatch, watched: Watched) -> list[WindowRecord]:
    """The windows whose labels have not said all that is expected of them."""
    followed = next(iter(watched.reference.windows)) if watched.reference.errors.limits else ""
    return [
        record
        for name, stream in watch.streams.items()
        for record in stream.records
        if not record.settled or (name == followed and not record.followed)
    ]


def retire(watch: VersionWatch, at: datetime) -> Observed:
    """The version takes no traffic any more: its alarms are over, and its windows begin anew if it comes back."""
    changes = tuple(
        AlarmChange("resolved", id, watch.version, question, "The version takes no traffic any more.", "info", at)
        for question, id in watch.raised.items()
    )
    streams = {
        name: replace(stream, state=stream.state.anew(), alarms={}, waiting=None)
        for name, stream in watch.streams.items()
    }
    return Observed(replace(watch, streams=streams, raised={}, errors=ErrorStream(), severities={}), changes)


def _fresh(spec: WindowSpec, reference: Reference) -> Stream:
    return Stream(WindowState(spec, reference.empty_columns(), reference.sample_rows))


def _judged(
    stream: Stream, added: Added, watched: Watched, name: str, rollout: Rollout | None
) -> tuple[list[tuple[WindowRecord, Window | None]], Stream]:
    """The records of the windows that were finished, each with what was judged then, and the stream with them."""
    monitored, made = watched.reference.windows[name], list[tuple[WindowRecord, Window | None]]()
    waiting, last = stream.waiting, None if rollout is None else stream.last
    for index, window in enumerate(added.finished):
        number = stream.finished + index
        looked = look(waiting, window, monitored.spec, number, monitored.shortest)
        waiting = looked.waiting
        record = _record(window, looked.window, watched, name, number, stream.lived)
        if rollout is not None and looked.window is not None:
            last = looked.window if rollout.champion is None else None
            record = _beside(record, looked.window, rollout.champion)
        made.append((record, looked.window))
    return made, replace(
        stream, state=added.state, finished=stream.finished + len(made), waiting=waiting, last=last,
        records=(*stream.records, *(record for record, _ in made)),
    )  # fmt: skip


def _record(
    window: Window, looked: Window | None, watched: Watched, name: str, number: int, lived: Mapping[Question, Lived]
) -> WindowRecord:
    """looked: what is judged now, with the windows that waited for it; None while the window waits itself."""
    reference = watched.reference
    if looked is None:
        shortest = reference.windows[name].shortest
        data, prediction = (not_yet(question, window, shortest) for question in ("data", "prediction"))
    else:
        data = judge(looked, reference, name, "data", watched.importance, lived=lived.get("data", UNTAUGHT))
        prediction = judge(looked, reference, name, "prediction", lived=lived.get("prediction", UNTAUGHT))
    estimated = None
    sketch = window.columns.get(PREDICTION)
    if reference.estimator is not None and isinstance(sketch, NumericSketch) and sketch.values:
        enough = sketch.values >= reference.windows[name].spec.minimum_rows
        estimated = reference.estimator.estimate(sketch) if enough else None
    return WindowRecord(
        name, number, window.start, window.end, window.rows, window.misdated,
        *(window.answered or (window.start, window.end)), _shortened(data), _shortened(prediction), estimated,
        whole=window.whole, panes=window.panes,
    )  # fmt: skip


def _beside(record: WindowRecord, window: Window, champion: VersionWatch | None) -> WindowRecord:
    """The record of a version in a rollout, beside what the champion saw."""
    if champion is None:
        return record
    stream = champion.streams.get(record.spec)
    seen = None if stream is None else stream.last
    data, prediction = (beside_champion(one, window, seen) for one in (record.data, record.prediction))
    return replace(record, data=data, prediction=prediction)


def _beside_concept(verdict: Verdict, rollout: Rollout | None) -> Verdict:
    """The verdict on the concept of a version in a rollout, beside the champion's."""
    if rollout is None or rollout.champion is None:
        return verdict
    return shared_concept(verdict, "concept" in rollout.champion.raised)


def _shortened(verdict: Verdict) -> Verdict:
    return replace(verdict, findings=verdict.findings[:FINDINGS])


def _with_labels(
    record: WindowRecord, labelled: Labelled, watched: Watched, lived: Mapping[Question, Lived]
) -> WindowRecord:
    qualities = labelled.qualities
    concept = _concept(record, qualities, watched, labelled.grown_up, lived.get("concept", UNTAUGHT))
    kept = tuple(
        SliceQuality(q.slice, q.rows, q.predictions, q.positive, q.roc_auc, q.log_loss, q.brier) for q in qualities
    )
    return replace(
        record, labelled=kept[0].rows if kept else 0, concept=concept and _shortened(concept), quality=kept,
        grown_up=labelled.grown_up,
    )  # fmt: skip


def _concept(
    record: WindowRecord, qualities: Sequence[Quality], watched: Watched, grown_up: bool, lived: Lived
) -> Verdict | None:
    """The verdict on the labels that have come; of a window that has not grown up what no missing one can change."""
    known = watched.reference.reliability
    if not qualities or ALL_ROWS not in known:
        return None
    ends = (record.start, record.end, watched.reference, record.spec, record.whole, lived)
    found = {quality.slice: quality.reliability for quality in qualities}
    missing = qualities[0].missing.rows.sum()
    if grown_up or not missing:
        return judge_concept(found, *ends)
    best = {q.slice: at_best(q.reliability, q.missing, known[q.slice]) for q in qualities if q.slice in known}
    verdict, whole = judge_concept(best, *ends), qualities[0]
    # Of the other statistics it is not certain that missing labels can only make them larger.
    certain = tuple(one for one in verdict.findings if one.detector == "miscalibration")
    if verdict.answer == "drift" and certain:
        return replace(verdict, findings=certain, rows=whole.rows)
    reason = f"Of {whole.predictions:,} labels {whole.rows:,} have come: the others may say otherwise."
    if verdict.answer == "no drift" and whole.rows >= LABELLED_SHARE * whole.predictions:
        return replace(verdict, rows=whole.rows, reason=reason)
    reason = verdict.reason if verdict.answer == "not enough data" else reason
    return replace(verdict, answer="not enough data", rows=whole.rows, findings=(), importance=nan, reason=reason)


def _has_say(record: WindowRecord, before: WindowRecord) -> bool:
    """Whether a window's labels have something to say that they have not said."""
    answer = record.concept and record.concept.answer
    if not record.settled:
        return answer in ("drift", "no drift")
    return answer == "drift" and (before.concept is None or before.concept.answer != "drift")


def _follow_errors(
    watch: VersionWatch,
    watched: Watched,
    spec: str,
    found: Mapping[int, Labelled],
    new_id: NewId,
    rollout: Rollout | None,
) -> tuple[VersionWatch, list[AlarmChange]]:
    """Take the errors of windows into the stream, in their order: of those whose labels have all but come.

    Of all kinds of windows the first is followed, so that each error counts once. A rise makes drift of the window that
    brought it: it does not need the window's labels to be enough for a judgement of their own.
    """
    calm, changes = watched.reference.errors, list[AlarmChange]()
    if not calm.limits:
        return watch, changes
    for record in watch.streams[spec].records:
        if record.followed:
            continue
        if record.rows and not _has_come(record):
            break
        watch = _marked(watch, spec, record.number, followed=True)
        told = found.get(record.number, _NOTHING_TOLD)
        joined = calm.joined(len(told.errors), record.end - record.start)
        taken = take_errors(watch.errors, told.errors, calm.limits, joined)
        watch = replace(watch, errors=taken.stream)
        if taken.changes:
            verdict = record.concept or not_judged("concept", record.start, record.end, record.labelled)
            verdict = _beside_concept(with_error_changes(verdict, taken.changes), rollout)
            watch, changed = _take(watch, spec, verdict, told.examples, new_id)
            changes += changed
    return watch, changes


def _has_come(record: WindowRecord) -> bool:
    """Whether its labels are as many as are to be waited for."""
    predictions = record.quality[0].predictions if record.quality else record.rows
    return record.grown_up or record.labelled >= FOLLOWED_SHARE * predictions


def _marked(watch: VersionWatch, spec: str, number: int, **marks: bool) -> VersionWatch:
    stream = watch.streams[spec]
    records = tuple(
        replace(one, **marks) if one.number == number else one  # type: ignore[arg-type]
        for one in stream.records
    )
    return replace(watch, streams={**watch.streams, spec: replace(stream, records=records)})


def _take(
    watch: VersionWatch, spec: str, verdict: Verdict, examples: Sequence[Mapping[str, Any]], new_id: NewId
) -> tuple[VersionWatch, list[AlarmChange]]:
    """Step the alarm of one kind of window, and raise or resolve the version's if that makes the difference."""
    stream, question = watch.streams[spec], verdict.question
    before = stream.alarms.get(question)
    if before is not None and verdict.answer == "no drift" and verdict.end <= before.last_seen:
        return watch, []  # its labels came later than those of a window that drifted after it
    stepped = step(before, verdict)
    alarms = {name: alarm for name, alarm in stream.alarms.items() if name != question}
    if stepped.alarm is not None and stepped.alarm.resolved is None:
        alarms[question] = stepped.alarm
    lived = {**stream.lived, question: taught(stream.lived.get(question, UNTAUGHT), verdict, stepped)}
    watch = replace(watch, streams={**watch.streams, spec: replace(stream, alarms=alarms, lived=lived)})
    standing = [other.alarms[question] for other in watch.streams.values() if question in other.alarms]
    id = watch.raised.get(question)
    if standing:
        return _told(watch, spec, question, standing, stepped, examples, id, new_id)
    if id is None:
        return watch, []
    left = {name: other for name, other in watch.raised.items() if name != question}
    others = {name: other for name, other in watch.severities.items() if name != question}
    assert stepped.alarm is not None
    resolved = resolved_change(id, watch.version, stepped.alarm, verdict)
    return replace(watch, raised=left, severities=others), [resolved]


def _told(
    watch: VersionWatch,
    spec: str,
    question: Question,
    standing: Sequence[Alarm],
    stepped: Step,
    examples: Sequence[Mapping[str, Any]],
    id: str | None,
    new_id: NewId,
) -> tuple[VersionWatch, list[AlarmChange]]:
    """Announce an alarm that is new, or that matters more than was said, or that has spread."""
    severity = max((alarm.severity for alarm in standing), key=SEVERITIES.index)
    grown = id is not None and (
        stepped.event == "worsened" or worse(severity, watch.severities.get(question, severity))
    )
    if (id is not None and not grown) or stepped.alarm is None:
        return watch, []
    kind: Kind = "worsened" if grown else "raised"
    id = id or new_id()
    alarm = replace(stepped.alarm, severity=severity)
    raised, severities = {**watch.raised, question: id}, {**watch.severities, question: severity}
    change = raised_change(id, watch.version, spec, alarm, examples, kind)
    return replace(watch, raised=raised, severities=severities), [change]


def moments_of(values: pl.Series) -> NDArray[np.datetime64]:
    """Moments as `observe` takes them: UTC in microseconds."""
    return values.cast(pl.Datetime("us")).to_physical().to_numpy().astype(_MICROS)
