"""Runs of schedules in the control store: each due one has one row, in whichever state.

    waiting -> running -> succeeded | failed          waiting -> skipped

Every arrow is one transaction that reads what is so and writes what follows, so that any number of processes may draw
them at once, and die in between. What a run does is not in here, nor which one is to be started (`operations.due`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, insert, select, update

from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.events import SYSTEM, Actor, record
from mlops_ray.governance.schedules import CHANGED, Declared, find_schedule
from mlops_ray.governance.tables import schedule_runs, schedules

FAILED = "schedule.failed"
ATTEMPTS = 3
"""So often a run is started again whose process died without saying how it ended."""
State = Literal["waiting", "running", "succeeded", "failed", "skipped"]
Cause = Literal["schedule", "backfill", "by hand"]
_BY_HAND: Cause = "by hand"
_DETAIL = 500


@dataclass(frozen=True)
class Run:
    """due_at: the moment that it is about, too. cause: why it is carried out. attempt: how often it was started, 0 for
    not. recorded_at: since when it waits. started_at, ended_at: of the work itself. detail: what it said at its end."""

    use_case: str
    operation: str
    due_at: datetime
    cause: Cause
    state: State
    attempt: int
    recorded_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    detail: str = ""

    @property
    def duration_s(self) -> float | None:
        """Of its last attempt; None while it has not ended, or where nothing was begun."""
        if self.started_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.started_at).total_seconds()

    @property
    def name(self) -> str:
        return f"{self.use_case} {self.operation} {self.due_at.isoformat()}"

    @property
    def submission(self) -> str:
        """Under which an attempt is started: no two have the same."""
        moments = f"{self.due_at:%Y%m%dT%H%M%S%f}-{round(self.recorded_at.timestamp() * 1000)}"
        return f"schedule-{self.use_case}-{self.operation}-{moments}-{self.attempt}"


@dataclass(frozen=True)
class Plan:
    """What is so from now on. states: with a word about it, by due moment, of runs that are new or change."""

    decided_until: datetime
    states: Mapping[datetime, tuple[State, str]]


Decide = Callable[[Declared, Sequence[Run], datetime], Plan | None]


def decide_next(
    store: ControlStore, use_case: str, operation: str, decide: Decide, now: datetime | None = None
) -> Plan | None:
    """Write what `decide` makes of a schedule, its runs that wait or run, and the time by the database's clock, if
    anything; returns it. It may be called twice: only the last call counts, and the first holds no lock.

    now: in its place, for simulated time. Raises ConfigurationError if there is no such schedule.
    """

    def plan(connection: Connection) -> Plan | None:
        declared = find_schedule(connection, use_case, operation)
        waiting_or_running = schedule_runs.c.state.in_(("waiting", "running")) & _of(use_case, operation)
        found = _read(connection, waiting_or_running & (schedule_runs.c.cause != _BY_HAND))
        return decide(declared, found, now or database_now(connection))

    with store.reading() as connection:
        if plan(connection) is None:
            return None
    with store.transaction() as connection:
        if (made := plan(connection)) is not None:
            _write(connection, use_case, operation, made, now or database_now(connection))
        return made


def ask(store: ControlStore, use_case: str, operation: str, due_at: datetime) -> Run:
    """A run that whoever calls is about to carry out, unless it has succeeded: made if there is none."""
    with store.transaction() as connection:
        found, now = _find(connection, use_case, operation, due_at), database_now(connection)
        if found is not None and found.state in ("running", "succeeded"):
            return found
        values: dict[str, Any] = {"state": "running", "attempt": 1, "detail": ""}
        if found is None or found.state != "waiting":
            values |= {"cause": _BY_HAND, "recorded_at": now, "started_at": None, "ended_at": None}
        _put(connection, use_case, operation, due_at, values, is_new=found is None)
        made = _find(connection, use_case, operation, due_at)
        assert made is not None
        return made


def begin(store: ControlStore, run: Run) -> Run | None:
    """Say that its work begins; None if somebody has ended it, or it was started again since. Hold its lease."""
    with store.transaction() as connection:
        found = _find(connection, run.use_case, run.operation, run.due_at)
        if found is None or not _is_same(found, run):
            return None
        _put(connection, run.use_case, run.operation, run.due_at, {"started_at": database_now(connection)})
        return _find(connection, run.use_case, run.operation, run.due_at)


def end(store: ControlStore, run: Run, succeeded: bool, detail: str) -> None:
    """Say how it ended; an event if it failed. Of two who say it, or one who says it too late, the first counts."""
    with store.transaction() as connection:
        found = _find(connection, run.use_case, run.operation, run.due_at)
        if found is not None and _is_same(found, run):
            _end(connection, found, succeeded, detail)


def died(store: ControlStore, run: Run, may_start_again: bool) -> None:
    """Its process is gone. If it has not said how it ended, it is started again, or after ATTEMPTS has failed."""
    with store.transaction() as connection:
        found = _find(connection, run.use_case, run.operation, run.due_at)
        if found is None or not _is_same(found, run):
            return
        if may_start_again and found.attempt < ATTEMPTS:
            _put(connection, run.use_case, run.operation, run.due_at, {"attempt": found.attempt + 1})
        else:
            times = f"{found.attempt} time{'s' if found.attempt > 1 else ''}"
            _end(connection, found, False, f"Its process died {times} without a word. See the log of the Ray job.")


def backfill(
    store: ControlStore, actor: Actor, use_case: str, operation: str, moments: Iterable[datetime], reason: str
) -> list[datetime]:
    """Let what was due at these moments wait to be carried out, unless it has succeeded, waits or runs; an event.

    Returns those that wait now because of it.
    """
    with store.transaction() as connection:
        now, asked = database_now(connection), []
        for due in moments:
            found = _find(connection, use_case, operation, due)
            if found is not None and found.state in ("waiting", "running", "succeeded"):
                continue
            values = {"cause": "backfill", "state": "waiting", "attempt": 0, "recorded_at": now, "detail": ""}
            values |= {"started_at": None, "ended_at": None}
            _put(connection, use_case, operation, due, values, is_new=found is None)
            asked.append(due)
        if asked:
            after = {"backfill": [due.isoformat() for due in (asked[0], asked[-1])], "runs": len(asked)}
            subject = f"schedule {use_case} {operation}"
            record(connection, CHANGED, actor, subject, use_case, after=after, reason=reason, now=now)
        return asked


def running(store: ControlStore) -> list[Run]:
    """Those that somebody started who sees them through: not the ones by hand."""
    with store.reading() as connection:
        return _read(connection, (schedule_runs.c.state == "running") & (schedule_runs.c.cause != _BY_HAND))


def runs(store: ControlStore, use_case: str, operation: str | None = None, limit: int = 100) -> list[Run]:
    """The latest that were due, the oldest first."""
    query = _of(use_case, operation)
    with store.reading() as connection:
        found = select(schedule_runs).where(query).order_by(schedule_runs.c.due_at.desc()).limit(limit)
        return [Run(**row._mapping) for row in connection.execute(found)][::-1]


def at(store: ControlStore, use_case: str, operation: str, due_at: datetime) -> list[Run]:
    """The one that was due then, if any was."""
    with store.reading() as connection:
        return _read(connection, _of(use_case, operation) & (schedule_runs.c.due_at == due_at))


def find_submission(
    store: ControlStore, use_case: str, operation: str, due_at: datetime, submission: str
) -> Run | None:
    """The run that was started under it; None if it has ended, or was started again since."""
    return next(
        (
            one
            for one in at(store, use_case, operation, due_at)
            if one.state == "running" and one.submission == submission
        ),
        None,
    )


def _of(use_case: str, operation: str | None) -> Any:
    query = schedule_runs.c.use_case == use_case
    return query if operation is None else query & (schedule_runs.c.operation == operation)


def _read(connection: Connection, query: Any) -> list[Run]:
    found = connection.execute(select(schedule_runs).where(query).order_by(schedule_runs.c.due_at))
    return [Run(**row._mapping) for row in found]


def _find(connection: Connection, use_case: str, operation: str, due_at: datetime) -> Run | None:
    found = _read(connection, _of(use_case, operation) & (schedule_runs.c.due_at == due_at.astimezone(UTC)))
    return found[0] if found else None


def _is_same(found: Run, run: Run) -> bool:
    return found.state == "running" and found.submission == run.submission


def _end(connection: Connection, run: Run, succeeded: bool, detail: str) -> None:
    now, detail = database_now(connection), detail[:_DETAIL]
    values = {"state": "succeeded" if succeeded else "failed", "ended_at": now, "detail": detail}
    _put(connection, run.use_case, run.operation, run.due_at, values)
    if not succeeded:
        payload = {"operation": run.operation, "due_at": run.due_at, "attempt": run.attempt}
        record(connection, FAILED, SYSTEM, run.name, run.use_case, payload=payload, reason=detail, now=now)


def _put(
    connection: Connection,
    use_case: str,
    operation: str,
    due_at: datetime,
    values: Mapping[str, Any],
    is_new: bool = False,
) -> None:
    key = {"use_case": use_case, "operation": operation, "due_at": due_at}
    if is_new:
        connection.execute(insert(schedule_runs), {**key, **values})
    else:
        this = _of(use_case, operation) & (schedule_runs.c.due_at == due_at)
        connection.execute(update(schedule_runs).where(this), dict(values))


def _write(connection: Connection, use_case: str, operation: str, plan: Plan, now: datetime) -> None:
    """One that is there already, because somebody asked for it before it was decided on, stays as it ended."""
    span = schedule_runs.c.due_at.between(min(plan.states), max(plan.states))
    known = {run.due_at: run for run in _read(connection, _of(use_case, operation) & span)}
    for due, (state, detail) in plan.states.items():
        old = known.get(due)
        if old is not None and old.state != "waiting":
            continue
        attempt = 1 if state == "running" else 0
        values: dict[str, Any] = {"state": state, "attempt": attempt, "detail": detail}
        if old is None:
            values |= {"cause": "schedule", "recorded_at": now}
        _put(connection, use_case, operation, due, values, is_new=old is None)
    this = (schedules.c.use_case == use_case) & (schedules.c.operation == operation)
    connection.execute(update(schedules).where(this), {"decided_until": plan.decided_until})
