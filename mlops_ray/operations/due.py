"""Which run of a schedule is next: a pure function of what it declares, its open runs, and the time."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice, takewhile

from mlops_ray.governance.schedule_runs import MOST, Plan, Run, State
from mlops_ray.governance.schedules import Declared
from mlops_ray.use_case.schedule import due_moments

SUPERSEDED, PAUSED = "A later one fell due first.", "Its schedule was paused."


def decide(declared: Declared, open_runs: Sequence[Run], now: datetime, most: int = MOST) -> Plan | None:
    """None if nothing is to be done, now or, as about `most` runs are decided on at a time, again.

    One run of a schedule at a time, the oldest first, what fell due before what is made up for. Without `catch_up` a
    run that still waits when the next falls due is skipped. What falls due behind its pause is, unless it is made up
    for; what fell due before waits for its end.
    """
    behind = takewhile(lambda due: due <= now, due_moments(declared.cron, declared.time_zone, declared.decided_until))
    due = list(islice(behind, most))
    until = due[-1] if due else declared.decided_until
    states: dict[datetime, tuple[State, str]] = dict.fromkeys(due, ("waiting", ""))
    asked_for = {run.due_at for run in open_runs if run.cause != "schedule"}
    if (paused_at := declared.paused_at) is not None:
        states |= {moment: ("skipped", PAUSED) for moment in due if moment > paused_at and moment not in asked_for}
        return Plan(until, states) if due else None
    scheduled = [run.due_at for run in open_runs if run.state == "waiting" and run.cause == "schedule"]
    scheduled = sorted({*scheduled, *due} - asked_for)
    if not declared.catch_up:
        states |= dict.fromkeys(scheduled[:-1], ("skipped", SUPERSEDED))
        scheduled = scheduled[-1:]
    made_up = [run.due_at for run in open_runs if run.state == "waiting" and run.cause == "backfill"]
    waiting, is_free = [*scheduled, *made_up], all(run.state != "running" for run in open_runs)
    if waiting and is_free and len(states) < most:
        states[waiting[0]] = "running", ""
    return Plan(until, states) if states else None


def is_due(declared: Declared, moment: datetime) -> bool:
    """Whether it is due at this very moment."""
    return any(due_between(declared, moment, moment + timedelta(microseconds=1)))


def due_before(declared: Declared, moment: datetime) -> datetime | None:
    """When it was due the last time before a moment; None if that is more than five years ago."""
    for days in (1, 40, 5 * 366):
        since = moment - timedelta(days=days)
        for last in reversed(list(due_between(declared, since, moment))):
            return last
    return None


def due_between(declared: Declared, start: datetime, end: datetime) -> Iterator[datetime]:
    """When it is due from `start` on and before `end`."""
    moments = due_moments(declared.cron, declared.time_zone, start - timedelta(microseconds=1))
    return takewhile(lambda due: due < end, moments)
