"""What is announced of an alarm: in words, in numbers, and with rows to look at."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from math import isnan
from typing import Any, Literal

import polars as pl

from mlops_ray.monitoring.alarms import Alarm
from mlops_ray.monitoring.answers import answer_in, is_answered
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.row_sample import NAMES
from mlops_ray.monitoring.severity import Severity
from mlops_ray.monitoring.sketches import NumericSketch
from mlops_ray.monitoring.verdicts import Question, Verdict
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.evaluation import metric_words
from mlops_ray.tasks.task import Task

FINDINGS = 10
_EXAMPLES = 3
_EXAMPLE_COLUMNS = 5
_NAMED = 3

Kind = Literal["raised", "worsened", "resolved"]


@dataclass(frozen=True)
class AlarmChange:
    """An alarm to announce. title: for people, on one line. since: where the first window that shows it begins."""

    kind: Kind
    id: str
    version: str
    question: Question
    title: str
    severity: Severity
    since: datetime
    payload: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Growth:
    """What made an alarm matter more, or spread. id: of this change. verdict: on the window that shows it, which need
    not be the worst. columns: those that have joined."""

    id: str
    verdict: Verdict
    columns: tuple[str, ...]


# Names in an alarm's payload: of a difference of the metric, and of by what share of itself an error is smaller.
_EXPECTED, _OF_ERROR = {"roc_auc": "expected_auc"}, "expected_error_share"
_TITLES: dict[Question, str] = {"data": "Data drift", "prediction": "Prediction drift", "concept": "Concept drift"}


def raised_change(
    id: str,
    version: str,
    spec: str,
    alarm: Alarm,
    examples: Sequence[Mapping[str, Any]],
    growth: Growth | None = None,
) -> AlarmChange:
    """An alarm that is new, or by `growth` "worsened": with its worst window."""
    verdict, question = alarm.worst, alarm.question
    title = f"{_TITLES[question]} of version {version} since {alarm.since:%Y-%m-%d %H:%M}: {verdict.reason}"
    if verdict.importance > 0:
        title += f" {100 * verdict.importance:.3g} % of the model's importance."
    title += _effect_in_words(verdict)
    if not verdict.acts:
        title += " The reference is too short to act on it."
    if growth and growth.columns:
        title += f" It has spread to {', '.join(growth.columns[:_NAMED])}"
        title += f" and {more} more." if (more := len(growth.columns) - _NAMED) > 0 else "."
    payload: dict[str, Any] = {
        "question": question,
        "window": _window(spec, verdict),
        "columns": list(alarm.columns),
        "importance": _or_none(verdict.importance),
        "effect": {
            "mean_answer_deviations": _or_none(verdict.effect),
            _EXPECTED.get(verdict.metric, _OF_ERROR): _or_none(verdict.quality),
        },
        "findings": [asdict(finding) for finding in verdict.findings[:FINDINGS]],
        "examples": [dict(example) for example in examples],
    }
    if growth:
        window, columns = _window(spec, growth.verdict), list(growth.columns)
        payload["change"] = {"id": growth.id, "window": window, "columns": columns}
    kind: Kind = "worsened" if growth else "raised"
    return AlarmChange(kind, id, version, question, title, alarm.severity, alarm.since, payload)


def _window(spec: str, verdict: Verdict) -> dict[str, Any]:
    return {"kind": spec, "start": verdict.start, "end": verdict.end, "rows": verdict.rows}


def _effect_in_words(verdict: Verdict) -> str:
    if isnan(verdict.effect):
        return ""
    lost = ""
    if not isnan(verdict.quality):
        by = f"{verdict.quality:+.3f}" if verdict.metric in _EXPECTED else f"{-100 * verdict.quality:+.3g} %"
        lost = f", and the {metric_words(verdict.metric)} to expect by {by}"
    return f" The mean answer moved by {verdict.effect:+.2f} standard deviations{lost}."


def _or_none(value: float) -> float | None:
    return None if isnan(value) else value


def resolved_change(id: str, version: str, alarm: Alarm, verdict: Verdict) -> AlarmChange:
    title = f"{_TITLES[alarm.question]} of version {version} is over: no drift in {alarm.calm} windows up to now."
    payload = {
        "question": alarm.question,
        "last_seen": alarm.last_seen,
        "resolved": verdict.end,
        "windows": alarm.windows,
        "columns": list(alarm.columns),
        "worst": alarm.worst.reason,
    }
    return AlarmChange("resolved", id, version, alarm.question, title, "info", alarm.since, payload)


def drifted_rows(rows: pl.DataFrame, verdict: Verdict, reference: Reference) -> tuple[Mapping[str, Any], ...]:
    """Of some rows of the window those that show the largest finding, with their values of all columns that drifted.

    They have no value, or one never seen, or lie furthest to the side to which the others have moved.
    """
    finding = verdict.findings[0]
    columns = dict.fromkeys(one.column for one in verdict.findings if one.column in rows.columns)
    named = [name for name in NAMES if name in rows.columns]
    if finding.column not in columns or not named:
        return ()
    value, old = pl.col(finding.column), reference.columns[finding.column]
    if finding.detector == "missing_rate":
        found = rows.filter(value.is_null() | (value.is_nan() if isinstance(old, NumericSketch) else False))
    elif isinstance(old, NumericSketch):
        apart = rows.select(value.cast(pl.Float64) - old.mean).to_series().fill_null(float("nan"))
        found = rows.filter(apart.is_finite())
        higher = float(apart.filter(apart.is_finite()).sum()) > 0
        found = found.sort(value, descending=higher)
    else:
        found = rows.filter(value.is_not_null()).sort(value.is_in(list(old.categories)))
    return tuple(found.head(_EXAMPLES).select(*named, *list(columns)[:_EXAMPLE_COLUMNS]).to_dicts())


def wrongest(joined: pl.DataFrame, task: Task = BINARY) -> tuple[Mapping[str, Any], ...]:
    """Rows with labels whose answers were furthest from them; joined: request_id, row, the answer in the ledger's
    columns, label."""
    labelled = joined.filter(is_answered(task)).drop_nulls("label")
    apart = task.errors(task.encoded(labelled["label"]), answer_in(labelled, task))
    found = labelled.sort(pl.Series(apart), "request_id", "row", descending=[True, False, False])
    return tuple(found.head(_EXAMPLES).select("request_id", "row", *task.ledger_types, "label").to_dicts())
