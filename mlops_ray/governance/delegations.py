"""Delegations: somebody decides on versions in an approver's place, until a moment by the database's clock.

The right is given no further, and counts no further than the giver's own: not on what the giver made or broke the glass
for, not beside the giver's own approval, and not for changes of the rules.
"""

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import uuid6
from sqlalchemy import Connection, Row, insert, select, update

from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError
from mlops_ray.governance.assents import ERASED
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.events import Actor, plain, record
from mlops_ray.governance.keys import person_named
from mlops_ray.governance.policies import policy_of
from mlops_ray.governance.tables import delegations, principals
from mlops_ray.governance.versions import expect_name

LONGEST = timedelta(days=366)


@dataclass(frozen=True)
class Delegation:
    """`taker` decides in the place of `giver`, with the role that the giver had, up to and not at `until`.

    ended_at: when it was taken back, None if it was not.
    """

    id: str
    use_case: str
    giver: str
    giver_id: str
    taker: str
    taker_id: str
    role: str
    given_at: datetime
    until: datetime
    ended_at: datetime | None = None
    reason: str = ""


def delegate(
    store: ControlStore,
    actor: Actor,
    use_case: str,
    to: str,
    until: datetime,
    reason: str,
    now: datetime | None = None,
) -> Delegation:
    """Let `to` decide on versions of a use case in the actor's place. to: the name or id of a key of theirs, or for who
    has none the person's id.

    Raises ForbiddenError for who may not approve there by a role of their own, ConfigurationError for an end that is
    past, more than LONGEST away or without a time zone, without a reason, for an unknown person, and for the actor.
    """
    expect_name(use_case)
    if until.tzinfo is None:
        raise ConfigurationError(f"The delegation's end {until} has no time zone. Add Z for UTC.")
    if not reason.strip():
        raise ConfigurationError("Say why the right to approve is given: the reason goes into the audit log.")
    with store.transaction() as connection:
        now = now or database_now(connection)
        if until <= now:
            raise ConfigurationError(f"The delegation's end {until} is past: it is {now:%Y-%m-%d %H:%M:%S} UTC.")
        if until > now + LONGEST:
            raise ConfigurationError(f"The delegation's end {until} is more than {LONGEST.days} days away. Give less.")
        roles = {policy_of(connection, use_case).role, "admin"}.intersection(actor.roles)
        if not roles or not actor.id:
            raise ForbiddenError(f"{actor.name} may not approve versions of {use_case}, and so cannot give that right.")
        person = person_named(connection, to)
        if person == actor.id:
            raise ConfigurationError(f"{to} is you. Name somebody else.")
        made = Delegation(
            str(uuid6.uuid7()), use_case, actor.name, actor.id, to, person, min(roles), now, until, None, plain(reason)
        )
        connection.execute(insert(delegations).values(asdict(made)))
        _record(connection, "delegation.given", actor, None, made, now)
    return made


def end_delegation(store: ControlStore, actor: Actor, id: str, reason: str, now: datetime | None = None) -> Delegation:
    """Take the right back, as its giver, its taker, or with the role that approves; what was approved with it stays.

    Raises ForbiddenError for others, ConflictError if it has ended, ConfigurationError if there is none.
    """
    with store.transaction() as connection:
        now = now or database_now(connection)
        found = delegation_named(connection, id)
        theirs = actor.id and actor.id in (found.giver_id, found.taker_id)
        if not theirs and not {policy_of(connection, found.use_case).role, "admin"}.intersection(actor.roles):
            raise ForbiddenError(f"This delegation is of {found.giver} to {found.taker}. One of them can end it.")
        if found.ended_at is not None or now >= found.until:
            raise ConflictError(f"It ended at {found.ended_at or found.until:%Y-%m-%d %H:%M:%S} UTC already.")
        ended = replace(found, ended_at=now, reason=plain(reason))
        connection.execute(update(delegations).where(delegations.c.id == id).values(ended_at=now, reason=ended.reason))
        _record(connection, "delegation.ended", actor, found, ended, now)
    return ended


def list_delegations(store: ControlStore, use_case: str | None = None, limit: int = 1000) -> list[Delegation]:
    """All that were ever given, the newest first."""
    query = select(delegations).order_by(delegations.c.id.desc()).limit(limit)
    if use_case is not None:
        query = query.where(delegations.c.use_case == use_case)
    with store.reading() as connection:
        return [_delegation(row) for row in connection.execute(query)]


def delegation_named(connection: Connection, id: str) -> Delegation:
    """Raises ConfigurationError if there is none."""
    row = connection.execute(select(delegations).where(delegations.c.id == plain(id))).first()
    if row is None:
        raise ConfigurationError(f"There is no delegation {id[:64]!r}. `mlops-ray approvals delegations` lists them.")
    return _delegation(row)


def givers_to(connection: Connection, actor: Actor, use_case: str, now: datetime) -> tuple[Actor, ...]:
    """In whose place the actor may decide now, each with the role that counts.

    Who has a key, and none that carries the role any more, has nothing to give; what a person of tokens alone carries
    is not known here, so there it ends with `until`.
    """
    if not actor.id:
        return ()
    query = select(delegations).where(
        delegations.c.use_case == use_case,
        delegations.c.taker_id == actor.id,
        delegations.c.until > now,
        delegations.c.ended_at.is_(None),
    )
    found = [_delegation(row) for row in connection.execute(query.order_by(delegations.c.id))]
    return tuple(Actor(one.giver, (one.role,), id=one.giver_id) for one in found if not _lost(connection, one, now))


def may_decide_for_others(store: ControlStore, actor: Actor, use_case: str) -> bool:
    """Whether somebody has given the actor the right to decide on versions of a use case."""
    with store.reading() as connection:
        return bool(givers_to(connection, actor, use_case, database_now(connection)))


def _lost(connection: Connection, given: Delegation, now: datetime) -> bool:
    rows = connection.execute(select(principals).where(principals.c.person == given.giver_id)).all()
    if given.giver_id.startswith(ERASED):
        return True
    if not rows or "|" in given.giver_id:  # as persons of tokens have it
        return False
    return not any(
        {given.role, "admin"}.intersection(row.roles)
        and ("all" in row.use_cases or given.use_case in row.use_cases or not row.use_cases)
        and (row.revoked_at is None or row.revoked_at > now)
        and (row.expires_at is None or row.expires_at > now)
        for row in rows
    )


def _record(
    connection: Connection, type: str, actor: Actor, before: Delegation | None, after: Delegation, now: datetime
) -> None:
    subject = f"delegation {after.id}"
    record(
        connection,
        type,
        actor,
        subject,
        after.use_case,
        before=before and asdict(before),
        after=asdict(after),
        reason=after.reason,
        now=now,
    )


def _delegation(row: Row[Any]) -> Delegation:
    return Delegation(**row._mapping)
