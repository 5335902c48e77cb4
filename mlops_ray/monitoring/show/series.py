"""What was watched, as series over time that can be drawn: by version, kind of window, feature and slice."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import inf, isnan, nan

import numpy as np

from mlops_ray.governance.alarms import AlarmRecord
from mlops_ray.monitoring.answers import EXPECTED, PREDICTION, watched_names
from mlops_ray.monitoring.error_estimation import ErrorEstimator
from mlops_ray.monitoring.judging import Distance, expected_at
from mlops_ray.monitoring.performance_estimation import Estimator, decision_rate
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.shifts import describe_shift
from mlops_ray.monitoring.sketches import CategoricalSketch, NumericSketch, Sketch
from mlops_ray.monitoring.slices import ALL_ROWS, MINIMUM_SLICE_ROWS
from mlops_ray.monitoring.verdicts import Answer
from mlops_ray.monitoring.version_watch import Stream, Watched
from mlops_ray.monitoring.window_history import JudgedWindow
from mlops_ray.monitoring.window_record import SliceQuality, WindowRecord
from mlops_ray.monitoring.windows import Window
from mlops_ray.show.over_time import Span
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.evaluation import Measured
from mlops_ray.tasks.task import Task

_CATEGORIES = 3
_UNKNOWN = Measured(nan, None, None)


@dataclass(frozen=True)
class Verdicts:
    """The answers about one window, and what it was about. chosen: the share of answers above the decision's threshold;
    mean: of the answers. Both NaN without answers, and where there is no threshold, or no answer that is one number."""

    start: datetime
    end: datetime
    rows: int
    data: Answer
    prediction: Answer
    concept: Answer
    mean: float
    chosen: float


@dataclass(frozen=True)
class QualityPoint:
    """Of one window. estimated: the metric before labels; measured: on `labels` of them, which are as `about` says. NaN
    where not known."""

    start: datetime
    end: datetime
    estimated: Measured
    measured: Measured
    labels: int
    about: str = ""


@dataclass(frozen=True)
class SliceSeries:
    """Quality of the rows of a slice."""

    name: str
    points: tuple[QualityPoint, ...]

    @property
    def last(self) -> QualityPoint | None:
        """The last point that was measured."""
        return next((one for one in reversed(self.points) if not isnan(one.measured.value)), None)

    @property
    def is_small(self) -> bool:
        """Whether it has fewer labels in a window than a slice is judged with."""
        return self.last is None or self.last.labels < MINIMUM_SLICE_ROWS


@dataclass(frozen=True)
class FeaturePoint:
    """One feature in one window. level: the mean of numbers, and `usual` the reference's at the same times; shares: of
    `FeatureSeries.categories`. missing, new: shares of the rows. distance: from the reference, None if not judged."""

    start: datetime
    end: datetime
    rows: int
    level: float
    usual: float
    shares: tuple[float, ...]
    missing: float
    new: float
    distance: Distance | None

    @property
    def ratio(self) -> float:
        """The distance in thresholds: above 1 is drift. NaN if not judged."""
        return nan if self.distance is None else self.distance.ratio


@dataclass(frozen=True)
class FeatureSeries:
    """importance: its share of the model's, 0 to 1, NaN where not known. reference, now: what the last window is
    compared with, and what it has; None without. categories: those whose share changed most. words: the change.
    is_segment: a feature where a category has one value (see `input_segments`)."""

    name: str
    importance: float
    reference: Sketch | None
    now: Sketch | None
    categories: tuple[str, ...]
    words: str
    points: tuple[FeaturePoint, ...]
    alarms: tuple[Span, ...]
    is_segment: bool = False

    @property
    def is_number(self) -> bool:
        return isinstance(self.now, NumericSketch)

    @property
    def drifts(self) -> bool:
        """Whether it was above its threshold in the last window that judged it, or an alarm about it stands."""
        judged = [one.ratio for one in self.points if one.distance is not None]
        return bool(judged and judged[-1] > 1) or any(one.end is None for one in self.alarms)

    @property
    def furthest(self) -> float:
        """The largest distance so far, in thresholds; 0 where none was judged."""
        return max((one.ratio for one in self.points if not isnan(one.ratio)), default=0.0)


@dataclass(frozen=True)
class KindSeries:
    """One version by one kind of window. metric: that answers are watched by. unknown: why there is no
    reference beside it, or nothing.

    features: those that drift first, then by importance. slices: worst first, then those with few labels.
    """

    spec: str
    finished: int
    windows: tuple[Verdicts, ...]
    quality: tuple[QualityPoint, ...]
    slices: tuple[SliceSeries, ...]
    features: tuple[FeatureSeries, ...]
    unknown: str
    metric: str = "roc_auc"

    @property
    def ends(self) -> tuple[datetime, datetime] | None:
        """From when to when there is something to draw."""
        drawn = [(one.start, one.end) for one in self.windows] + [(one.start, one.end) for one in self.quality]
        return (min(one for one, _ in drawn), max(one for _, one in drawn)) if drawn else None


def span_of(alarm: AlarmRecord) -> Span:
    """When an alarm stood, by the moments of its predictions."""
    calm = alarm.payload.get("resolved")
    return Span(alarm.since, datetime.fromisoformat(calm) if calm else alarm.resolved_at)


def kind_series(
    spec: str,
    stream: Stream,
    history: Sequence[JudgedWindow],
    watched: Watched | str,
    alarms: Sequence[AlarmRecord],
    windows: int,
) -> KindSeries:
    """The last `windows` of a kind. history: the judged ones, in order. alarms: about this version."""
    reference = None if isinstance(watched, str) else watched.reference
    importance = {} if reference is None or isinstance(watched, str) else reference.shares(watched.importance)
    records = stream.records[-windows:]
    concept = {record.number: record.concept.answer for record in records if record.concept}
    names = [name for name in history[-1].window.columns if name != EXPECTED] if history else []
    features = [
        _feature(name, history, reference, importance.get(name, 0.0 if importance else nan), alarms) for name in names
    ]
    task = None if reference is None else reference.task
    answers = watched_names(task or BINARY)
    order = sorted(features, key=lambda one: (one.name not in answers, not one.drifts, *_weight(one), one.name))
    metric = _metric(task, records)
    return KindSeries(
        spec, stream.finished,
        tuple(_verdicts(one, concept.get(one.number, "not enough data"), task or BINARY) for one in history),
        _quality(records, history, reference, spec), _slices(records, task, metric), tuple(order),
        watched if isinstance(watched, str) else "", metric,
    )  # fmt: skip


def _metric(task: Task | None, records: Sequence[WindowRecord]) -> str:
    """That answers are watched by; without a reference, that which labels were judged by."""
    if task is not None:
        return next(iter(task.metrics))
    found = (next(iter(one.quality[0].metrics)) for one in reversed(records) if one.quality)
    return next(found, next(iter(BINARY.metrics)))


def _weight(one: FeatureSeries) -> tuple[float, float]:
    return (0.0 if isnan(one.importance) else -one.importance, -one.furthest)


def _verdicts(one: JudgedWindow, concept: Answer, task: Task) -> Verdicts:
    window, answers = one.window, one.window.columns.get(PREDICTION)
    mean = chosen = nan
    if isinstance(answers, NumericSketch) and answers.values:
        mean = answers.mean
        chosen = nan if task.threshold is None else decision_rate(answers, task.threshold)
    return Verdicts(window.start, window.end, window.rows, one.data, one.prediction, concept, mean, chosen)


def _quality(
    records: Sequence[WindowRecord], history: Sequence[JudgedWindow], reference: Reference | None, spec: str
) -> tuple[QualityPoint, ...]:
    """Estimated for the judged windows, and measured for those whose labels came; they are often the same."""
    measured = {(one.start, one.end): one for one in records if one.labelled}
    points = []
    estimator, task = (None, None) if reference is None else (reference.estimator, reference.task)
    monitored = None if reference is None else reference.windows.get(spec)
    least = 0 if monitored is None else monitored.spec.minimum_rows
    for one in history:
        window = one.window
        record = measured.pop((window.start, window.end), None)
        points.append(_point(window.start, window.end, _estimate(estimator, window, least), record, task))
    points += [_point(one.start, one.end, _of_record(one), one, task) for one in measured.values()]
    return tuple(sorted(points, key=lambda one: one.start))


def _estimate(estimator: Estimator | ErrorEstimator | None, window: Window, least: int) -> Measured:
    sketch = None if estimator is None else window.columns.get(estimator.column)
    if estimator is None or not isinstance(sketch, NumericSketch) or sketch.values < least or not sketch.values:
        return _UNKNOWN
    found = estimator.estimate(sketch)
    return Measured(found.value, found.low, found.high)


def _of_record(record: WindowRecord) -> Measured:
    found = record.estimated
    return _UNKNOWN if found is None else Measured(found.value, found.low, found.high)


def _point(
    start: datetime, end: datetime, estimated: Measured, record: WindowRecord | None, task: Task | None
) -> QualityPoint:
    whole = record.quality[0] if record is not None and record.quality else None
    if whole is None:
        return QualityPoint(start, end, estimated, _UNKNOWN, 0)
    return QualityPoint(start, end, estimated, whole.watched, whole.rows, _about(whole, task))


def _about(found: SliceQuality, task: Task | None) -> str:
    return task.described(found.about) if task is not None and found.about else ""


def _slices(records: Iterable[WindowRecord], task: Task | None, metric: str) -> tuple[SliceSeries, ...]:
    points: dict[str, list[QualityPoint]] = {}
    for record in records:
        for one in record.quality:
            if one.slice != ALL_ROWS:
                found = QualityPoint(record.start, record.end, _UNKNOWN, one.watched, one.rows, _about(one, task))
                points.setdefault(one.slice, []).append(found)
    series = [SliceSeries(name, tuple(found)) for name, found in points.items()]
    metrics = (task or BINARY).metrics

    def place(one: SliceSeries) -> tuple[bool, float, str]:
        value = one.last.measured.value if one.last else inf
        return one.is_small, metrics[metric].gain(value) if metric in metrics and one.last else value, one.name

    return tuple(sorted(series, key=place))


def _feature(
    name: str,
    history: Sequence[JudgedWindow],
    reference: Reference | None,
    importance: float,
    alarms: Sequence[AlarmRecord],
) -> FeatureSeries:
    windows = [(one, one.window.columns[name]) for one in history]
    before = [None if reference is None else _usual(reference, name, one.window) for one in history]
    now, old = windows[-1][1], before[-1]
    categories = _changed(old, now) if isinstance(now, CategoricalSketch) else ()
    points = tuple(
        _feature_point(one, sketch, usual, categories, one.distances.get(name))
        for (one, sketch), usual in zip(windows, before, strict=True)
    )
    is_segment = reference is not None and name in reference.segments
    if is_segment and old is not None:  # what is missing of it is outside it
        old, now = replace(old, missing=0), replace(now, missing=0)
    words = describe_shift(old, _with_frequent(now, history[-1].new.get(name, ()))) if old is not None else ""
    spans = tuple(span_of(one) for one in alarms if name in one.payload.get("columns", ()))
    return FeatureSeries(name, importance, old, now, categories, words, points, spans, is_segment)


def _usual(reference: Reference, name: str, window: Window) -> Sketch | None:
    """What the reference has at the same times; all of it where it hardly knows these times, or nothing was asked."""
    return (expected_at(reference, name, window) if window.rows else None) or reference.columns.get(name)


def _feature_point(
    one: JudgedWindow, sketch: Sketch, usual: Sketch | None, categories: Sequence[str], distance: Distance | None
) -> FeaturePoint:
    window = one.window
    missing = sketch.missing / sketch.rows if sketch.rows else nan
    level = expected = new = nan
    shares: tuple[float, ...] = ()
    if isinstance(sketch, NumericSketch):
        level = sketch.mean if sketch.values else nan
        expected = usual.mean if isinstance(usual, NumericSketch) and usual.values else nan
    else:
        found = dict(zip(sketch.categories, sketch.counts.tolist(), strict=True))
        shares = tuple(found[category] / sketch.values if sketch.values else nan for category in categories)
        new = sketch.unseen / sketch.values if sketch.values else nan
    return FeaturePoint(window.start, window.end, window.rows, level, expected, shares, missing, new, distance)


def _changed(old: Sketch | None, now: CategoricalSketch) -> tuple[str, ...]:
    """The categories whose share changed most, of those that somebody has."""
    shares = now.counts / now.values if now.values else np.zeros(len(now.counts))
    before = shares
    if isinstance(old, CategoricalSketch) and old.values and old.categories == now.categories:
        before = old.counts / old.values
    order = sorted(range(len(shares)), key=lambda at: (-abs(shares[at] - before[at]), -max(shares[at], before[at]), at))
    return tuple(now.categories[at] for at in order[:_CATEGORIES])


def _with_frequent(sketch: Sketch, new: Sequence[tuple[str, int]]) -> Sketch:
    """With the names of new categories, which the history keeps apart."""
    if not isinstance(sketch, CategoricalSketch) or not new:
        return sketch
    named = sketch.copy()
    for value, rows in new:
        named.heavy.update(value, rows)
    return named
