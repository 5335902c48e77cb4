"""Rollouts: a version comes in step by step, until it is champion or has failed."""

from dataclasses import replace

import uuid6
from sqlalchemy import Connection, insert

from mlops_ray.errors import ConflictError
from mlops_ray.governance.change import conflict, expect_seen, with_champion, write, write_rollout
from mlops_ray.governance.clearance import expect_admitted
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.events import SYSTEM, Actor
from mlops_ray.governance.live import Live, Numbers, Plan, Rollout, VersionRef, read_live
from mlops_ray.governance.policies import policy_of
from mlops_ray.governance.replicas import heard
from mlops_ray.governance.tables import rollouts

_PAUSES = ("rollout.paused", "rollout.resumed")


def start_rollout(
    store: ControlStore,
    actor: Actor,
    use_case: str,
    version: VersionRef,
    plan: Plan | None = None,
    seen: int | None = None,
    reason: str = "",
) -> Live:
    """Let `version` in step by step. plan: None for the default, as strict as the use case demands. seen: the
    revision on which this was decided; None for what holds now.

    Raises ConflictError if a rollout runs, the version is the champion, or something else was live at `seen`;
    ConfigurationError for a plan that the use case does not allow.
    """
    with store.transaction() as connection:
        before = read_live(connection, use_case)
        if seen is not None:
            expect_seen(connection, before, seen)
        if before.rollout:
            raise conflict(connection, before)
        if before.champion is None:
            raise ConflictError(f"{use_case} has no champion that version {version.version} could be compared with.")
        if before.champion.version == version.version:
            raise ConflictError(f"Version {version.version} of {use_case} is the champion already.")
        now = database_now(connection)
        expect_admitted(connection, use_case, version)
        policy = policy_of(connection, use_case)
        plan = policy.default_plan() if plan is None else plan
        policy.expect_allows(use_case, plan)
        rollout = Rollout(str(uuid6.uuid7()), version, plan, "loading", 0, now, now)
        row = {
            "id": rollout.id, "use_case": use_case, "version": version.version, "digest": version.digest,
            "plan": plan.to_json(), "state": "loading", "step": 0, "step_since": now, "started_at": now, "reason": "",
            "actor": actor.name,
        }  # fmt: skip
        connection.execute(insert(rollouts).values(row))
        return write(connection, before, replace(before, rollout=rollout), "rollout.started", actor, version, reason)


def advance(
    store: ControlStore, actor: Actor, use_case: str, seen: Rollout, reason: str, numbers: Numbers | None = None
) -> Live:
    """Begin the next step, or the first one after loading. Raises ConflictError if the rollout is not as `seen`."""
    with store.transaction() as connection:
        before, found = _expect_at_step(connection, use_case, seen)
        step = 0 if seen.state == "loading" else seen.step + 1
        rollout = replace(found, state="running", step=step, step_since=database_now(connection))
        write_rollout(connection, rollout)
        after = replace(before, rollout=rollout)
        return write(connection, before, after, "rollout.step", actor, seen.version, reason, numbers)


def promote(
    store: ControlStore, actor: Actor, use_case: str, seen: Rollout, reason: str, numbers: Numbers | None = None
) -> Live:
    """Make the version of the rollout champion, at whichever step it is; the system, only at the step that was `seen`.

    Raises ConflictError if it is another rollout than `seen`, if it has not gone as far as the use case demands, or
    while a replica that is alive does not hold the version: it would go on to serve the old one.
    """
    with store.transaction() as connection:
        before, found = (_expect_at_step if actor == SYSTEM else _expect)(connection, use_case, seen)
        expect_admitted(connection, use_case, seen.version)
        _expect_far_enough(connection, before)
        _expect_held_by_all(store, use_case, seen.version)
        write_rollout(connection, replace(found, state="promoted"), reason)
        after = replace(with_champion(before, seen.version), rollout=None)
        return write(connection, before, after, "rollout.promoted", actor, seen.version, reason, numbers)


