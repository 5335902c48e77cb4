"""Runs of schedules in the control store: each due one has one row, in whichever state.

    waiting -> running -> succeeded | failed          waiting -> skipped
    running -> skipped, where nobody had begun it when its schedule was removed
    running -> waiting, where it was by hand, its process died, and it is due

Every arrow is one transaction that reads what is so and writes what follows, so that any number of processes may draw
them at once, and die in between. What a run does is not in here, nor which one is to be started (`operations.due`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from mlops_ray.governance.control_store import ControlStore, StoreInTransaction, database_now
from mlops_ray.governance.events import SYSTEM, Actor, record
from mlops_ray.governance.leases import HELD_FOR
from mlops_ray.governance.schedules import CHANGED, GONE, Declared, find_schedule, set_paused
from mlops_ray.governance.tables import schedule_runs, schedules

FAILED = "schedule.failed"
ATTEMPTS = 3
"""So often a run is started again whose process died without saying how it ended."""
MOST = 500
"""Decided on at a time, so that a transaction stays short after years of being down or paused."""
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
    def lease(self) -> str:
        """Of the process that carries it out."""
        return f"schedule run {self.name}"

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
        return decide(declared, _open(connection, declared), now or database_now(connection))

    with store.reading() as connection:
        if plan(connection) is None:
            return None
    with store.transaction() as connection:
        if (made := plan(connection)) is not None:
            _write(connection, use_case, operation, made, now or database_now(connection))
        return made


def resume(store: ControlStore, actor: Actor, use_case: str, operation: str, reason: str, decide: Decide) -> None:
    """Start what is due from now on, and what waited when it was paused. What fell due meanwhile is decided on before,
    by whether it was paused, and not by when a scheduler looks; as by one in transactions of their own, of which the
    last is of what is left. Raises ConfigurationError if it is not declared."""
    with store.reading() as connection:
        if find_schedule(connection, use_case, operation).paused_at is None:
            return
    while decide_next(store, use_case, operation, decide):
        continue
    with store.transaction() as connection:
        if find_schedule(connection, use_case, operation).paused_at is None:
            return
        while decide_next(StoreInTransaction(store, connection), use_case, operation, decide):
            continue
        set_paused(connection, actor, use_case, operation, reason, paused=False)


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


def give_up(store: ControlStore, run: Run) -> None:
    """Its schedule was removed before anybody had begun it."""
    with store.transaction() as connection:
        found = _find(connection, run.use_case, run.operation, run.due_at)
        if found is not None and _is_same(found, run):
            _put(connection, run.use_case, run.operation, run.due_at, {"state": "skipped", "detail": GONE})


def let_go(store: ControlStore, run: Run, is_due: bool) -> None:
    """The process of a run by hand is gone without a word: it waits where a schedule has it due, else it has failed.
    Hold its lease."""
    with store.transaction() as connection:
        found = _find(connection, run.use_case, run.operation, run.due_at)
        if found is None or not _is_same(found, run):
            return
        if is_due:
            values = {"state": "waiting", "cause": "schedule", "attempt": 0, "recorded_at": database_now(connection)}
            _put(connection, run.use_case, run.operation, run.due_at, values | {"started_at": None})
        else:
            _end(connection, found, False, "Its process died without a word.")


def backfill(
    store: ControlStore, actor: Actor, use_case: str, operation: str, moments: Sequence[datetime], reason: str
) -> list[datetime]:
    """Let what was due at these moments wait to be carried out, unless it has succeeded or runs; an event. What waited
    by its schedule is no longer skipped when the next falls due.

    moments: ordered. Returns those that wait now because of it.
    """
    with store.transaction() as connection:
        now = database_now(connection)
        known = _at(connection, use_case, operation, moments)
        kept = {
            due for due, run in known.items()
            if run.state in ("running", "succeeded") or (run.state, run.cause) == ("waiting", "backfill")
        }  # fmt: skip
        asked = [due for due in moments if due not in kept]
        _put_all(connection, [Run(use_case, operation, due, "backfill", "waiting", 0, now) for due in asked])
        if asked:
            after = {"backfill": [due.isoformat() for due in (asked[0], asked[-1])], "runs": len(asked)}
            subject = f"schedule {use_case} {operation}"
            record(connection, CHANGED, actor, subject, use_case, after=after, reason=reason, now=now)
        return asked


def cancel_backfill(
    store: ControlStore, actor: Actor, use_case: str, operation: str, begin: datetime, until: datetime, reason: str
) -> int:
    """Skip what waits to be made up for and was due from one moment on and before another; an event. Returns how much
    did."""
    with store.transaction() as connection:
        waits = _of(use_case, operation) & (schedule_runs.c.state == "waiting") & (schedule_runs.c.cause == "backfill")
        waits &= (schedule_runs.c.due_at >= begin) & (schedule_runs.c.due_at < until)
        skipped = {"state": "skipped", "detail": "Its backfill was cancelled."}
        count = connection.execute(update(schedule_runs).where(waits).values(skipped)).rowcount
        if count:
            after = {"cancelled_backfill": [begin.isoformat(), until.isoformat()], "runs": count}
            subject = f"schedule {use_case} {operation}"
            record(connection, CHANGED, actor, subject, use_case, after=after, reason=reason)
        return count


def running(store: ControlStore) -> list[Run]:
    """Those that somebody started who sees them through: not the ones by hand."""
    with store.reading() as connection:
        return _read(connection, (schedule_runs.c.state == "running") & (schedule_runs.c.cause != _BY_HAND))


def left_by_hand(store: ControlStore) -> list[Run]:
    """Those by hand that were asked for more than HELD_FOR ago: without a lease their process is gone."""
    with store.reading() as connection:
        by_hand = (schedule_runs.c.state == "running") & (schedule_runs.c.cause == _BY_HAND)
        return _read(connection, by_hand & (schedule_runs.c.recorded_at < database_now(connection) - HELD_FOR))


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


def find_submission(store: ControlStore, operation: str, due_at: datetime, submission: str) -> Run | None:
    """The run that was started under it, of whichever use case; None if it has ended, or was started again since."""
    one = schedule_runs.c
    query = (one.state == "running") & (one.operation == operation) & (one.due_at == due_at)
    with store.reading() as connection:
        return next((run for run in _read(connection, query) if run.submission == submission), None)


def _of(use_case: str, operation: str | None) -> Any:
    query = schedule_runs.c.use_case == use_case
    return query if operation is None else query & (schedule_runs.c.operation == operation)


def _read(connection: Connection, query: Any, limit: int | None = None) -> list[Run]:
    """The oldest first."""
    found = connection.execute(select(schedule_runs).where(query).order_by(schedule_runs.c.due_at).limit(limit))
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


def _put_all(connection: Connection, runs: Sequence[Run]) -> None:
    """In place of what is there of them."""
    if not runs:
        return
    key = [column == bindparam(f"this_{column.name}") for column in schedule_runs.primary_key.columns]
    rows = [vars(run) for run in runs]
    these = [{f"this_{name}": row[name] for name in ("use_case", "operation", "due_at")} for row in rows]
    connection.execute(delete(schedule_runs).where(*key), these)
    connection.execute(insert(schedule_runs), rows)


def _at(connection: Connection, use_case: str, operation: str, moments: Collection[datetime]) -> dict[datetime, Run]:
    """What there is at these moments, which are asked about in parts: a statement takes only so many values."""
    found, asked = list[Run](), list(moments)
    for first in range(0, len(asked), MOST):
        some = schedule_runs.c.due_at.in_(asked[first : first + MOST])
        found += _read(connection, _of(use_case, operation) & some)
    return {run.due_at: run for run in found}


def _open(connection: Connection, declared: Declared) -> list[Run]:
    """What runs of a schedule, and what waits as far as it is decided on at a time, the oldest first: by the schedule
    the next or, where all but the last are skipped, more; of what is made up for the next, and what falls due, too."""
    one, this = schedule_runs.c, _of(declared.use_case, declared.operation)
    waits, is_made_up = this & (one.state == "waiting"), one.cause == "backfill"
    found = _read(connection, this & (one.state == "running"))
    found += _read(connection, waits & ~is_made_up, limit=1 if declared.catch_up else MOST + 1)
    found += _read(connection, waits & is_made_up, limit=1)
    found += _read(connection, waits & is_made_up & (one.due_at > declared.decided_until))
    return sorted(dict.fromkeys(found), key=lambda run: run.due_at)


def _write(connection: Connection, use_case: str, operation: str, plan: Plan, now: datetime) -> None:
    """One that is there already, because somebody asked for it before it was decided on, stays as it ended."""
    known, changed = _at(connection, use_case, operation, plan.states), list[Run]()
    for due, (state, detail) in plan.states.items():
        run = known.get(due) or Run(use_case, operation, due, "schedule", "waiting", 0, now)
        if run.state == "waiting":
            changed.append(replace(run, state=state, attempt=1 if state == "running" else 0, detail=detail))
    _put_all(connection, changed)
    this = (schedules.c.use_case == use_case) & (schedules.c.operation == operation)
    connection.execute(update(schedules).where(this), {"decided_until": plan.decided_until})
