"""The alarms of a version: raised with the first kind of window that shows it, resolved when none does any more."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlops_ray.monitoring.alarm_change import AlarmChange, Growth, raised_change, resolved_change
from mlops_ray.monitoring.alarms import Alarm, Step, step
from mlops_ray.monitoring.recalibration import UNTAUGHT, taught
from mlops_ray.monitoring.severity import SEVERITIES, worse
from mlops_ray.monitoring.verdicts import Question, Verdict
from mlops_ray.monitoring.version_watch import VersionWatch

NewId = Callable[[], str]


def take_verdict(
    watch: VersionWatch, spec: str, verdict: Verdict, examples: Sequence[Mapping[str, Any]], new_id: NewId
) -> tuple[VersionWatch, list[AlarmChange]]:
    """Step the alarm of one kind of window, and raise or resolve the version's if that makes the difference."""
    stream, question = watch.streams[spec], verdict.question
    before = stream.alarms.get(question)
    if before is not None and verdict.answer == "no drift" and verdict.end <= before.last_seen:
        return watch, []  # its labels came later than those of a window that drifted after it
    stepped, known = step(before, verdict), _columns(watch, question)
    alarms = {name: alarm for name, alarm in stream.alarms.items() if name != question}
    if stepped.alarm is not None and stepped.alarm.resolved is None:
        alarms[question] = stepped.alarm
    lived = {**stream.lived, question: taught(stream.lived.get(question, UNTAUGHT), verdict, stepped)}
    watch = replace(watch, streams={**watch.streams, spec: replace(stream, alarms=alarms, lived=lived)})
    standing = [other.alarms[question] for other in watch.streams.values() if question in other.alarms]
    id = watch.raised.get(question)
    if standing:
        return _told(watch, spec, verdict, standing, stepped, known, examples, id, new_id)
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
    verdict: Verdict,
    standing: Sequence[Alarm],
    stepped: Step,
    known: Collection[str],
    examples: Sequence[Mapping[str, Any]],
    id: str | None,
    new_id: NewId,
) -> tuple[VersionWatch, list[AlarmChange]]:
    """Announce an alarm that is new, or that matters more than was said, or that has spread. known: the columns
    that were named before."""
    question = verdict.question
    severity = max((alarm.severity for alarm in standing), key=SEVERITIES.index)
    grown = id is not None and (
        stepped.event == "worsened" or worse(severity, watch.severities.get(question, severity))
    )
    if (id is not None and not grown) or stepped.alarm is None:
        return watch, []
    columns = tuple(name for name in stepped.alarm.columns if name not in known)
    growth = Growth(new_id(), verdict, columns) if grown else None
    id = id or new_id()
    alarm = replace(stepped.alarm, severity=severity)
    raised, severities = {**watch.raised, question: id}, {**watch.severities, question: severity}
    change = raised_change(id, watch.version, spec, alarm, examples, growth)
    return replace(watch, raised=raised, severities=severities), [change]


def _columns(watch: VersionWatch, question: Question) -> set[str]:
    """What the alarm on a question has named so far."""
    alarms = (stream.alarms[question] for stream in watch.streams.values() if question in stream.alarms)
    return {name for alarm in alarms for name in alarm.columns}
