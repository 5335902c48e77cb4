"""Change: what is live is another from now on, written in one transaction with its event.

Transactions that write come one after another (see ControlStore), and each grows the revision. Who decides on what he
saw before hands that in: if it is no longer so, he gets a ConflictError that says what holds. A version that its use
case does not admit (see `approvals.expect_admitted`) is a ForbiddenError.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, update

from mlops_ray.errors import ConflictError
from mlops_ray.governance.control_store import database_now
from mlops_ray.governance.events import Actor, Event, record
from mlops_ray.governance.history import last_change
from mlops_ray.governance.live import Live, Numbers, Rollout, VersionRef
from mlops_ray.governance.tables import endpoints, rollouts


def write(
    connection: Connection,
    before: Live,
    after: Live,
    event: str,
    actor: Actor,
    version: VersionRef,
    reason: str = "",
    numbers: Numbers | None = None,
) -> Live:
    """Write the state and the event about `version`. A rollout that is not there any more ends at the event's time."""
    now = database_now(connection)
    revision = before.revision + 1
    is_a_step = _parts(before) == _parts(after)
    after = replace(after, revision=revision, stands_since=before.stands_since if is_a_step else revision)
    if after.champion != before.champion:
        after = replace(after, champion_since=now)
    values = {
        "revision": after.revision,
        "stands_since": after.stands_since,
        "champion_version": after.champion and after.champion.version,
        "champion_digest": after.champion and after.champion.digest,
        "champion_since": after.champion_since,
        "previous_version": after.previous and after.previous.version,
        "previous_digest": after.previous and after.previous.digest,
    }
    if before.revision == 0:
        connection.execute(insert(endpoints), {"use_case": before.use_case, **values})
    else:
        connection.execute(update(endpoints).where(endpoints.c.use_case == before.use_case), values)
    if before.rollout and after.rollout is None:
        connection.execute(update(rollouts).where(rollouts.c.id == before.rollout.id).values(ended_at=now))
    record(
        connection,
        event,
        actor,
        f"{before.use_case}@{version.version}",
        use_case=before.use_case,
        before=_to_json(before),
        after=_to_json(after),
        payload=dict(numbers or {}),
        reason=reason,
        now=now,
    )
    return after


def write_rollout(connection: Connection, rollout: Rollout, ended_because: str | None = None) -> None:
    """Write its step and state; one that ends ends with `write`."""
    values: dict[str, Any] = {"state": rollout.state, "step": rollout.step, "step_since": rollout.step_since}
    values["paused_at"] = rollout.paused_at
    if ended_because is not None:
        values["reason"] = ended_because
    connection.execute(update(rollouts).where(rollouts.c.id == rollout.id).values(values))


def with_champion(before: Live, version: VersionRef) -> Live:
    return replace(before, champion=version, previous=before.champion)


def expect_seen(connection: Connection, before: Live, seen: int, types: Sequence[str] = ()) -> None:
    """types: of changes that matter besides, such as that a rollout was paused: nobody pauses twice by one request."""
    last = last_change(connection, before.use_case, types) if types else None
    if last is not None and last.after["revision"] <= seen:
        last = None
    if last is not None or not before.stands_since <= seen <= before.revision:
        last = last or last_change(connection, before.use_case)
        who = f" ({said(last)})" if last else ""
        raise ConflictError(
            f"Nothing was changed: {before.use_case} is not any more what it was at revision {seen}{who}. "
            f"{before.in_words()} If you still want this, say so of revision {before.revision}."
        )


def conflict(connection: Connection, found: Live) -> ConflictError:
    rollout = found.rollout
    if rollout is None:
        last = last_change(connection, found.use_case)
        who = f" ({said(last)})" if last else ""
        champion = found.champion.version if found.champion else "none"
        return ConflictError(
            f"{found.use_case} was changed meanwhile{who}: its champion is {champion}, and no rollout runs."
        )
    where = f"step {rollout.step + 1} of {len(rollout.plan.steps)}" if rollout.current else rollout.state
    last = last_change(connection, found.use_case)
    who = f"; {said(last)}" if last else ""
    return ConflictError(
        f"A rollout of version {rollout.version.version} of {found.use_case} is under way ({where}{who}). "
        f"Promote it or roll it back first."
    )


def said(event: Event) -> str:
    """Who did what, and when."""
    return f"{event.type} by {event.actor}, at {event.time:%Y-%m-%d %H:%M:%S} UTC"


def _parts(state: Live) -> tuple[object, ...]:
    return state.champion, state.previous, state.rollout and state.rollout.id


def _to_json(value: Live) -> dict[str, Any]:
    """The split as an auditor wants it: who gets which share of the requests."""
    shown: dict[str, Any] = {
        "revision": value.revision,
        "stands_since": value.stands_since,
        "champion": value.champion and asdict(value.champion),
        "champion_since": value.champion_since,
        "previous": value.previous and asdict(value.previous),
        "rollout": None,
    }
    if rollout := value.rollout:
        step = msgspec.to_builtins(rollout.current)
        shown["rollout"] = {
            "id": rollout.id,
            **asdict(rollout.version),
            "state": rollout.state,
            "step": step,
            "number": rollout.step,
            "step_since": rollout.step_since,
            "started_at": rollout.started_at,
            "paused_at": rollout.paused_at,
            "plan": rollout.plan.to_json(),
        }
    return shown
