"""Metrics of the watch in Ray's own Prometheus endpoint: how far it is, what it judged, what stands, and quality.

There are as many series as there are versions that are watched, kinds of windows, and `FEATURES` features of each;
never one for a request, a category or a window.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import isfinite

from ray.util.metrics import Gauge

from mlops_ray.artifacts import Artifacts
from mlops_ray.governance.alarms import alarms_of
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.monitoring.answers import EXPECTED, PREDICTION, watched_names
from mlops_ray.monitoring.drift_watch import DriftWatch
from mlops_ray.monitoring.performance_estimation import EstimatedQuality, decision_rate
from mlops_ray.monitoring.severity import SEVERITIES
from mlops_ray.monitoring.sketches import NumericSketch
from mlops_ray.monitoring.verdicts import Question
from mlops_ray.monitoring.version_watch import Stream, VersionWatch
from mlops_ray.monitoring.watch_state import WatchState
from mlops_ray.monitoring.window_history import JudgedWindow, WindowHistory
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.evaluation import Measured
from mlops_ray.tasks.task import Task

# Of each version so many features have series of their own: the most important ones.
FEATURES = 20
_QUESTIONS: tuple[Question, ...] = ("data", "prediction", "concept")
_VERSION = ("use_case", "version")
_WINDOW = (*_VERSION, "window")
# By name: what it is, and its tags.
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "lag_seconds": ("Seconds since the ledger was last read to its end", ("use_case",)),
    "rows": ("Predictions counted so far", _VERSION),
    "windows": ("Windows finished so far", _WINDOW),
    "alarms": ("1 while an alarm stands that is not silenced, else 0", (*_VERSION, "question", "severity")),
    "roc_auc": ("ROC AUC: estimated, measured, and foretold of the measured window", (*_WINDOW, "kind", "bound")),
    "error": ("Mean error in its metric: estimated, measured, and foretold", (*_WINDOW, "metric", "kind", "bound")),
    "labelled_ratio": ("Of the last windows' predictions, the part with labels by now", _WINDOW),
    "decision_ratio": ("Of the last judged window's answers, the part above the decision's threshold", _WINDOW),
    "missing_ratio": ("Of the last judged window's rows, the part without the feature", (*_WINDOW, "feature")),
    "distance_ratio": ("Distance of the feature from the reference in thresholds", (*_WINDOW, "feature")),
    "set_aside": ("Predictions that are in no window", ("use_case", "why")),
    "late_labels": ("Labels that came later than they count for", ("use_case",)),
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A value of one of `GAUGES`. tags: without the use case."""

    name: str
    value: float
    tags: Mapping[str, str]


class WatchMetrics:
    """The metrics of the endpoints that a process watches, one of these for all of them.

    Names begin with `mlops_ray_monitoring_`; Ray adds its own tags.
    """

    def __init__(self, artifacts: Artifacts, clock: Callable[[], float] = time.monotonic):
        self._artifacts, self._clock = artifacts, clock
        self._gauges = {
            name: Gauge(f"mlops_ray_monitoring_{name}", text, tags) for name, (text, tags) in GAUGES.items()
        }
        self._read_s: dict[str, float] = {}
        self._judged: dict[tuple[str, str, str], tuple[int, tuple[Figure, ...]]] = {}

    def show(self, use_case: str, watch: DriftWatch, store: ControlStore, begun_s: float | None, now: datetime) -> None:
        """Show what a round has left. begun_s: when it began, by `clock`: up to then the ledger is read; None while
        more waits. now: by the clock that all share. Who silenced what is asked only while alarms stand."""
        if begun_s is not None:
            self._read_s[use_case] = begun_s
        state = watch.state
        standing = any(one.raised for one in state.watches.values())
        alarms = alarms_of(store, use_case) if standing else []
        silenced = [one.id for one in alarms if not one.is_open(now)]
        for figure in figures(state, silenced):
            self._set(use_case, figure)
        for version, one in state.watches.items():
            for spec, stream in one.streams.items():
                for figure in self._last_judged(use_case, version, spec, stream, watch):
                    self._set(use_case, figure)

    def say_lags(self, watched: Collection[str]) -> None:
        """Show how long ago the ledgers of these endpoints were read, also where rounds fail."""
        now_s = self._clock()
        self._read_s = {use_case: self._read_s.get(use_case, now_s) for use_case in watched}
        for use_case, read_s in self._read_s.items():
            self._set(use_case, Figure("lag_seconds", now_s - read_s, {}))

    def _set(self, use_case: str, figure: Figure) -> None:
        if isfinite(figure.value):
            self._gauges[figure.name].set(figure.value, {"use_case": use_case, **figure.tags})

    def _last_judged(
        self, use_case: str, version: str, spec: str, stream: Stream, watch: DriftWatch
    ) -> tuple[Figure, ...]:
        """Of the last window of a kind that was judged, read when there is a new one."""
        known = self._judged.get((use_case, version, spec))
        if known is None or known[0] != stream.finished:
            last = WindowHistory(self._artifacts, use_case).read(version, spec, stream.state.empty, 1)
            tags = {"version": version, "window": spec}
            weights, task = (watch.importance(version), watch.segments(version)), watch.task(version)
            found = tuple(figure for one in last for figure in judged_figures(one, *weights, tags, task))
            known = self._judged[use_case, version, spec] = stream.finished, found
        return known[1]


