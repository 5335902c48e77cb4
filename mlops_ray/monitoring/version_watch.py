"""What is watched of one version: its windows, their verdicts, its quality and its alarms, as one value.

    seen = observe(watch, watched, rows, ...)        # predictions: counted, windows judged, alarms stepped
    seen = take_labels(seen.watch, watched, ...)     # labels: quality measured, concept drift judged
    seen.changes                                     # alarms to announce

Nothing here reads a clock, a file or a database: the drift actor does that, and a backtest with simulated time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
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
from mlops_ray.monitoring.performance_estimation import EstimatedQuality
from mlops_ray.monitoring.quality import Measured, Quality
from mlops_ray.monitoring.recalibration import UNTAUGHT, Lived, taught
from mlops_ray.monitoring.reference import PREDICTION, Reference, to_datetime
from mlops_ray.monitoring.severity import SEVERITIES, Severity, worse
from mlops_ray.monitoring.sketches import NumericSketch
from mlops_ray.monitoring.slices import ALL_ROWS
from mlops_ray.monitoring.verdicts import Question, Verdict, not_judged
from mlops_ray.monitoring.windows import Window, WindowState, add
from mlops_ray.use_case.window_spec import WindowSpec

KEPT_WINDOWS = 60
# A window is judged by its labels once so many have come, or once the window after it has enough to be judged.
LABELLED_SHARE = 0.8
_MICROS = "datetime64[us]"
_FIRST = 31

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

    estimated: before labels come. concept, quality: from the labels that came so far, all rows first. labelled: how
    many. settled: whether its labels have had their say on the alarm. whole: see `windows.Window`.
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

    @property
    def diagnosis(self) -> str:
        return diagnose(self.data, self.concept)


@dataclass(frozen=True)
class Stream:
    """The windows of one kind. began: for each pane in `state`, from when on its predictions were answered.

    finished: how many windows so far. records: of the last of them. alarms: those that are open. waiting: windows that
    are judged together with the next ones. lived: what traffic has taught. last: what was judged last, of a champion
    beside which another version is rolled out.
    """

    state: WindowState
    began: tuple[datetime, ...] = ()
    finished: int = 0
    records: tuple[WindowRecord, ...] = ()
    alarms: Mapping[Question, Alarm] = field(default_factory=dict)
    waiting: Gathered | None = None
    lived: Mapping[Question, Lived] = field(default_factory=dict)
    last: Window | None = None


@dataclass(frozen=True)
class VersionWatch:
    """rows: all that were counted. streams: by `spec.name`. raised: ids of the alarms that were announced, and stand.

    An alarm is about a question, whichever kinds of windows show it: it is raised with the first, and resolved when
    none shows it any more. errors: of the settled windows of the first kind, as a stream. severities: as they were
    announced.
    """

    version: str
    rows: int = 0
    streams: Mapping[str, Stream] = field(default_factory=dict)
    raised: Mapping[Question, str] = field(default_factory=dict)
    errors: ErrorStream = field(default_factory=ErrorStream)
    severities: Mapping[Question, Severity] = field(default_factory=dict)

    def record(self, spec: str, number: int) -> WindowRecord:
        return next(record for record in self.streams[spec].records if record.number == number)

    def to_bytes(self) -> bytes:
        streams = {name: _stored(stream) for name, stream in self.streams.items()}
        return msgspec.msgpack.encode(
            _StoredWatch(self.version, self.rows, streams, self.raised, self.errors, self.severities)
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> "VersionWatch":
        """What `to_bytes` wrote. Raises DataError if it is something else."""
        try:
            stored = msgspec.msgpack.decode(content, type=_StoredWatch)
        except msgspec.MsgspecError as error:
            raise DataError(f"{len(content)} bytes are not the watch of a version of this code: {error}") from error
        streams = {name: _stream(one) for name, one in stored.streams.items()}
        return cls(stored.version, stored.rows, streams, stored.raised, stored.errors, stored.severities)


@dataclass(frozen=True)
class _Stored:
    state: bytes
    began: tuple[datetime, ...]
    finished: int
    records: tuple[WindowRecord, ...]
    alarms: Mapping[Question, Alarm]
    waiting: tuple[bytes, float] | None = None
    lived: Mapping[Question, Lived] = field(default_factory=dict)
    last: bytes | None = None


def _stored(stream: Stream) -> _Stored:
    waiting = stream.waiting
    gathered = None if waiting is None else (waiting.window.to_bytes(), waiting.covered.total_seconds())
    return _Stored(
        stream.state.to_bytes(), stream.began, stream.finished, stream.records, stream.alarms, gathered,
        stream.lived, None if stream.last is None else stream.last.to_bytes(),
    )  # fmt: skip


def _stream(stored: _Stored) -> Stream:
    waiting = stored.waiting
    gathered = None if waiting is None else Gathered(Window.from_bytes(waiting[0]), timedelta(seconds=waiting[1]))
    state = WindowState.from_bytes(stored.state)
    last = None if stored.last is None else Window.from_bytes(stored.last)
    return Stream(state, stored.began, stored.finished, stored.records, stored.alarms, gathered, stored.lived, last)


@dataclass(frozen=True)
class _StoredWatch:
    version: str
    rows: int
    streams: Mapping[str, _Stored]
    raised: Mapping[Question, str]
    errors: ErrorStream
    severities: Mapping[Question, Severity] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollout:
    """A version is rolled out beside a champion. champion: its watch, for that of the version; None for its own."""

    champion: VersionWatch | None = None


@dataclass(frozen=True)
class Observed:
    """The watch afterwards, and what is to be announced, in order."""

    watch: VersionWatch
    changes: tuple[AlarmChange, ...] = ()


@dataclass(frozen=True)
class Labelled:
    """What the labels of one window say. qualities: of all rows and of each slice. examples: rows that went wrong.

    errors: of the rows with labels, in the order of their predictions (see `error_stream.excess_errors`).
    """

    qualities: tuple[Quality, ...]
    examples: tuple[Mapping[str, Any], ...] = ()
    errors: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))


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
    for name, monitored in watched.reference.windows.items():
        stream = watch.streams.get(name) or _fresh(monitored.spec, watched.reference, moment, answered)
        finished, stream = _add(stream, watched, name, rows, moment, answered, read_up_to, rollout)
        watch = replace(watch, streams={**watch.streams, name: stream})
        records += finished
    changes: list[AlarmChange] = []
    # All kinds in turn, or an alarm would be told for each.
    for record, window in sorted(records, key=lambda one: one[0].end):
        for verdict in (record.data, record.prediction):
            drifted = verdict.answer == "drift"
            examples = drifted_rows(window.sample.values(), verdict, watched.reference) if drifted else ()
            watch, changed = _take(watch, record.spec, verdict, examples, new_id)
            changes += changed
    return Observed(watch, tuple(changes))


def take_labels(
    watch: VersionWatch,
    watched: Watched,
    labelled: Mapping[tuple[str, int], Labelled],
    new_id: NewId,
    rollout: Rollout | None = None,
) -> Observed:
    """Take what labels say of windows, by kind and number, and let concept drift be judged where enough have come.

    A window has its say on the alarm once, in its turn: when 80 % of its predictions have labels, or when the window
    after it has enough. Labels that come later still change its quality and its verdict.
    """
    changes: list[AlarmChange] = []
    for name, stream in watch.streams.items():
        found = {number: one for (spec, number), one in labelled.items() if spec == name}
        records = tuple(
            _with_labels(record, found[record.number], watched, stream.lived) if record.number in found else record
            for record in stream.records
        )
        watch = replace(watch, streams={**watch.streams, name: replace(stream, records=records)})
        minimum = stream.state.spec.minimum_rows
        for index, record in enumerate(records):
            following = records[index + 1] if index + 1 < len(records) else None
            if record.settled:
                continue
            if not _has_come(record, following, minimum):
                break
            watch = _settle(watch, name, record.number)
            told = found.get(record.number, _NOTHING_TOLD)
            watch, verdict = _follow_errors(watch, watched, record, told.errors)
            if verdict is not None and rollout is not None and rollout.champion is not None:
                verdict = shared_concept(verdict, "concept" in rollout.champion.raised)
            if verdict is not None:
                watch, changed = _take(watch, name, verdict, told.examples, new_id)
                changes += changed
    return Observed(watch, tuple(changes))


def retire(watch: VersionWatch, at: datetime) -> Observed:
    """The version takes no traffic any more: its alarms are over, and its windows begin anew if it comes back."""
    changes = tuple(
        AlarmChange("resolved", id, watch.version, question, "The version takes no traffic any more.", "info", at)
        for question, id in watch.raised.items()
    )
    streams = {
        name: replace(stream, state=replace(stream.state, closed=(), open=None), began=(), alarms={}, waiting=None)
        for name, stream in watch.streams.items()
    }
    return Observed(replace(watch, streams=streams, raised={}, errors=ErrorStream(), severities={}), changes)


def _fresh(
    spec: WindowSpec, reference: Reference, moment: NDArray[np.datetime64], answered: NDArray[np.datetime64]
) -> Stream:
    """Windows by time begin with the first rows, at the moment that most of them are about."""
    state = WindowState(spec, reference.empty_columns(), reference.sample_rows)
    if spec.length is None or not len(moment):
        return Stream(state)
    behind = np.median((answered - moment)[:_FIRST].astype(np.int64)).astype("timedelta64[us]")
    begin = to_datetime(answered[0] - behind)
    return Stream(add(state, pl.DataFrame(), moment[:0], begin).state, (to_datetime(answered[0]),))


def _add(
    stream: Stream,
    watched: Watched,
    name: str,
    rows: pl.DataFrame,
    moment: NDArray[np.datetime64],
    answered: NDArray[np.datetime64],
    read_up_to: datetime,
    rollout: Rollout | None,
) -> tuple[list[tuple[WindowRecord, Window]], Stream]:
    added = add(stream.state, rows, moment, read_up_to)
    # Each finished window drops its first pane, so that what is left and was there before are the first ones.
    panes = len(added.state.closed) + (added.state.open is not None)
    made = panes - len(stream.began) + len(added.finished)
    earliest = to_datetime(answered.min()) if len(answered) else read_up_to
    began = (*stream.began, *[earliest] * made)
    records, waiting, judged_last = [], stream.waiting, None if rollout is None else stream.last
    for index, window in enumerate(added.finished):
        inside = answered[(moment >= _micros(window.start)) & (moment <= _micros(window.end))]
        first, last = (to_datetime(end) for end in (inside.min(), inside.max())) if len(inside) else (began[index],) * 2
        begun_before = index < len(stream.began)
        answers = (began[index] if begun_before else first, last)
        monitored, number = watched.reference.windows[name], stream.finished + index
        looked = look(waiting, window, monitored.spec, number, monitored.shortest)
        waiting = looked.waiting
        record = _record(window, looked.window, watched, name, number, answers, stream.lived)
        if rollout is not None and looked.window is not None:
            judged_last = looked.window if rollout.champion is None else None
            record = _beside(record, looked.window, rollout.champion)
        records.append(record)
    kept = (*stream.records, *records)[-KEPT_WINDOWS:]
    finished = stream.finished + len(records)
    pairs = list(zip(records, added.finished, strict=True))
    began = began[len(records) :]
    return pairs, replace(
        stream, state=added.state, began=began, finished=finished, records=kept, waiting=waiting, last=judged_last
    )


def _record(
    window: Window,
    looked: Window | None,
    watched: Watched,
    name: str,
    number: int,
    answered: tuple[datetime, datetime],
    lived: Mapping[Question, Lived],
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
        name, number, window.start, window.end, window.rows, window.misdated, *answered,
        _shortened(data), _shortened(prediction), estimated, whole=window.whole,
    )  # fmt: skip


def _beside(record: WindowRecord, window: Window, champion: VersionWatch | None) -> WindowRecord:
    """The record of a version in a rollout, beside what the champion saw."""
    if champion is None:
        return record
    stream = champion.streams.get(record.spec)
    seen = None if stream is None else stream.last
    data, prediction = (beside_champion(one, window, seen) for one in (record.data, record.prediction))
    return replace(record, data=data, prediction=prediction)


def _shortened(verdict: Verdict) -> Verdict:
    return replace(verdict, findings=verdict.findings[:FINDINGS])


def _with_labels(
    record: WindowRecord, labelled: Labelled, watched: Watched, lived: Mapping[Question, Lived]
) -> WindowRecord:
    qualities = labelled.qualities
    by_slice = {quality.slice: quality.reliability for quality in qualities}
    ends, known = (record.start, record.end), lived.get("concept", UNTAUGHT)
    concept = judge_concept(by_slice, *ends, watched.reference, record.spec, record.whole, known)
    kept = tuple(
        SliceQuality(q.slice, q.rows, q.predictions, q.positive, q.roc_auc, q.log_loss, q.brier) for q in qualities
    )
    return replace(record, labelled=kept[0].rows if kept else 0, concept=_shortened(concept), quality=kept)


def _has_come(record: WindowRecord, following: WindowRecord | None, minimum: int) -> bool:
    """Whether a window's labels are as many as can be waited for."""
    if record.rows < minimum:
        return True
    predictions = record.quality[0].predictions if record.quality else record.rows
    if record.labelled >= max(minimum, LABELLED_SHARE * predictions):
        return True
    return following is not None and following.labelled >= minimum


