"""Judging windows: has the data changed, have the answers, do labels still follow them?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import inf, isnan, nan
from typing import Literal

from mlops_ray.monitoring.answers import is_ranked, watched_names
from mlops_ray.monitoring.calibration import Calibration, Normal
from mlops_ray.monitoring.coverage import fitting
from mlops_ray.monitoring.detectors import DETECTORS, Detector, NewCategories
from mlops_ray.monitoring.detectors.domain_classifier import NOT_LEARNED, DomainClassifier, can_learn
from mlops_ray.monitoring.error_stream import Change
from mlops_ray.monitoring.joint_windows import JOINT
from mlops_ray.monitoring.own_detectors import detector_named
from mlops_ray.monitoring.recalibration import UNTAUGHT, Lived
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.reliability import CONCEPT_STATISTICS, Reliability
from mlops_ray.monitoring.row_sample import matrix
from mlops_ray.monitoring.seasons import cell_counts, with_cell_counts
from mlops_ray.monitoring.shifts import describe_shift, percent
from mlops_ray.monitoring.sketches import NumericSketch, Sketch
from mlops_ray.monitoring.slices import ALL_ROWS, MINIMUM_SLICE_ROWS
from mlops_ray.monitoring.verdicts import Basis, Finding, Question, Verdict, verdict_of
from mlops_ray.monitoring.windows import Window

# Of a window, at least this part must lie at times of the season that the reference has.
_KNOWN_TIMES = 0.8
_NEW_CATEGORIES = NewCategories().name


def judge(
    window: Window,
    reference: Reference,
    spec_name: str,
    question: Literal["data", "prediction"] = "data",
    importance: Mapping[str, float] | None = None,
    detectors: Sequence[Detector] = DETECTORS,
    lived: Lived = UNTAUGHT,
) -> Verdict:
    """Has the data, or have the predictions, changed? Fewer rows than the minimum are never "no drift".

    A window is compared with those of the reference that cover as much time and no more rows, so the rate of false
    alarms is the same at any traffic. importance: of each feature, in any unit; shares are made of it. detectors: those
    the reference was built with. lived: what traffic has taught since.
    """
    monitored = reference.windows[spec_name]
    learned = monitored.features if question == "data" else monitored.prediction
    span_s = (window.end - window.start).total_seconds()
    calibration = fitting(learned, span_s, window.rows)
    ends = (window.start, window.end, window.rows)
    lacking = _lacking(learned, calibration, window.rows, monitored.spec.minimum_rows, window.whole)
    if calibration is None or lacking:
        return Verdict(question, "not enough data", *ends, (), nan, lacking)
    found = list(_findings(window, reference, calibration, detectors, reference.shares(importance), lived.widened))
    found = _each_feature_once(found, reference)
    metric = "" if reference.estimator is None else reference.estimator.metric
    basis = Basis(*_effects(window, reference), calibration.acts(lived.calm), calibration.rate, metric)
    verdict = verdict_of(question, *ends, found, basis)
    if can_learn() or all(normal.family != JOINT for normal in calibration.normals):
        return verdict
    return replace(verdict, reason=f"{verdict.reason} {NOT_LEARNED}")


def _findings(
    window: Window,
    reference: Reference,
    calibration: Calibration,
    detectors: Sequence[Detector],
    shares: Mapping[str, float],
    widened: float,
) -> Iterator[Finding]:
    for normal, value, old, new in _statistics(window, reference, calibration, detectors):
        if normal.score(value) > calibration.thresholds[normal.family] + widened:
            share = _share(shares, normal.column)
            if normal.column in reference.segments:  # what is missing of it is outside it
                old, new = (replace(sketch, missing=0) for sketch in (old, new))
            yield _finding(normal, value, calibration, share, describe_shift(old, new), widened)
    for normal in calibration.normals if can_learn() else ():
        if normal.family == JOINT and (one := _joint_finding(normal, reference, window, calibration, shares, widened)):
            yield one


def _statistics(
    window: Window, reference: Reference, calibration: Calibration, detectors: Sequence[Detector]
) -> Iterator[tuple[Normal, float, Sketch, Sketch]]:
    """The statistics of single columns, with what was compared: the reference's at the same times, and the window's."""
    by_name = {detector.name: detector for detector in detectors}
    single = [normal for normal in calibration.normals if normal.family != JOINT]
    part = min(1.0, calibration.coverage.rows / window.rows)
    expected = {name: expected_at(reference, name, window) for name in {normal.column for normal in single}}
    for normal in single:
        old, new = expected[normal.column], window.columns[normal.column]
        if old is None:
            continue
        detector = by_name.get(normal.detector) or detector_named(normal.detector)
        value = detector.statistic(old, _part_of(new, part))
        if normal.detector == _NEW_CATEGORIES and normal.column in reference.churn:
            days = (window.start + (window.end - window.start) / 2 - reference.end) / timedelta(days=1)
            value = max(0.0, value - reference.churn[normal.column].expected(days))
        yield normal, value, old, new


@dataclass(frozen=True)
class Distance:
    """One statistic of a column beside the threshold that it had, whether above it or not."""

    detector: str
    value: float
    threshold: float

    @property
    def ratio(self) -> float:
        """In thresholds: above 1 is drift."""
        return self.value / self.threshold if self.threshold > 0 else inf if self.value > 0 else 0.0


def distances_of(
    window: Window,
    reference: Reference,
    spec_name: str,
    lived: Mapping[Question, Lived],
    detectors: Sequence[Detector] = DETECTORS,
) -> dict[str, Distance]:
    """Of each column the statistic that is largest in thresholds, of those that could be taken; see `judge`."""
    monitored, found = reference.windows[spec_name], dict[str, Distance]()
    questions: tuple[tuple[Question, Sequence[Calibration]], ...]
    questions = (("data", monitored.features), ("prediction", monitored.prediction))
    for question, learned in questions:
        calibration = fitting(learned, (window.end - window.start).total_seconds(), window.rows)
        if calibration is None or not calibration.thresholds or not window.rows:
            continue
        widened = lived.get(question, UNTAUGHT).widened
        for normal, value, _, _ in _statistics(window, reference, calibration, detectors):
            if isnan(value):
                continue
            limit = calibration.thresholds[normal.family] + widened
            distance = Distance(normal.detector, value, normal.value_at(limit))
            if normal.column not in found or distance.ratio > found[normal.column].ratio:
                found[normal.column] = distance
    return found


def _part_of(sketch: Sketch, part: float) -> Sketch:
    """With as many rows as the windows had that it is compared with: some statistics grow with them.

    Shares stay, and with them all that chance has made less of than it has of those.
    """
    return sketch if part >= 1 else with_cell_counts(sketch, cell_counts(sketch) * part)


def _effects(window: Window, reference: Reference) -> tuple[float, float]:
    """How far the mean answer has moved, in standard deviations, and by how much better answers are expected to be; see
    `Verdict`.

    Of several numbers that answers are watched by, the one that moved most counts. To nine decimals: the last bits of a
    mean depend on which rows were read together.
    """
    moved, estimator = nan, reference.estimator
    for name in watched_names(reference.task):
        old, new = reference.columns.get(name), window.columns.get(name)
        if isinstance(old, NumericSketch) and isinstance(new, NumericSketch) and new.values and old.deviation > 0:
            one = round((new.mean - old.mean) / old.deviation, 9)
            moved = moved if abs(moved) >= abs(one) else one
    sketches = [] if estimator is None else [part.columns.get(estimator.column) for part in (reference, window)]
    if estimator is None or not all(isinstance(one, NumericSketch) and one.values for one in sketches):
        return moved, nan
    before, now = (estimator.estimate(one).value for one in sketches if isinstance(one, NumericSketch))
    if is_ranked(reference.task):
        return moved, now - before
    return moved, (before - now) / before if before > 0 else nan


def judge_concept(
    labelled: Mapping[str, Reliability],
    start: datetime,
    end: datetime,
    reference: Reference,
    spec_name: str,
    whole: bool = True,
    lived: Lived = UNTAUGHT,
) -> Verdict:
    """Do labels still follow the answers? `labelled`: rows of the window with labels, by slice ("all" is one).

    whole: see `windows.Window`. lived: see `judge`.
    """
    monitored = reference.windows[spec_name]
    rows = int(labelled[ALL_ROWS].rows.sum()) if ALL_ROWS in labelled else 0
    calibration = fitting(monitored.concept, (end - start).total_seconds(), rows)
    lacking = _lacking(monitored.concept, calibration, rows, monitored.spec.minimum_rows, whole)
    if calibration is None or lacking:
        return Verdict("concept", "not enough data", start, end, rows, (), nan, lacking)
    findings, part = [], min(1.0, calibration.coverage.rows / rows)
    for normal in calibration.normals:
        new, old = labelled.get(normal.column), reference.reliability[normal.column]
        if new is None or new.rows.sum() < MINIMUM_SLICE_ROWS:
            continue
        value = CONCEPT_STATISTICS[normal.detector].distance(old, new.times(part))
        if normal.score(value) > calibration.thresholds[normal.family] + lived.widened:
            findings.append(_finding(normal, value, calibration, nan, _apart(new), lived.widened))
    return verdict_of(
        "concept", start, end, rows, findings, Basis(acts=calibration.acts(lived.calm), rate=calibration.rate)
    )


def _apart(labelled: Reliability) -> str:
    """How labels are apart from the answers, in words."""
    rows = labelled.rows.sum()
    observed, guessed = labelled.positives.sum() / rows, labelled.predicted.sum() / rows
    if labelled.excess is None:
        return f"{percent(observed)} have the label, {percent(guessed)} were predicted"
    means = f"{observed:.4g}, {guessed:.4g} was"
    if labelled.squares is None:
        means = f"right in {percent(observed)}, {percent(guessed)} were"
    more = labelled.excess.sum() / rows
    return f"labels are {means} predicted, and errors {more:+.3g} a row beyond what the answers let expect"


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
    findings = [*verdict.findings, *found]
    return verdict_of("concept", verdict.start, verdict.end, verdict.rows, findings, Basis.of(verdict))


def _lacking(
    learned: Sequence[Calibration], calibration: Calibration | None, rows: int, minimum: int, whole: bool
) -> str:
    """Why nothing can be said, or nothing."""
    if not learned:
        return "The reference has no scored rows."
    if rows < minimum:
        return f"The window has {rows:,} rows (at least {minimum:,} are needed)."
    if not whole:
        return "The first predictions came after the window's beginning, and a part of it is not like a whole one."
    if calibration is None:
        least = min(one.coverage.span_s for one in learned) / 3600
        return f"The window is shorter than any that the reference was learned with (at least {least:.3g} hours)."
    return "" if calibration.thresholds else calibration.words


def expected_at(reference: Reference, column: str, window: Window) -> Sketch | None:
    """What the reference has at the same times; None if it has hardly any of these times."""
    seasonal = reference.seasonal.get(column)
    whole = reference.columns[column]
    if seasonal is None:
        return whole
    rows = window.seasons[seasonal.season]
    return seasonal.expected(whole, rows) if seasonal.known(rows) >= _KNOWN_TIMES else None


def _each_feature_once(found: Sequence[Finding], reference: Reference) -> list[Finding]:
    """Where a feature drifts as a whole, its importance is not added again for its segments."""
    whole = {one.column for one in found}
    parts = {name for name, one in reference.segments.items() if one.feature in whole}
    return [replace(one, importance=0.0) if one.column in parts and one.importance > 0 else one for one in found]


def _share(shares: Mapping[str, float], column: str) -> float:
    return shares.get(column, 0.0) if shares else nan


def _finding(
    normal: Normal, value: float, calibration: Calibration, share: float, shift: str, widened: float
) -> Finding:
    limit = calibration.thresholds[normal.family] + widened
    score = normal.score(value) - limit
    return Finding(normal.column, normal.detector, value, normal.value_at(limit), score, share, shift)


def _joint_finding(
    normal: Normal,
    reference: Reference,
    window: Window,
    calibration: Calibration,
    shares: Mapping[str, float],
    widened: float,
) -> Finding | None:
    """Of the domain classifier. It is about the feature that tells most, and names the next ones in words."""
    detector, columns = DomainClassifier(), reference.inputs
    assert reference.sample is not None
    rows = matrix(window.sample.rows, columns)
    value = detector.statistic(reference.sample, rows)
    if not normal.score(value) > calibration.thresholds[normal.family] + widened:
        return None
    telling = detector.tell_apart(reference.sample, rows, list(columns))
    shift = f"with {' and '.join(telling)}, rows can be told from the reference's (ROC AUC {(1 + value) / 2:.2f})"
    found = _finding(normal, value, calibration, _share(shares, telling[0]), shift, widened)
    return replace(found, column=telling[0])
