"""Months of a world after a model was made: which alarms are raised, and how long a fault takes to be named."""

from collections.abc import Sequence
from dataclasses import dataclass

from drift.endpoint import VERSION, Endpoint
from drift.worlds import STEP_HOURS, Drawn, Fault, World, begin_of, draw, later_rows, past_rows

from mlops_ray.monitoring.alarm_change import AlarmChange
from mlops_ray.monitoring.build_reference import build_reference
from mlops_ray.monitoring.version_watch import Watched

# A fault begins after two weeks, and is waited for until six weeks after.
WAITED_HOURS = 42 * 24
_CALM_STEPS, _BETWEEN_STEPS, _DAY_STEPS = 14 * 24 // STEP_HOURS, 21, 24 // STEP_HOURS
_ABOUT = {"swapped_category": "c", "mean_shift_0.5_in_a_segment": "x1 [c=d]"}


@dataclass(frozen=True)
class Model:
    """What is to come, and what it is judged by."""

    drawn: Drawn
    watched: Watched


def model_of(world: World, months: int, seed: int) -> Model:
    drawn = draw(world, months, seed)
    rows = past_rows(drawn)
    segments = {"c": world.segmented} if world.segmented else {}
    reference = build_reference(rows, "time", world.features, world.windows, rows, ["c"], segments=segments)
    return Model(drawn, Watched(VERSION, reference))


def alarms(world: World, seed: int, months: int) -> list[str]:
    """Each alarm that is raised and acted on, in words: when, and about what."""
    model, found = model_of(world, months, seed), dict[str, str]()
    endpoint = Endpoint(model.watched, world.label_times)
    every = world.round_hours // STEP_HOURS
    unread = later_rows(model.drawn, 0, 0)
    for first in range(0, months * 30 * 24 // STEP_HOURS, every):
        last = min(first + every, months * 30 * 24 // STEP_HOURS)
        now = begin_of(model.drawn, last)
        come = unread.vstack(later_rows(model.drawn, first, last))
        ready = come["read_at"] <= now
        unread = come.filter(~ready)
        for change in endpoint.round(come.filter(ready), now):
            if acted_on(change):
                found.setdefault(change.id, f"day {last * STEP_HOURS // 24}: {change.title}")
    return list(found.values())


def acted_on(change: AlarmChange) -> bool:
    return change.kind != "resolved" and change.severity != "info"


def delays(world: World, seed: int, onsets: int, faults: Sequence[Fault]) -> list[dict[str, float]]:
    """Of each onset, the hours from each fault to the first alarm that names what is wrong, or the time that is waited.

    An alarm that stands already and spreads to it is one as well. The watch looks every three hours. Onsets are some
    days and hours apart, so a fault begins at another place of the windows, and all other days are calm.
    """
    model = model_of(world, 4, seed)
    endpoint, at, found = Endpoint(model.watched, world.label_times), 0, list[dict[str, float]]()
    for onset in range(onsets):
        since = _CALM_STEPS + _BETWEEN_STEPS * onset
        while at < since:
            last = min(at + _DAY_STEPS, since)
            endpoint.round(later_rows(model.drawn, at, last), begin_of(model.drawn, last))
            at = last
        found.append({fault.name: _delay(model, endpoint.copy(), fault, since) for fault in faults})
    return found


def _delay(model: Model, endpoint: Endpoint, fault: Fault, since: int) -> float:
    for waited in range(WAITED_HOURS // STEP_HOURS):
        step = since + waited
        changes = endpoint.round(later_rows(model.drawn, step, step + 1, fault, since), begin_of(model.drawn, step + 1))
        if any(_names(change, fault) for change in changes if acted_on(change)):
            return (waited + 1) * STEP_HOURS
    return WAITED_HOURS


def _names(change: AlarmChange, fault: Fault) -> bool:
    if fault.flipped:
        return change.question == "concept"
    return change.question == "data" and _ABOUT.get(fault.name, "x1") in change.payload["columns"]