def pause(store: ControlStore, actor: Actor, use_case: str, seen: int, version: int, reason: str) -> Live:
    """Let the rollout of `version` go no step on by itself. What is wrong with the version still ends it, and a person
    may. seen: the revision on which this was decided.

    Nothing changes if it is paused. Raises ConflictError if another rollout runs, or none, or something else was live.
    """
    return _set_paused(store, actor, use_case, seen, version, reason, True)


def resume(store: ControlStore, actor: Actor, use_case: str, seen: int, version: int, reason: str) -> Live:
    """Let it go on by itself again; a step counts from when it began. As `pause` in all else."""
    return _set_paused(store, actor, use_case, seen, version, reason, False)


def _set_paused(
    store: ControlStore, actor: Actor, use_case: str, seen: int, version: int, reason: str, paused: bool
) -> Live:
    with store.transaction() as connection:
        before = read_live(connection, use_case)
        if before.rollout is None or before.rollout.version.version != version:
            raise conflict(connection, before)
        if (before.rollout.paused_at is not None) == paused:
            return before
        expect_seen(connection, before, seen, _PAUSES)
        rollout = replace(before.rollout, paused_at=database_now(connection) if paused else None)
        write_rollout(connection, rollout)
        event = "rollout.paused" if paused else "rollout.resumed"
        return write(connection, before, replace(before, rollout=rollout), event, actor, rollout.version, reason)


def fail(
    store: ControlStore, actor: Actor, use_case: str, seen: Rollout, reason: str, numbers: Numbers | None = None
) -> Live:
    """End the rollout, because its version cannot be served. Raises ConflictError if it is not as `seen`."""
    with store.transaction() as connection:
        before, found = _expect_at_step(connection, use_case, seen)
        write_rollout(connection, replace(found, state="failed"), reason)
        after = replace(before, rollout=None)
        return write(connection, before, after, "rollout.failed", actor, seen.version, reason, numbers)


def _expect(connection: Connection, use_case: str, seen: Rollout) -> tuple[Live, Rollout]:
    """What is live, and the rollout as it stands now, which may have gone on since it was `seen`."""
    before = read_live(connection, use_case)
    found = before.rollout
    if found is None or (found.id, found.paused_at) != (seen.id, seen.paused_at):
        raise conflict(connection, before)
    return before, found


def _expect_at_step(connection: Connection, use_case: str, seen: Rollout) -> tuple[Live, Rollout]:
    before, found = _expect(connection, use_case, seen)
    if (found.state, found.step) != (seen.state, seen.step):
        raise conflict(connection, before)
    return before, found


def _expect_far_enough(connection: Connection, state: Live) -> None:
    """By a policy that was made stricter on the way, the steps that the plan has are enough: it could never end."""
    rollout, policy = state.rollout, policy_of(connection, state.use_case)
    assert rollout is not None
    steps = min(policy.min_rollout_steps or 0, len(rollout.plan.steps))
    done = rollout.step + 1 if rollout.current else 0
    lasted_s = (database_now(connection) - rollout.started_at).total_seconds()
    if done < steps or lasted_s < (policy.min_rollout_s or 0):
        raise ConflictError(
            f"The rollout of version {rollout.version.version} of {state.use_case} is at step {done}, {lasted_s:.0f} s "
            f"after its start, and promoted at step {steps} and after {policy.min_rollout_s or 0:g} s at the earliest. "
            "Wait, or go back."
        )


def _expect_held_by_all(store: ControlStore, use_case: str, version: VersionRef) -> None:
    waiting = [replica for replica in heard(store, use_case).alive if version not in replica.loaded]
    if waiting:
        raise ConflictError(
            f"{len(waiting)} replicas do not hold version {version.version} of {use_case} yet, {waiting[0].id} among "
            f"them. Wait until they have loaded it, or go back."
        )
