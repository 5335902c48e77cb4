"""Alarms that open once, stay open, become worse, and are resolved."""

from dataclasses import dataclass, replace
from datetime import datetime
from math import isnan
from typing import Literal

from mlops_ray.monitoring.severity import MINOR_IMPORTANCE, Severity, severity_of, worse
from mlops_ray.monitoring.verdicts import Question, Verdict

_RESOLVED_AFTER = 2


@dataclass(frozen=True)
class Alarm:
    """Drift that goes on: opened with the first window that showed it, resolved after two windows without.

    since: where the first such window begins, last_seen: where the last ends, in whichever order their labels came.
    columns: all that drifted meanwhile. worst: the verdict with the highest score, of those that matter most. severity:
    the highest so far. calm: windows without drift since the last one with.
    """

    question: Question
    since: datetime
    opened: datetime
    last_seen: datetime
    columns: tuple[str, ...]
    worst: Verdict
    severity: Severity = "warning"
    windows: int = 1
    calm: int = 0
    resolved: datetime | None = None


@dataclass(frozen=True)
class Step:
    """The alarm after a verdict: None where none is open. event: what to announce, if anything."""

    alarm: Alarm | None
    event: Literal["opened", "worsened", "resolved"] | None


def step(alarm: Alarm | None, verdict: Verdict) -> Step:
    """Take the verdict on the next window; `alarm` is the open one on the same question, or None.

    One alarm is one event, not one for each window, and another if it becomes worse or spreads. "Not enough data"
    neither opens nor resolves it, nor counts as calm. A resolved alarm is returned with its event, to be recorded; the
    next verdict begins from None.
    """
    if alarm is not None and alarm.resolved is not None:
        alarm = None
    if verdict.answer == "not enough data":
        return Step(alarm, None)
    if verdict.answer == "no drift":
        if alarm is None:
            return Step(None, None)
        calm = alarm.calm + 1
        if calm < _RESOLVED_AFTER:
            return Step(replace(alarm, calm=calm), None)
        return Step(replace(alarm, calm=calm, resolved=verdict.end), "resolved")
    columns = tuple(dict.fromkeys(finding.column for finding in verdict.findings))
    severity = severity_of(verdict)
    if alarm is None:
        ends = (verdict.start, verdict.end, verdict.end)
        return Step(Alarm(verdict.question, *ends, columns, verdict, severity), "opened")
    grown = replace(
        alarm,
        since=min(alarm.since, verdict.start),
        last_seen=max(alarm.last_seen, verdict.end),
        columns=tuple(dict.fromkeys((*alarm.columns, *columns))),
        worst=verdict if _is_worse(verdict, alarm) else alarm.worst,
        severity=severity if worse(severity, alarm.severity) else alarm.severity,
        windows=alarm.windows + 1,
        calm=0 if verdict.end > alarm.last_seen else alarm.calm,
    )
    return Step(grown, "worsened" if _has_grown(alarm, grown, verdict) else None)


def _is_worse(verdict: Verdict, alarm: Alarm) -> bool:
    if severity_of(verdict) != alarm.severity:
        return worse(severity_of(verdict), alarm.severity)
    return verdict.findings[0].score > alarm.worst.findings[0].score


def _has_grown(before: Alarm, after: Alarm, verdict: Verdict) -> bool:
    """It matters more than it did, or columns have joined that matter: with some importance, or as many as there were
    where none is known."""
    if worse(after.severity, before.severity):
        return True
    new = {one.column: one.importance for one in verdict.findings if one.column not in before.columns}
    if any(importance >= MINOR_IMPORTANCE for importance in new.values()):
        return True
    return any(isnan(one) for one in new.values()) and len(after.columns) >= 2 * len(before.columns)


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
