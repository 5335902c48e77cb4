"""The champion: set at once, without a rollout, and out of use for good."""

from sqlalchemy import update

from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError
from mlops_ray.governance import versions as registered_versions
from mlops_ray.governance.approvals import ask
from mlops_ray.governance.change import conflict, expect_seen, with_champion, write
from mlops_ray.governance.clearance import expect_admitted, newest_approved
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.events import SYSTEM, Actor, record
from mlops_ray.governance.live import Live, VersionRef, live, read_live
from mlops_ray.governance.signatures import expect_signed
from mlops_ray.governance.tables import endpoints
from mlops_ray.governance.versions import RegisteredVersion, expect_name


def set_champion(store: ControlStore, actor: Actor, use_case: str, version: VersionRef, reason: str) -> Live:
    """Make `version` champion at once, without a rollout. Raises ConflictError while a rollout runs."""
    with store.transaction() as connection:
        before = read_live(connection, use_case)
        if before.champion == version:
            return before
        if before.rollout:
            raise conflict(connection, before)
        expect_admitted(connection, use_case, version)
        return write(connection, before, with_champion(before, version), "champion.set", actor, version, reason)


def set_first_champion(store: ControlStore, actor: Actor, use_case: str, version: VersionRef, reason: str) -> Live:
    """Make `version` champion where there is none; where there is one, it stays, and a rollout has to replace it."""
    with store.transaction() as connection:
        before = read_live(connection, use_case)
        if before.champion is not None:
            return before
        expect_admitted(connection, use_case, version)
        return write(connection, before, with_champion(before, version), "champion.set", actor, version, reason)


def begin(store: ControlStore, use_case: str) -> Live:
    """What is live; where nothing ever was, the highest version that was approved becomes champion."""
    state = live(store, use_case)
    if state.champion is not None:
        return state
    with store.transaction() as connection:
        before = read_live(connection, use_case)
        approval = None if before.champion else newest_approved(connection, use_case, database_now(connection))
        if approval is None:
            return before
        after = with_champion(before, approval.ref)
        return write(connection, before, after, "champion.set", SYSTEM, approval.ref, "the first approved version")


def break_glass(
    store: ControlStore, actor: Actor, use_case: str, version: int, reason: str, seen: int | None = None
) -> Live:
    """Make a registered version champion at once, whatever its gates and approvals say, and ask for approval after.

    It is an event `break_glass` and a request, both critical. seen: the revision on which this was decided; with it, a
    repetition changes nothing. Raises ForbiddenError without the role `operate`, or without a signature that the use
    case demands, ConfigurationError without a reason or for an unknown version, ConflictError as `set_champion`, or if
    something else was live at `seen`.
    """
    if not {"operate", "admin"} & set(actor.roles):
        raise ForbiddenError(f"{actor.name} does not carry the role 'operate', which breaking the glass needs.")
    if not reason.strip():
        raise ConfigurationError("Say why the glass is broken: the reason goes to everybody who watches.")
    expect_name(use_case)
    with store.transaction() as connection:
        before = read_live(connection, use_case)
        if seen is not None:
            if before.serves_alone(version):
                return before
            expect_seen(connection, before, seen)
        if before.rollout:
            raise conflict(connection, before)
        now = database_now(connection)
        ref = ask(connection, actor, use_case, version, reason, break_glass=True, now=now).ref
        expect_signed(connection, use_case, ref)  # no replica would load it
        if before.champion == ref:
            raise ConflictError(f"Version {version} of {use_case} is the champion already.")
        after = with_champion(before, ref)
        subject, payload = f"{use_case}@{version}", {"digest": ref.digest}
        # By the clock by which it is judged when this was last said.
        record(connection, "break_glass", actor, subject, use_case, payload=payload, reason=reason, now=now)
        return write(connection, before, after, "champion.set", actor, ref, reason)


def retire(store: ControlStore, actor: Actor, use_case: str, version: int, reason: str) -> RegisteredVersion:
    """Take a version out of use for good: it is not approved, rolled out or loaded again.

    If a rollback would have returned to it, there is nothing to return to until the next promotion. Raises
    ConfigurationError without a reason or for an unknown version, ConflictError while it is live, ForbiddenError if it
    was retired before.
    """
    if not reason.strip():
        raise ConfigurationError("Say why the version is retired: the reason goes into the audit log.")
    with store.transaction() as connection:
        found = registered_versions.expect(connection, use_case, version)
        state = read_live(connection, use_case)
        if found.ref in (state.champion, state.rollout and state.rollout.version):
            raise ConflictError(f"Version {version} of {use_case} is live. Promote another one or roll back first.")
        was_previous = found.ref == state.previous
        if was_previous:
            revision = state.revision + 1
            nothing = {
                "previous_version": None,
                "previous_digest": None,
                "revision": revision,
                "stands_since": revision,
            }
            connection.execute(update(endpoints).where(endpoints.c.use_case == use_case).values(nothing))
        return registered_versions.retire(connection, actor, found, reason, {"was_previous_champion": was_previous})
