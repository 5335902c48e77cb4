"""What is live: the champion of each use case, the one before it, and the rollout of a new version.

Every change is one transaction that writes the state and its event; transactions that write come one after another
(see ControlStore), and each grows the revision. Who decides on what he saw before hands that in: if it is no longer so,
he gets a ConflictError that says what holds. A version that its use case does not admit (see
`approvals.expect_admitted`) is a ForbiddenError, and so is going back to one that may not serve.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal

import msgspec
import uuid6
from sqlalchemy import Connection, RowMapping, insert, select, update

from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError
from mlops_ray.governance import versions as registered_versions
from mlops_ray.governance.approvals import ask, expect_admitted, expect_may_serve, newest_approved
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.events import SYSTEM, Actor, record
from mlops_ray.governance.history import champions, last_change
from mlops_ray.governance.plan import Plan as Plan  # known here as the parts of a Rollout
from mlops_ray.governance.plan import Rules as Rules
from mlops_ray.governance.plan import Step as Step
from mlops_ray.governance.replicas import heard
from mlops_ray.governance.tables import endpoints, rollouts
from mlops_ray.governance.versions import RegisteredVersion, expect_name
from mlops_ray.governance.versions import VersionRef as VersionRef  # known here as one of the parts of Live

RolloutState = Literal["loading", "running", "promoted", "rolled_back", "failed"]
Numbers = Mapping[str, Any]


@dataclass(frozen=True)
class Rollout:
    """`state` is loading until every replica holds the version, then running."""

    id: str
    version: VersionRef
    plan: Plan
    state: RolloutState
    step: int
    step_since: datetime
    started_at: datetime

    @property
    def current(self) -> Step | None:
        """The step that is in force; None while replicas load the version."""
        return self.plan.steps[self.step] if self.state == "running" else None


@dataclass(frozen=True)
class Live:
    """What a use case serves. `previous` stays loaded beside the champion, so that going back to it takes seconds.

    stands_since: the revision since which champion, previous and rollout are these; steps of the rollout change only
    `revision`. Who looked at a revision from there on has seen what holds.
    """

    use_case: str
    revision: int = 0
    champion: VersionRef | None = None
    champion_since: datetime | None = None
    previous: VersionRef | None = None
    rollout: Rollout | None = None
    stands_since: int = 0

    def serves_alone(self, version: int) -> bool:
        """Whether `version` answers everything: it is champion, and no rollout runs."""
        return self.rollout is None and self.champion is not None and self.champion.version == version

    def in_words(self) -> str:
        """What is live, in a sentence."""
        champion = f"version {self.champion.version}" if self.champion else "no version"
        rollout = f"a rollout of version {self.rollout.version.version}" if self.rollout else "no rollout"
        return f"At revision {self.revision}, {champion} is champion and {rollout} runs."

    def versions(self) -> tuple[VersionRef, ...]:
        """All that a replica keeps loaded."""
        given = (self.champion, self.rollout and self.rollout.version, self.previous)
        return tuple(dict.fromkeys(version for version in given if version))


def live(store: ControlStore, use_case: str) -> Live:
    """What is live now; a Live without champion where nothing ever was."""
    with store.reading() as connection:
        return _live(connection, use_case)


def set_champion(store: ControlStore, actor: Actor, use_case: str, version: VersionRef, reason: str) -> Live:
    """Make `version` champion at once, without a rollout. Raises ConflictError while a rollout runs."""
    with store.transaction() as connection:
        before = _live(connection, use_case)
        if before.champion == version:
            return before
        if before.rollout:
            raise _conflict(connection, before)
        expect_admitted(connection, use_case, version, database_now(connection))
        return _write(
            connection, before, _with_champion(connection, before, version), "champion.set", actor, version, reason
        )


def set_first_champion(store: ControlStore, actor: Actor, use_case: str, version: VersionRef, reason: str) -> Live:
    """Make `version` champion where there is none; where there is one, it stays, and a rollout has to replace it."""
    with store.transaction() as connection:
        before = _live(connection, use_case)
        if before.champion is not None:
            return before
        expect_admitted(connection, use_case, version, database_now(connection))
        return _write(
            connection, before, _with_champion(connection, before, version), "champion.set", actor, version, reason
        )


def begin(store: ControlStore, use_case: str) -> Live:
    """What is live; where nothing ever was, the highest version that was approved becomes champion."""
    state = live(store, use_case)
    if state.champion is not None:
        return state
    with store.transaction() as connection:
        before = _live(connection, use_case)
        approval = None if before.champion else newest_approved(connection, use_case, database_now(connection))
        if approval is None:
            return before
        after = _with_champion(connection, before, approval.ref)
        return _write(connection, before, after, "champion.set", SYSTEM, approval.ref, "the first approved version")


def break_glass(
    store: ControlStore, actor: Actor, use_case: str, version: int, reason: str, seen: int | None = None
) -> Live:
    """Make a registered version champion at once, whatever its gates and approvals say, and ask for approval after.

    It is an event `break_glass` and a request, both critical. seen: the revision on which this was decided; with it, a
    repetition changes nothing. Raises ForbiddenError without the role `operate`, ConfigurationError without a reason or
    for an unknown version, ConflictError as `set_champion`, or if something else was live at `seen`.
    """
    if not {"operate", "admin"} & set(actor.roles):
        raise ForbiddenError(f"{actor.name} does not carry the role 'operate', which breaking the glass needs.")
    if not reason.strip():
        raise ConfigurationError("Say why the glass is broken: the reason goes to everybody who watches.")
    expect_name(use_case)
    with store.transaction() as connection:
        before = _live(connection, use_case)
        if seen is not None:
            if before.serves_alone(version):
                return before
            _expect_seen(connection, before, seen)
        if before.rollout:
            raise _conflict(connection, before)
        ref = ask(connection, actor, use_case, version, reason, break_glass=True).ref
        if before.champion == ref:
            raise ConflictError(f"Version {version} of {use_case} is the champion already.")
        after = _with_champion(connection, before, ref)
        subject, payload = f"{use_case}@{version}", {"digest": ref.digest}
        record(connection, "break_glass", actor, subject, use_case=use_case, payload=payload, reason=reason)
        return _write(connection, before, after, "champion.set", actor, ref, reason)


def start_rollout(
    store: ControlStore, actor: Actor, use_case: str, version: VersionRef, plan: Plan, seen: int | None = None
) -> Live:
    """Let `version` in step by step. seen: the revision on which this was decided; None for what holds now.

    Raises ConflictError if a rollout runs, the version is the champion, or something else was live at `seen`.
    """
    with store.transaction() as connection:
        before = _live(connection, use_case)
        if seen is not None:
            _expect_seen(connection, before, seen)
        if before.rollout:
            raise _conflict(connection, before)
        if before.champion is None:
            raise ConflictError(f"{use_case} has no champion that version {version.version} could be compared with.")
        if before.champion.version == version.version:
            raise ConflictError(f"Version {version.version} of {use_case} is the champion already.")
        now = database_now(connection)
        expect_admitted(connection, use_case, version, now)
        rollout = Rollout(str(uuid6.uuid7()), version, plan, "loading", 0, now, now)
        row = {
            "id": rollout.id, "use_case": use_case, "version": version.version, "digest": version.digest,
            "plan": plan.to_json(), "state": "loading", "step": 0, "step_since": now, "started_at": now, "reason": "",
            "actor": actor.name,
        }  # fmt: skip
        connection.execute(insert(rollouts).values(row))
        return _write(connection, before, replace(before, rollout=rollout), "rollout.started", actor, version)


def advance(
    store: ControlStore, actor: Actor, use_case: str, seen: Rollout, reason: str, numbers: Numbers | None = None
) -> Live:
    """Begin the next step, or the first one after loading. Raises ConflictError if the rollout is not as `seen`."""
    with store.transaction() as connection:
        before = _expect(connection, use_case, seen)
        assert before.rollout is not None
        if (before.rollout.state, before.rollout.step) != (seen.state, seen.step):
            raise _conflict(connection, before)
        step = 0 if seen.state == "loading" else seen.step + 1
        rollout = replace(seen, state="running", step=step, step_since=database_now(connection))
        _write_rollout(connection, rollout)
        after = replace(before, rollout=rollout)
        return _write(connection, before, after, "rollout.step", actor, seen.version, reason, numbers)


def promote(
    store: ControlStore, actor: Actor, use_case: str, seen: Rollout, reason: str, numbers: Numbers | None = None
) -> Live:
    """Make the version of the rollout champion, at whichever step it is.

    Raises ConflictError if it is another rollout than `seen`, or while a replica that is alive does not hold the
    version: it would go on to serve the old one.
    """
    with store.transaction() as connection:
        before = _expect(connection, use_case, seen)
        expect_admitted(connection, use_case, seen.version, database_now(connection))
        _expect_held_by_all(store, use_case, seen.version)
        _write_rollout(connection, replace(seen, state="promoted"), reason)
        after = replace(_with_champion(connection, before, seen.version), rollout=None)
        return _write(connection, before, after, "rollout.promoted", actor, seen.version, reason, numbers)


def fail(
    store: ControlStore, actor: Actor, use_case: str, seen: Rollout, reason: str, numbers: Numbers | None = None
) -> Live:
    """End the rollout, because its version cannot be served. Raises ConflictError if it is another one than `seen`."""
    with store.transaction() as connection:
        before = _expect(connection, use_case, seen)
        _write_rollout(connection, replace(seen, state="failed"), reason)
        after = replace(before, rollout=None)
        return _write(connection, before, after, "rollout.failed", actor, seen.version, reason, numbers)


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
        state = _live(connection, use_case)
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
        before = _live(connection, use_case)
        if before.serves_alone(to):
            return before
        _expect_seen(connection, before, seen)
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
        before = _live(connection, use_case)
        if before.champion is None:
            return before
        try:
            expect_may_serve(connection, use_case, before.champion)
        except ForbiddenError as error:
            target = _last_servable(connection, before)
            if target is not None:
                after = _returned(connection, before, target)
                return _write_rolled_back(connection, before, after, SYSTEM, str(error))
        return before


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
        expect_may_serve(connection, before.use_case, found)
    except ForbiddenError as error:
        other = _last_servable(connection, before)
        instead = f"Go back to version {other.version}, which may" if other else "No earlier champion may"
        raise ForbiddenError(f"{error} {instead}.") from None
    return found


def _last_servable(connection: Connection, before: Live) -> VersionRef | None:
    """The latest champion, other than the one that is, which may serve."""
    for ref in champions(connection, before.use_case):
        if ref == before.champion:
            continue
        try:
            expect_may_serve(connection, before.use_case, ref)
        except ForbiddenError:
            continue
        return ref
    return None


def _returned(connection: Connection, before: Live, target: VersionRef) -> Live:
    """The champion that is left stays loaded, unless no replica may load it again."""
    after = _with_champion(connection, before, target)
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
        _write_rollout(connection, replace(before.rollout, state="rolled_back"), reason)
    assert version is not None
    after = replace(after, rollout=None)
    return _write(connection, before, after, "rollout.rolled_back", actor, version, reason, numbers)


def record_load_failure(
    store: ControlStore,
    use_case: str,
    version: VersionRef,
    replica_id: str,
    why: str,
    serving: VersionRef | None = None,
) -> None:
    """For a version that a replica cannot use; who cares is told through the event. serving: what answers there."""
    with store.transaction() as connection:
        payload = {"replica": replica_id, "digest": version.digest, "serving": serving and asdict(serving)}
        subject = f"{use_case}@{version.version}"
        record(connection, "version.load_failed", SYSTEM, subject, use_case=use_case, payload=payload, reason=why)


def _expect_held_by_all(store: ControlStore, use_case: str, version: VersionRef) -> None:
    waiting = [replica for replica in heard(store, use_case).alive if version not in replica.loaded]
    if waiting:
        raise ConflictError(
            f"{len(waiting)} replicas do not hold version {version.version} of {use_case} yet, {waiting[0].id} among "
            f"them. Wait until they have loaded it, or go back."
        )


def _with_champion(connection: Connection, before: Live, version: VersionRef) -> Live:
    return replace(before, champion=version, champion_since=database_now(connection), previous=before.champion)


def _expect(connection: Connection, use_case: str, seen: Rollout) -> Live:
    before = _live(connection, use_case)
    found = before.rollout
    if found is None or found.id != seen.id:
        raise _conflict(connection, before)
    return before


def _expect_seen(connection: Connection, before: Live, seen: int) -> None:
    if not before.stands_since <= seen <= before.revision:
        last = last_change(connection, before.use_case)
        who = f" ({last.type} by {last.actor})" if last else ""
        raise ConflictError(
            f"Nothing was changed: {before.use_case} is not any more what it was at revision {seen}{who}. "
            f"{before.in_words()} If you still want this, say so of revision {before.revision}."
        )


def _conflict(connection: Connection, found: Live) -> ConflictError:
    rollout = found.rollout
    if rollout is None:
        last = last_change(connection, found.use_case)
        who = f" ({last.type} by {last.actor})" if last else ""
        champion = found.champion.version if found.champion else "none"
        return ConflictError(
            f"{found.use_case} was changed meanwhile{who}: its champion is {champion}, and no rollout runs."
        )
    where = f"step {rollout.step + 1} of {len(rollout.plan.steps)}" if rollout.current else rollout.state
    return ConflictError(
        f"A rollout of version {rollout.version.version} of {found.use_case} is under way ({where}). "
        f"Promote it or roll it back first."
    )


def _write(
    connection: Connection,
    before: Live,
    after: Live,
    event: str,
    actor: Actor,
    version: VersionRef,
    reason: str = "",
    numbers: Numbers | None = None,
) -> Live:
    """Write the state and the event about `version`."""
    revision = before.revision + 1
    is_a_step = _parts(before) == _parts(after)
    after = replace(after, revision=revision, stands_since=before.stands_since if is_a_step else revision)
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
        connection.execute(insert(endpoints).values(use_case=before.use_case, **values))
    else:
        connection.execute(update(endpoints).where(endpoints.c.use_case == before.use_case).values(values))
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
        now=database_now(connection),
    )
    return after


def _parts(state: Live) -> tuple[object, ...]:
    return state.champion, state.previous, state.rollout and state.rollout.id


def _write_rollout(connection: Connection, rollout: Rollout, ended_because: str | None = None) -> None:
    values: dict[str, Any] = {"state": rollout.state, "step": rollout.step, "step_since": rollout.step_since}
    if ended_because is not None:
        values |= {"reason": ended_because, "ended_at": database_now(connection)}
    connection.execute(update(rollouts).where(rollouts.c.id == rollout.id).values(values))


def _live(connection: Connection, use_case: str) -> Live:
    row = connection.execute(select(endpoints).where(endpoints.c.use_case == use_case)).mappings().first()
    if row is None:
        return Live(use_case)
    active = (rollouts.c.use_case == use_case) & rollouts.c.ended_at.is_(None)
    found = connection.execute(select(rollouts).where(active)).mappings().first()
    return Live(
        use_case,
        row["revision"],
        _ref(row, "champion"),
        row["champion_since"],
        _ref(row, "previous"),
        _rollout(found) if found else None,
        row["stands_since"],
    )


def _ref(row: RowMapping, name: str) -> VersionRef | None:
    version = row[f"{name}_version"]
    return None if version is None else VersionRef(version, row[f"{name}_digest"])


def _rollout(row: RowMapping) -> Rollout:
    version, plan = VersionRef(row["version"], row["digest"]), Plan.from_json(row["plan"])
    return Rollout(row["id"], version, plan, row["state"], row["step"], row["step_since"], row["started_at"])


def _to_json(value: Live) -> dict[str, Any]:
    """The split as an auditor wants it: who gets which share of the requests."""
    shown: dict[str, Any] = {
        "revision": value.revision,
        "champion": value.champion and asdict(value.champion),
        "previous": value.previous and asdict(value.previous),
        "rollout": None,
    }
    if rollout := value.rollout:
        step = msgspec.to_builtins(rollout.current)
        shown["rollout"] = {"id": rollout.id, **asdict(rollout.version), "state": rollout.state, "step": step}
    return shown