def figures(state: WatchState, silenced: Collection[str]) -> Iterator[Figure]:
    """What the state says in numbers. silenced: ids of alarms."""
    yield Figure("set_aside", state.aside.ahead, {"why": "ahead"})
    yield Figure("set_aside", state.aside.astray, {"why": "astray"})
    yield Figure("late_labels", state.late_labels, {})
    for version, rows in state.rows.items():
        yield Figure("rows", rows, {"version": version})
    for version, watch in state.watches.items():
        yield from _alarms(watch, silenced)
        for spec, stream in watch.streams.items():
            tags = {"version": version, "window": spec}
            yield Figure("windows", stream.finished, tags)
            yield from _quality(stream, tags)


def _alarms(watch: VersionWatch, silenced: Collection[str]) -> Iterator[Figure]:
    """All that there can be, so that one that is over goes back to 0."""
    for question in _QUESTIONS:
        stands = question in watch.raised and watch.raised[question] not in silenced
        for severity in SEVERITIES:
            one = stands and watch.severities.get(question, "warning") == severity
            yield Figure("alarms", float(one), {"version": watch.version, "question": question, "severity": severity})


def _quality(stream: Stream, tags: Mapping[str, str]) -> Iterator[Figure]:
    """As it was estimated last, as labels last said, and as it was foretold of the window that those were about."""
    estimated = next((one.estimated for one in reversed(stream.records) if one.estimated is not None), None)
    if estimated is not None:
        yield from _bounds("estimated", estimated.metric, estimated, tags)
    measured = next((one for one in reversed(stream.records) if one.quality), None)
    if measured is not None:
        metric, found = next(iter(measured.quality[0].metrics.items()))
        yield from _bounds("measured", metric, found, tags)
        if measured.estimated is not None:
            yield from _bounds("foretold", measured.estimated.metric, measured.estimated, tags)
    predictions = sum(one.rows for one in stream.records)
    if predictions:
        yield Figure("labelled_ratio", sum(one.labelled for one in stream.records) / predictions, tags)


def _bounds(kind: str, metric: str, found: EstimatedQuality | Measured, tags: Mapping[str, str]) -> Iterator[Figure]:
    """A metric that has a gauge of its own is in it, and an error in that of errors, by its name."""
    gauge, named = (metric, tags) if metric in GAUGES else ("error", {**tags, "metric": metric})
    for bound, value in (("value", found.value), ("low", found.low), ("high", found.high)):
        if value is not None:
            yield Figure(gauge, value, {**named, "kind": kind, "bound": bound})


def judged_figures(
    one: JudgedWindow,
    importance: Mapping[str, float],
    segments: Collection[str],
    tags: Mapping[str, str],
    task: Task = BINARY,
) -> Iterator[Figure]:
    """What a judged window says in numbers. segments: columns that are. tags: its version and kind."""
    answers = one.window.columns.get(PREDICTION)
    if isinstance(answers, NumericSketch) and task.threshold is not None:
        yield Figure("decision_ratio", decision_rate(answers, task.threshold), tags)
    watched = watched_names(task)
    others = one.window.columns.keys() - {*watched, EXPECTED}
    names = sorted(others, key=lambda name: (-importance.get(name, 0.0), name))
    for name in (*names[:FEATURES], *watched):
        sketch = one.window.columns.get(name)
        if sketch is None or not sketch.rows:
            continue
        if name not in segments:  # what is missing of them is outside them
            yield Figure("missing_ratio", sketch.missing / sketch.rows, {**tags, "feature": name})
        if name in one.distances:
            yield Figure("distance_ratio", one.distances[name].ratio, {**tags, "feature": name})
