"""Rollback: an earlier champion answers everything again; never one that may not serve."""

from dataclasses import replace

from sqlalchemy import Connection

from mlops_ray.errors import ConflictError, ForbiddenError
from mlops_ray.governance.change import expect_seen, with_champion, write, write_rollout
from mlops_ray.governance.clearance import expect_may_serve
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, Actor
from mlops_ray.governance.history import champions
from mlops_ray.governance.live import Live, Numbers, VersionRef, live, read_live
from mlops_ray.governance.signatures import expect_signed


def roll_back(
    store: ControlStore,
    actor: Actor,
    use_case: str,
    seen: int,
    to: int,
    reason: str,
    numbers: Numbers | None = None,
) -> Live:
    """Let version `to` serve alone: end the rollout if one runs, and go back to `to` if it is not the champion.

    Nothing changes if it serves alone already. seen: the revision on which this was decided; steps that the rollout has
    made since do not matter. Raises ConflictError if something else was live at `seen`, or if `to` never was the
    champion; ForbiddenError, with the version to go to instead, if it may not serve.
    """
    with store.transaction() as connection:
        before = read_live(connection, use_case)
        if before.serves_alone(to):
            return before
        expect_seen(connection, before, seen)
        after = before
        if before.champion is None or before.champion.version != to:
            after = _returned(connection, before, _champion_before(connection, before, to))
        return _write_rolled_back(connection, before, after, actor, reason, numbers)


def leave_unservable(store: ControlStore, use_case: str) -> Live:
    """What is live, once a champion that may not serve any more has been left for the last one that may.

    Its approval was taken back, so replicas do not load it again: those that start would serve another version than
    those that run. A champion stays where no earlier one may serve.
    """
    state = live(store, use_case)
    if state.champion is None or _why_not(store, use_case, state.champion) is None:
        return state
    with store.transaction() as connection:
        before = read_live(connection, use_case)
        if before.champion is None:
            return before
        try:
            expect_may_serve(connection, use_case, before.champion)
        except ForbiddenError as error:
            return leave(connection, before, str(error))
        return before


def leave(connection: Connection, before: Live, reason: str) -> Live:
    """Go back to the last champion that may serve, in the system's name; where there is none, nothing changes."""
    target = last_servable(connection, before)
    if target is None:
        return before
    return _write_rolled_back(connection, before, _returned(connection, before, target), SYSTEM, reason)


def _why_not(store: ControlStore, use_case: str, version: VersionRef) -> str | None:
    with store.reading() as connection:
        try:
            expect_may_serve(connection, use_case, version)
        except ForbiddenError as error:
            return str(error)
    return None


def _champion_before(connection: Connection, before: Live, to: int) -> VersionRef:
    """The champion of that number that may serve again."""
    found = next((ref for ref in champions(connection, before.use_case) if ref.version == to), None)
    if found is None:
        raise ConflictError(
            f"Version {to} of {before.use_case} was never its champion, so there is no going back to it. "
            f"{before.in_words()} Start a rollout of version {to}, or go back to another."
        )
    try:
        _expect_may_return(connection, before.use_case, found)
    except ForbiddenError as error:
        other = last_servable(connection, before)
        instead = f"Go back to version {other.version}, which may" if other else "No earlier champion may"
        raise ForbiddenError(f"{error} {instead}.") from None
    return found


def last_servable(connection: Connection, before: Live) -> VersionRef | None:
    """The latest champion, other than the one that is, which may serve."""
    for ref in champions(connection, before.use_case):
        if ref == before.champion:
            continue
        try:
            _expect_may_return(connection, before.use_case, ref)
        except ForbiddenError:
            continue
        return ref
    return None


def _expect_may_return(connection: Connection, use_case: str, version: VersionRef) -> None:
    """As `expect_may_serve`, and with the signature that is demanded of what was replaced before it was."""
    expect_may_serve(connection, use_case, version)
    expect_signed(connection, use_case, version)


def _returned(connection: Connection, before: Live, target: VersionRef) -> Live:
    """The champion that is left stays loaded, unless no replica may load it again."""
    after = with_champion(before, target)
    try:
        assert before.champion is not None
        expect_may_serve(connection, before.use_case, before.champion)
    except ForbiddenError:
        after = replace(after, previous=None)
    return after


def _write_rolled_back(
    connection: Connection, before: Live, after: Live, actor: Actor, reason: str, numbers: Numbers | None = None
) -> Live:
    version = before.champion
    if before.rollout:
        version = before.rollout.version if after.champion == before.champion else version
        write_rollout(connection, replace(before.rollout, state="rolled_back"), reason)
    assert version is not None
    after = replace(after, rollout=None)
    return write(connection, before, after, "rollout.rolled_back", actor, version, reason, numbers)
