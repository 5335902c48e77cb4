"""Judging windows, and alarms that open once, stay open and are resolved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import nan
from typing import Literal

import numpy as np

from mlops_ray.monitoring.calibration import Calibration, Normal
from mlops_ray.monitoring.detectors import DETECTORS, Detector
from mlops_ray.monitoring.detectors.cells import bins
from mlops_ray.monitoring.detectors.domain_classifier import DomainClassifier
from mlops_ray.monitoring.error_stream import Change
from mlops_ray.monitoring.joint_windows import JOINT
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.reliability import CONCEPT_STATISTICS, Reliability
from mlops_ray.monitoring.row_sample import matrix
from mlops_ray.monitoring.sketches import CategoricalSketch, NumericSketch, Sketch
from mlops_ray.monitoring.slices import ALL_ROWS, MINIMUM_SLICE_ROWS
from mlops_ray.monitoring.windows import Window
from mlops_ray.use_case import Question as Question

# A mean that moved less, in standard deviations, does not tell the story.
_CLEAR_SHIFT = 0.2
Answer = Literal["drift", "no drift", "not enough data"]


@dataclass(frozen=True)
class Finding:
    """One statistic above its threshold. importance: the column's share of the model's importance, 0 to 1, or NaN."""

    column: str
    detector: str
    value: float
    threshold: float
    score: float
    importance: float
    shift: str


@dataclass(frozen=True)
class Verdict:
    """The answer to one question about one window, with its reason.

    findings: worst first. importance: what the drifted columns have together, NaN where not known.
    """

    question: Question
    answer: Answer
    start: datetime
    end: datetime
    rows: int
    findings: tuple[Finding, ...]
    importance: float
    reason: str


def judge(
    window: Window,
    reference: Reference,
    spec_name: str,
    question: Literal["data", "prediction"] = "data",
    importance: Mapping[str, float] | None = None,
    detectors: Sequence[Detector] = DETECTORS,
) -> Verdict:
    """Has the data, or have the predictions, changed? Fewer rows than the minimum are never "no drift".

    importance: of each feature, in any unit; shares are made of it. detectors: those the reference was built with.
    """
    monitored = reference.windows[spec_name]
    calibration = monitored.features if question == "data" else monitored.prediction
    ends = (window.start, window.end, window.rows)
    lacking = _lacking(calibration, window.rows, monitored.spec.minimum_rows, window.whole)
    if calibration is None or lacking:
        return Verdict(question, "not enough data", *ends, (), nan, lacking)
    by_name = {detector.name: detector for detector in detectors}
    shares = _shares(importance)
    single = [normal for normal in calibration.normals if normal.family != JOINT]
    expected = {name: _expected(reference, name, window) for name in {normal.column for normal in single}}
    findings = []
    for normal in single:
        old, new = expected[normal.column], window.columns[normal.column]
        value = by_name[normal.detector].statistic(old, new)
        if normal.score(value) > calibration.thresholds[normal.family]:
            share = _share(shares, normal.column)
            findings.append(_finding(normal, value, calibration, share, describe_shift(old, new)))
    together = (normal for normal in calibration.normals if normal.family == JOINT)
    findings += [one for normal in together if (one := _joint_finding(normal, reference, window, calibration, shares))]
    return _verdict(question, ends, findings)


def judge_concept(
    labelled: Mapping[str, Reliability],
    start: datetime,
    end: datetime,
    reference: Reference,
    spec_name: str,
    whole: bool = True,
) -> Verdict:
    """Are labels as probable as the model says? `labelled`: rows of the window with labels, by slice ("all" is one).

    whole: see `windows.Window`.
    """
    monitored = reference.windows[spec_name]
    calibration = monitored.concept
    rows = int(labelled[ALL_ROWS].rows.sum()) if ALL_ROWS in labelled else 0
    lacking = _lacking(calibration, rows, monitored.spec.minimum_rows, whole)
    if calibration is None or lacking:
        return Verdict("concept", "not enough data", start, end, rows, (), nan, lacking)
    findings = []
    for normal in calibration.normals:
        new, old = labelled.get(normal.column), reference.reliability[normal.column]
        if new is None or new.rows.sum() < MINIMUM_SLICE_ROWS:
            continue
        value = CONCEPT_STATISTICS[normal.detector].distance(old, new)
        if normal.score(value) > calibration.thresholds[normal.family]:
            shift = (
                f"{_percent(new.positives.sum() / new.rows.sum())} have the label, "
                f"{_percent(new.predicted.sum() / new.rows.sum())} were predicted"
            )
            findings.append(_finding(normal, value, calibration, nan, shift))
    return _verdict("concept", (start, end, rows), findings)


def with_error_changes(verdict: Verdict, changes: Sequence[Change]) -> Verdict:
    """The verdict on a window's labels, drift in any case: following the errors beyond the window has shown a rise.

    What is found is the mean excess error after it, and the threshold the one before.
    """
    found = [
        Finding(
            ALL_ROWS, change.detector, change.after, change.before, 0.0, nan,
            f"errors beyond what the answers let expect rose from {change.before:+.3f} to {change.after:+.3f} a row",
        )
        for change in changes
    ]  # fmt: skip
    return _verdict("concept", (verdict.start, verdict.end, verdict.rows), [*verdict.findings, *found])


def _lacking(calibration: Calibration | None, rows: int, minimum: int, whole: bool) -> str:
    """Why nothing can be said, or nothing."""
    if calibration is None:
        return "The reference has no scored rows."
    if rows < minimum:
        return f"The window has {rows:,} rows (at least {minimum:,} are needed)."
    if not whole:
        return "The first predictions came after the window's beginning, and a part of it is not like a whole one."
    return "" if calibration.thresholds else calibration.words


def _expected(reference: Reference, column: str, window: Window) -> Sketch:
    seasonal = reference.seasonal.get(column)
    whole = reference.columns[column]
    return whole if seasonal is None else seasonal.expected(whole, window.seasons[seasonal.season])


def _shares(importance: Mapping[str, float] | None) -> dict[str, float]:
    total = sum(abs(value) for value in (importance or {}).values())
    return {name: abs(value) / total for name, value in (importance or {}).items()} if total else {}


def _share(shares: Mapping[str, float], column: str) -> float:
    return shares.get(column, 0.0) if shares else nan


def _finding(normal: Normal, value: float, calibration: Calibration, share: float, shift: str) -> Finding:
    limit = calibration.thresholds[normal.family]
    score = normal.score(value) - limit
    return Finding(normal.column, normal.detector, value, normal.value_at(limit), score, share, shift)


def _joint_finding(
    normal: Normal, reference: Reference, window: Window, calibration: Calibration, shares: Mapping[str, float]
) -> Finding | None:
    """Of the domain classifier. It is about the feature that tells most, and names the next ones in words."""
    detector, columns = DomainClassifier(), reference.inputs
    assert reference.sample is not None
    rows = matrix(window.sample.rows, columns)
    value = detector.statistic(reference.sample, rows)
    if not normal.score(value) > calibration.thresholds[normal.family]:
        return None
    telling = detector.tell_apart(reference.sample, rows, list(columns))
    shift = f"with {' and '.join(telling)}, rows can be told from the reference's (ROC AUC {(1 + value) / 2:.2f})"
    found = _finding(normal, value, calibration, _share(shares, telling[0]), shift)
    return replace(found, column=telling[0])


def _verdict(question: Question, ends: tuple[datetime, datetime, int], findings: list[Finding]) -> Verdict:
    ordered = tuple(sorted(findings, key=lambda finding: (-finding.score, finding.column, finding.detector)))
    if not ordered:
        return Verdict(question, "no drift", *ends, (), 0.0, "No statistic is above its threshold.")
    columns = {finding.column: finding.importance for finding in ordered}
    worst = ordered[0]
    reason = (
        f"{worst.column}: {worst.shift} ({worst.detector} {worst.value:.3g}, threshold {worst.threshold:.3g})"
        f"{f', and {len(columns) - 1} more' if len(columns) > 1 else ''}."
    )
    return Verdict(question, "drift", *ends, ordered, float(sum(columns.values())), reason)


def describe_shift(old: Sketch, new: Sketch) -> str:
    """The size of the change, in words: of the mean in standard deviations, of the largest share, of what is missing.

    Of these the one that stands out most is named.
    """
    missing = (old.missing / old.rows if old.rows else 0.0, new.missing / new.rows if new.rows else 0.0)
    gaps = f"missing {_percent(missing[0])} -> {_percent(missing[1])}"
    if not new.values or not old.values:
        return gaps
    if isinstance(old, NumericSketch) and isinstance(new, NumericSketch):
        deviation = old.deviation
        size = (new.mean - old.mean) / deviation if deviation > 0 else nan
        text = f"mean {old.mean:.5g} -> {new.mean:.5g} ({size:+.2f} standard deviations)"
        text += "" if abs(size) >= _CLEAR_SHIFT else f", {_widest_gap(old, new)}"
        return f"{text}, {gaps}" if abs(missing[1] - missing[0]) > 0.01 else text
    assert isinstance(old, CategoricalSketch)
    assert isinstance(new, CategoricalSketch)
    changes = new.counts / new.values - old.counts / old.values
    parts = []
    if new.unseen:
        values = ", ".join(value for value, _ in new.frequent_unseen(3))
        parts.append(f"never seen before {_percent(new.unseen / new.values)} ({values})")
    if len(changes):
        at = int(np.argmax(np.abs(changes)))
        shares = (sketch.counts[at] / sketch.values for sketch in (old, new))
        parts.append(f"{old.categories[at]} {' -> '.join(map(_percent, shares))}")
    return ", ".join([*parts, *([gaps] if abs(missing[1] - missing[0]) > 0.01 else [])])


def _widest_gap(old: NumericSketch, new: NumericSketch) -> str:
    """Where the distribution functions are furthest apart."""
    both = bins(old, new)
    if not len(both.edges):
        return "the same single value"
    below = [np.cumsum(part)[:-1] for part in both.shares()]
    at = int(np.argmax(np.abs(below[1] - below[0])))
    return f"up to {both.edges[at]:.5g}: {_percent(below[0][at])} -> {_percent(below[1][at])}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


@dataclass(frozen=True)
class Alarm:
    """Drift that goes on: opened with the first window that showed it, resolved after enough windows without.

    since: where the first such window begins. columns: all that drifted meanwhile. worst: the verdict with the
    highest score. calm: windows without drift since the last one with.
    """

    question: Question
    since: datetime
    opened: datetime
    last_seen: datetime
    columns: tuple[str, ...]
    worst: Verdict
    windows: int = 1
    calm: int = 0
    resolved: datetime | None = None


@dataclass(frozen=True)
class Step:
    """The alarm after a verdict: None where none is open. event: what to announce, if anything."""

    alarm: Alarm | None
    event: Literal["opened", "resolved"] | None


def step(alarm: Alarm | None, verdict: Verdict, resolve_after: int = 2) -> Step:
    """Take the verdict on the next window; `alarm` is the open one on the same question, or None.

    One alarm is one event, not one for each window. "Not enough data" neither opens nor resolves it, nor counts as
    calm. A resolved alarm is returned with its event, to be recorded; the next verdict begins from None.
    """
    if alarm is not None and alarm.resolved is not None:
        alarm = None
    if verdict.answer == "not enough data":
        return Step(alarm, None)
    if verdict.answer == "no drift":
        if alarm is None:
            return Step(None, None)
        calm = alarm.calm + 1
        if calm < resolve_after:
            return Step(replace(alarm, calm=calm), None)
        return Step(replace(alarm, calm=calm, resolved=verdict.end), "resolved")
    columns = tuple(dict.fromkeys(finding.column for finding in verdict.findings))
    if alarm is None:
        return Step(Alarm(verdict.question, verdict.start, verdict.end, verdict.end, columns, verdict), "opened")
    worse = verdict.findings[0].score > alarm.worst.findings[0].score
    return Step(
        replace(
            alarm,
            last_seen=verdict.end,
            columns=tuple(dict.fromkeys((*alarm.columns, *columns))),
            worst=verdict if worse else alarm.worst,
            windows=alarm.windows + 1,
            calm=0,
        ),
        None,
    )


def diagnose(data: Verdict, concept: Verdict | None) -> str:
    """Data drift, concept drift, or both, told apart in words; `concept` is None until labels have come."""
    if data.answer == "not enough data" and (concept is None or concept.answer == "not enough data"):
        return "Not enough data to say anything."
    inputs = {
        "drift": f"The inputs have changed: {data.reason}",
        "no drift": "The inputs look like the reference.",
        "not enough data": "Whether the inputs have changed cannot be said.",
    }[data.answer]
    if concept is None or concept.answer == "not enough data":
        return f"{inputs} Whether the model is still right cannot be said before labels come."
    if concept.answer == "drift":
        if data.answer == "drift":
            return f"{inputs} And what they mean has changed too (concept drift): {concept.reason}"
        return f"{inputs} But what they mean has changed (concept drift): {concept.reason}"
    if data.answer == "drift":
        return f"{inputs} Labels are still as probable as the model says: data drift without loss of quality."
    return f"{inputs} Labels are as probable as the model says."
