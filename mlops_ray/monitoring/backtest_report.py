"""A backtest of monitoring beside what was really said, for a terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.alarms import AlarmRecord, alarms_of
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.history import changes, deployments
from mlops_ray.governance.monitoring_definitions import MonitoringRevision, definition_of
from mlops_ray.monitoring.backtest import Backtest, backtest, finished_windows
from mlops_ray.monitoring.definition import Registry, find_sealed, watched_by
from mlops_ray.monitoring.verdicts import Question
from mlops_ray.monitoring.version_watch import Watched
from mlops_ray.monitoring.watch_state import read_state
from mlops_ray.monitoring.window_record import WindowRecord
from mlops_ray.use_case import Monitoring

_QUESTIONS: tuple[Question, ...] = ("data", "prediction", "concept")


@dataclass(frozen=True)
class Compared:
    """would: what the definition makes of the past. did: the windows that the watch has judged, by version and kind.
    alarms: that it has raised in that time."""

    would: Backtest
    did: dict[tuple[str, str], tuple[WindowRecord, ...]]
    alarms: tuple[AlarmRecord, ...]


def backtest_of(
    settings: Settings,
    store: ControlStore,
    registry: Registry,
    use_case: str,
    wanted: Monitoring | None,
    start: datetime,
    end: datetime,
) -> Compared:
    """Run a definition, None for what holds, over what was recorded from `start` to `end`. Touches no state.

    Raises ConfigurationError where a version of that time cannot be watched so, and DataError without predictions.
    """
    if start >= end:
        raise ConfigurationError(
            f"The span ends at {end:%Y-%m-%d %H:%M} UTC, before it begins. Exchange --from and --to."
        )
    revision = definition_of(store, use_case)
    if wanted is not None:
        number = 1 + (revision.revision if revision else 0)
        revision = MonitoringRevision(use_case, number, wanted.to_json(), "", "", None, end, "a backtest")

    def find(version: str) -> Watched | str:
        sealed = find_sealed(registry, use_case, version)
        return sealed if isinstance(sealed, str) else watched_by(sealed, version, revision)

    known = deployments(changes(store, use_case))

    def live_at(moment: datetime) -> Sequence[str] | None:
        held = [one for one in known if one.held(moment)]
        return [str(one.version) for one in sorted(held, key=lambda one: one.part != "champion")] or None

    artifacts = Artifacts(settings.artifacts)
    would = backtest(artifacts, use_case, find, revision, start, end, live_at)
    did = finished_windows(artifacts, use_case, read_state(artifacts, use_case))
    alarms = tuple(one for one in alarms_of(store, use_case) if start <= one.raised_at < end)
    return Compared(would, did, alarms)


def report_lines(found: Compared) -> Iterator[str]:
    """By version and kind of window how many drifted, which would alarm and did not and the reverse, and the alarms."""
    would = found.would
    yield (
        f"{would.rows:,} predictions from {would.start:%Y-%m-%d %H:%M} to {would.end:%Y-%m-%d %H:%M} UTC, as they were "
        f"answered, and their labels as they came."
    )
    for version, why in would.unwatched.items():
        yield f"Version {version} is not watched: {why}"
    for name in sorted({*would.windows, *found.did}):
        then = tuple(one for one in found.did.get(name, ()) if would.start <= one.answered_to <= would.end)
        yield from _of_kind(*name, would.windows.get(name, ()), then)
    raised = [one for one in would.told if one.change.kind == "raised"]
    yield f"Would have raised {len(raised)} alarms:"
    for one in raised:
        yield f"  {one.at:%Y-%m-%d %H:%M}  {one.change.severity}  {one.change.title}"
    yield f"Raised {len(found.alarms)} alarms:"
    for alarm in found.alarms:
        yield f"  {alarm.raised_at:%Y-%m-%d %H:%M}  {alarm.severity}  {alarm.title}"


def plain_report(found: Compared) -> dict[str, Any]:
    """The same for programs: windows by version and kind, those that would have been judged and those that were."""
    would = found.would
    kinds = [
        {
            "version": name[0],
            "windows": name[1],
            "would": would.windows.get(name, ()),
            "did": [one for one in found.did.get(name, ()) if would.start <= one.answered_to <= would.end],
        }
        for name in sorted({*would.windows, *found.did})
    ]
    told = [{"at": one.at, "change": one.change} for one in would.told]
    return {
        "start": would.start,
        "end": would.end,
        "predictions": would.rows,
        "unwatched": would.unwatched,
        "kinds": kinds,
        "would_have_told": told,
        "alarms": found.alarms,
    }


def _of_kind(version: str, spec: str, would: Sequence[WindowRecord], did: Sequence[WindowRecord]) -> Iterator[str]:
    yield f"Version {version}, windows of {spec}: {len(would)} would have been judged, {len(did)} were."
    for question in _QUESTIONS:
        both = (_drifted(would, question), _drifted(did, question))
        if not any(both):
            continue
        yield f"  {question}: {len(both[0])} would drift, {len(both[1])} did."
        for title, more in (("would", both[0] - both[1]), ("did", both[1] - both[0])):
            shown = ", ".join(f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}" for start, end in sorted(more))
            if more:
                yield f"    only {title}: {shown}"


def _drifted(records: Sequence[WindowRecord], question: Question) -> set[tuple[datetime, datetime]]:
    found = ((one, getattr(one, question)) for one in records)
    return {(one.start, one.end) for one, verdict in found if verdict is not None and verdict.answer == "drift"}