def _follow_errors(
    watch: VersionWatch, watched: Watched, record: WindowRecord, errors: NDArray[np.float64]
) -> tuple[VersionWatch, Verdict | None]:
    """The verdict on the concept, with what following the errors adds.

    Of all kinds of windows the first is followed, so that each error counts once.
    """
    calm = watched.reference.errors
    if not calm.limits or record.spec != next(iter(watched.reference.windows)):
        return watch, record.concept
    joined = calm.joined(len(errors), record.end - record.start)
    taken = take_errors(watch.errors, errors, calm.limits, joined)
    watch = replace(watch, errors=taken.stream)
    if not taken.changes:
        return watch, record.concept
    # What the stream shows does not need the window's labels to be enough for a judgement of their own.
    lacking = not_judged("concept", record.start, record.end, record.labelled)
    return watch, with_error_changes(record.concept or lacking, taken.changes)


def _settle(watch: VersionWatch, spec: str, number: int) -> VersionWatch:
    stream = watch.streams[spec]
    records = tuple(replace(one, settled=True) if one.number == number else one for one in stream.records)
    return replace(watch, streams={**watch.streams, spec: replace(stream, records=records)})


def _take(
    watch: VersionWatch, spec: str, verdict: Verdict, examples: Sequence[Mapping[str, Any]], new_id: NewId
) -> tuple[VersionWatch, list[AlarmChange]]:
    """Step the alarm of one kind of window, and raise or resolve the version's if that makes the difference."""
    stream, question = watch.streams[spec], verdict.question
    before = stream.alarms.get(question)
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


def _micros(moment: datetime) -> np.datetime64:
    return np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "us")
