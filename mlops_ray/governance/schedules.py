"""Schedules in the control store: what a use case declares to be due by the clock, and who paused it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Table, and_, insert, select, update

from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.events import Actor, record
from mlops_ray.governance.tables import schedule_runs, schedules

CHANGED = "schedule.changed"


@dataclass(frozen=True)
class Declared:
    """One operation of one use case. cron, time_zone, catch_up: as `use_case.Schedule`, with its zone.

    reference: of the use case's file, feature_repo: of its definitions, as `mlops-ray` is told. decided_until: up to
    when each due run is recorded (`schedule_runs`). paused_at: since when none is started, None for not.
    """

    use_case: str
    operation: str
    cron: str
    time_zone: str
    catch_up: bool
    reference: str
    feature_repo: str
    decided_until: datetime
    paused_at: datetime | None = None


@dataclass(frozen=True)
class Wanted:
    """What `declare` writes of one operation, as in `Declared`."""

    operation: str
    cron: str
    time_zone: str
    catch_up: bool


def declare(
    store: ControlStore, actor: Actor, use_case: str, reference: str, feature_repo: str, wanted: tuple[Wanted, ...]
) -> None:
    """Let the operations of a use case be due as in `wanted`, and no others; an event if that changes anything.

    What is new is due from now on. Another cron is, too: what the old one left undecided is not made up for. What is
    paused stays so. What waits of one that is gone is skipped.
    """
    with store.transaction() as connection:
        before = {one.operation: one for one in read_schedules(connection, use_case)}
        now = database_now(connection)
        for one in wanted:
            old = before.get(one.operation)
            same = old is not None and (old.cron, old.time_zone) == (one.cron, one.time_zone)
            values = {
                "cron": one.cron, "time_zone": one.time_zone, "catch_up": one.catch_up, "reference": reference,
                "feature_repo": feature_repo, "decided_until": old.decided_until if same and old else now,
            }  # fmt: skip
            if old is None:
                key = {"use_case": use_case, "operation": one.operation}
                connection.execute(insert(schedules).values(**key, **values))
            else:
                connection.execute(update(schedules).where(_is(use_case, one.operation)).values(values))
        for gone in before.keys() - {one.operation for one in wanted}:
            connection.execute(schedules.delete().where(_is(use_case, gone)))
            waiting = _is(use_case, gone, schedule_runs) & (schedule_runs.c.state == "waiting")
            skipped = {"state": "skipped", "detail": "Its schedule is declared no more."}
            connection.execute(update(schedule_runs).where(waiting).values(skipped))
        old_words, new_words = ({one.operation: _in_words(one) for one in ones} for ones in (before.values(), wanted))
        if old_words != new_words:
            subject = f"schedules of {use_case}"
            record(connection, CHANGED, actor, subject, use_case, before=old_words, after=new_words, now=now)


def pause(store: ControlStore, actor: Actor, use_case: str, operation: str, reason: str) -> None:
    """Start no run of it until `resume`; what falls due meanwhile is recorded as skipped.

    Raises ConfigurationError if it is not declared.
    """
    _set_paused(store, actor, use_case, operation, reason, paused=True)


def resume(store: ControlStore, actor: Actor, use_case: str, operation: str, reason: str) -> None:
    """Start what is due from now on, and what waited when it was paused. Raises as `pause`."""
    _set_paused(store, actor, use_case, operation, reason, paused=False)


def list_schedules(store: ControlStore, use_case: str | None = None) -> list[Declared]:
    """Of one use case or of all, by name."""
    with store.reading() as connection:
        return read_schedules(connection, use_case)


def read_schedules(connection: Connection, use_case: str | None = None) -> list[Declared]:
    """As `list_schedules`, in the caller's transaction."""
    query = select(schedules).order_by(schedules.c.use_case, schedules.c.operation)
    if use_case is not None:
        query = query.where(schedules.c.use_case == use_case)
    return [Declared(**row._mapping) for row in connection.execute(query)]


def find_schedule(connection: Connection, use_case: str, operation: str) -> Declared:
    """Raises ConfigurationError if it is not declared."""
    found = read_schedules(connection, use_case)
    for one in found:
        if one.operation == operation:
            return one
    known = ", ".join(one.operation for one in found) or "nothing"
    raise ConfigurationError(
        f"{operation} of {use_case} has no schedule (declared: {known}). Add it to `schedules` of the use case, and "
        f"`mlops-ray schedule start` it."
    )


def _set_paused(store: ControlStore, actor: Actor, use_case: str, operation: str, reason: str, paused: bool) -> None:
    with store.transaction() as connection:
        found = find_schedule(connection, use_case, operation)
        if (found.paused_at is not None) == paused:
            return
        now = database_now(connection)
        values = {"paused_at": now if paused else None}
        connection.execute(update(schedules).where(_is(use_case, operation)).values(values))
        before, after = {"paused": not paused}, {"paused": paused}
        subject = f"schedule {use_case} {operation}"
        record(connection, CHANGED, actor, subject, use_case, before=before, after=after, reason=reason, now=now)


def _is(use_case: str, operation: str, table: Table = schedules) -> ColumnElement[bool]:
    return and_(table.c.use_case == use_case, table.c.operation == operation)


def _in_words(one: Declared | Wanted) -> str:
    return f"{one.cron} {one.time_zone}{', catching up' if one.catch_up else ''}"
