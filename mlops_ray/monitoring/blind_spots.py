"""Blind spots: questions that a reference is too short to answer, so that no alarm about them says nothing."""

from collections.abc import Sequence
from typing import get_args

from mlops_ray.monitoring.calibration import Calibration
from mlops_ray.monitoring.reference import Monitored, Reference
from mlops_ray.monitoring.reliability import CONCEPT_STATISTICS, Reliability
from mlops_ray.monitoring.slices import ALL_ROWS
from mlops_ray.monitoring.verdicts import Question


def blind_spots(reference: Reference) -> dict[Question, str]:
    """The questions about which no kind of window can raise an alarm, each with why and what helps.

    Of concept drift the worst there is must be one: labels that no longer follow the answers at all. With few windows
    to learn from, a promise of months puts thresholds where no statistic ever comes. Detectors that follow the errors
    need no windows, so with them concept drift is none.
    """
    found: dict[Question, str] = {}
    kinds = list(reference.windows.values())
    for question in get_args(Question):
        if question == "concept" and reference.errors.limits:
            continue
        reasons = [_reason(question, _learned(kind, question), reference) for kind in kinds]
        if reasons and all(reasons):
            found[question] = reasons[0]
    return found


def _learned(kind: Monitored, question: Question) -> Sequence[Calibration]:
    return {"data": kind.features, "prediction": kind.prediction, "concept": kind.concept}[question]


def _reason(question: Question, learned: Sequence[Calibration], reference: Reference) -> str:
    """Why one kind of window raises no alarm; nothing where it may."""
    if not learned:
        return "The reference has no scored rows. Hold rows out of training, or give the table a label."
    able = [one for one in learned if one.thresholds]
    if not able:
        return f"{learned[-1].words} {_HELPS[question]}"
    if question != "concept" or any(_sees_lost_labels(one, reference.reliability[ALL_ROWS]) for one in able):
        return ""
    best = able[-1]
    return (
        f"The reference holds {best.independent} windows of {best.coverage.words}, so few that with at most one false "
        f"alarm in {best.days:g} days even labels that no longer follow the answers would be none. {_HELPS[question]}"
    )


_LONGER = "Watch shorter windows, or train with a longer test part (`Split.test`)"
_HELPS: dict[Question, str] = {
    "data": "Watch shorter windows, or train on a longer past.",
    "prediction": f"{_LONGER}.",
    "concept": f"{_LONGER}, or let `error_detectors` follow the errors, which needs no windows.",
}


def _sees_lost_labels(calibration: Calibration, reference: Reliability) -> bool:
    """Whether a window of answers like the reference's is an alarm if its labels are as many, and anywhere."""
    window = reference.times(calibration.coverage.rows / reference.rows.sum())
    share = reference.positives.sum() / reference.rows.sum()
    lost = Reliability(window.edges, window.rows, window.predicted, window.rows * share)
    return any(
        normal.score(CONCEPT_STATISTICS[normal.detector].distance(reference, lost))
        > calibration.thresholds[normal.family]
        for normal in calibration.normals
        if normal.column == ALL_ROWS
    )
