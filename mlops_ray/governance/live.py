"""What is live: the champion of each use case, the one before it, and the rollout of a new version.

Every change is one transaction that writes the state and its event; transactions that write come one after another
(see ControlStore), and each grows the revision. Who decides on what he saw before hands that in: if it is no longer so,
he gets a ConflictError. A version that its use case does not admit (see `approvals.expect_admitted`) is a
ForbiddenError; going back to the previous champion is always possible.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

import msgspec
import uuid6
from msgspec import Meta
from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError
from mlops_ray.governance import versions as registered_versions
from mlops_ray.governance.approvals import ask, expect_admitted, newest_approved
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, Actor, record
from mlops_ray.governance.history import last_change
from mlops_ray.governance.tables import endpoints, replicas, rollouts
from mlops_ray.governance.versions import RegisteredVersion, expect_name
from mlops_ray.governance.versions import VersionRef as VersionRef  # known here as one of the parts of Live

FORGOTTEN_AFTER = timedelta(minutes=10)

Route = Literal["shadow", "canary"]
RolloutState = Literal["loading", "running", "promoted", "rolled_back", "failed"]
Numbers = Mapping[str, Any]


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step of a rollout: the share of requests that the version sees, held for at least `hold_s`.

    `shadow` copies requests after they were answered, `canary` answers them.
    """

    route: Route
    share: Annotated[float, Meta(gt=0, le=1)]
    hold_s: Annotated[float, Meta(ge=0, le=31_536_000)]


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a rollout goes back by itself. Rates and ratios compare the version with the champion over one step.

    min_requests: with fewer, a step neither ends nor is judged, except on errors. max_error_rate: the share of the
    version's requests that may fail. max_latency_ratio: of the medians. max_disagreement: mean absolute difference of
    the probabilities in shadow; None does not judge it.
    """

    min_requests: Annotated[int, Meta(ge=0)] = 100
    max_error_rate: Annotated[float, Meta(ge=0, le=1)] = 0.01
    max_latency_ratio: Annotated[float, Meta(gt=0)] = 3.0
    max_disagreement: Annotated[float, Meta(ge=0)] | None = None


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a version comes in.

    `sticky`: the request column whose value decides who gets the canary; by default the request id does. Without
    `automatic` the last step holds until somebody promotes. Without steps the version is promoted once it is loaded.
    """

    steps: tuple[Step, ...] = (
        Step("shadow", 1.0, 300),
        Step("canary", 0.05, 300),
        Step("canary", 0.25, 300),
        Step("canary", 0.5, 300),
    )
    rules: Rules = Rules()
    sticky: str | None = None
    automatic: bool = True

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises ConfigurationError naming what is unknown or out of range."""
        try:
            return msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"The rollout plan is not understood: {error}.") from None

    def to_json(self) -> Any:
        return msgspec.to_builtins(self)


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
    """What a use case serves. `previous` is what a rollback returns to."""

    use_case: str
    revision: int = 0
    champion: VersionRef | None = None
    champion_since: datetime | None = None
    previous: VersionRef | None = None
    rollout: Rollout | None = None

    def versions(self) -> tuple[VersionRef, ...]:
        """All that a replica keeps loaded."""
        given = (self.champion, self.rollout and self.rollout.version, self.previous)
        return tuple(dict.fromkeys(version for version in given if version))


@dataclass(frozen=True)
class Replica:
    """What a replica last said of itself. loaded: digests. failed: why, by digest. counters: serving.counters."""

    id: str
    node: str
    revision: int
    loaded: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    counters: Mapping[str, Any] = field(default_factory=dict)
    seen_at: datetime | None = None


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
        expect_admitted(connection, use_case, version, datetime.now(UTC))
        return _write(connection, before, _with_champion(before, version), "champion.set", actor, version, reason)


def set_first_champion(store: ControlStore, actor: Actor, use_case: str, version: VersionRef, reason: str) -> Live:
    """Make `version` champion where there is none; where there is one, it stays, and a rollout has to replace it."""
    with store.transaction() as connection:
        before = _live(connection, use_case)
        if before.champion is not None:
            return before
        expect_admitted(connection, use_case, version, datetime.now(UTC))
        return _write(connection, before, _with_champion(before, version), "champion.set", actor, version, reason)


def begin(store: ControlStore, use_case: str) -> Live:
    """What is live; where nothing ever was, the highest version that was approved becomes champion."""
    state = live(store, use_case)
    if state.champion is not None:
        return state
    with store.transaction() as connection:
        before = _live(connection, use_case)
        approval = None if before.champion else newest_approved(connection, use_case, datetime.now(UTC))
        if approval is None:
            return before
        after = _with_champion(before, approval.ref)
        return _write(connection, before, after, "champion.set", SYSTEM, approval.ref, "the first approved version")


def break_glass(store: ControlStore, actor: Actor, use_case: str, version: int, reason: str) -> Live:
    """Make a registered version champion at once, whatever its gates and approvals say, and ask for approval after.

    It is an event `break_glass` and a request, both critical. Raises ForbiddenError without the role `operate`,
    ConfigurationError without a reason or for an unknown version, ConflictError as `set_champion`.
    """
    if not {"operate", "admin"} & set(actor.roles):
        raise ForbiddenError(f"{actor.name} does not carry the role 'operate', which breaking the glass needs.")
    if not reason.strip():
        raise ConfigurationError("Say why the glass is broken: the reason goes to everybody who watches.")
    expect_name(use_case)
    with store.transaction() as connection:
        before = _live(connection, use_case)
        if before.rollout:
            raise _conflict(connection, before)
        ref = ask(connection, actor, use_case, version, reason, break_glass=True).ref
        if before.champion == ref:
            raise ConflictError(f"Version {version} of {use_case} is the champion already.")
        after = _with_champion(before, ref)
        subject, payload = f"{use_case}@{version}", {"digest": ref.digest}
        record(connection, "break_glass", actor, subject, use_case=use_case, payload=payload, reason=reason)
        return _write(connection, before, after, "champion.set", actor, ref, reason)


def start_rollout(store: ControlStore, actor: Actor, use_case: str, version: VersionRef, plan: Plan) -> Live:
    """Let `version` in step by step. Raises ConflictError if a rollout runs, or the version is the champion."""
    with store.transaction() as connection:
        before = _live(connection, use_case)
        if before.rollout:
            raise _conflict(connection, before)
        if before.champion is None:
            raise ConflictError(f"{use_case} has no champion that version {version.version} could be compared with.")
        if before.champion.version == version.version:
            raise ConflictError(f"Version {version.version} of {use_case} is the champion already.")
        now = datetime.now(UTC)
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
        step = 0 if seen.state == "loading" else seen.step + 1
        rollout = replace(seen, state="running", step=step, step_since=datetime.now(UTC))
        _write_rollout(connection, rollout)
        after = replace(before, rollout=rollout)
        return _write(connection, before, after, "rollout.step", actor, seen.version, reason, numbers)


def promote(
    store: ControlStore, actor: Actor, use_case: str, seen: Rollout, reason: str, numbers: Numbers | None = None
) -> Live:
    """Make the version of the rollout champion. Raises ConflictError if the rollout is not as `seen`."""
    with store.transaction() as connection:
        before = _expect(connection, use_case, seen)
        expect_admitted(connection, use_case, seen.version, datetime.now(UTC))
        _write_rollout(connection, replace(seen, state="promoted"), reason)
        after = replace(_with_champion(before, seen.version), rollout=None)
        return _write(connection, before, after, "rollout.promoted", actor, seen.version, reason, numbers)


def fail(
    store: ControlStore, actor: Actor, use_case: str, seen: Rollout, reason: str, numbers: Numbers | None = None
) -> Live:
    """End the rollout, because its version cannot be served. Raises ConflictError if the rollout is not as `seen`."""
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
            nothing = {"previous_version": None, "previous_digest": None, "revision": state.revision + 1}
            connection.execute(update(endpoints).where(endpoints.c.use_case == use_case).values(nothing))
        return registered_versions.retire(connection, actor, found, reason, {"was_previous_champion": was_previous})


def roll_back(
    store: ControlStore, actor: Actor, use_case: str, seen: Live, reason: str, numbers: Numbers | None = None
) -> Live:
    """End the rollout, or without one return to the previous champion.

    Raises ConflictError if what is live is not as `seen`, or if there is no previous champion.
    """
    with store.transaction() as connection:
        before = _live(connection, use_case)
        if before.revision != seen.revision:
            raise _conflict(connection, before)
        if before.rollout:
            version = before.rollout.version
            _write_rollout(connection, replace(before.rollout, state="rolled_back"), reason)
            after = replace(before, rollout=None)
        elif before.champion and before.previous:
            version = before.champion
            after = _with_champion(before, before.previous)
        else:
            raise ConflictError(f"{use_case} has no previous champion to return to.")
        return _write(connection, before, after, "rollout.rolled_back", actor, version, reason, numbers)


def report(store: ControlStore, use_case: str, replica: Replica) -> None:
    """Store what a replica says of itself, and forget those that were silent for `FORGOTTEN_AFTER`."""
    now = datetime.now(UTC)
    values = {
        "use_case": use_case, "node": replica.node, "revision": replica.revision, "loaded": list(replica.loaded),
        "failed": dict(replica.failed), "counters": dict(replica.counters), "seen_at": now,
    }  # fmt: skip
    with store.transaction() as connection:
        if connection.execute(update(replicas).where(replicas.c.id == replica.id).values(values)).rowcount == 0:
            connection.execute(insert(replicas).values(id=replica.id, **values))
        connection.execute(delete(replicas).where(replicas.c.seen_at < now - FORGOTTEN_AFTER))


def record_load_failure(store: ControlStore, use_case: str, version: VersionRef, replica_id: str, why: str) -> None:
    """For a version that a replica cannot use; who cares is told through the event."""
    with store.transaction() as connection:
        subject, payload = f"{use_case}@{version.version}", {"replica": replica_id, "digest": version.digest}
        record(connection, "version.load_failed", SYSTEM, subject, use_case=use_case, payload=payload, reason=why)


def forget(store: ControlStore, replica_id: str) -> None:
    """For a replica that ends in good order: nobody waits for it any more."""
    with store.transaction() as connection:
        connection.execute(delete(replicas).where(replicas.c.id == replica_id))


def replicas_of(store: ControlStore, use_case: str) -> Sequence[Replica]:
    """All replicas heard of in the last `FORGOTTEN_AFTER`, dead ones among them: see `seen_at`."""
    with store.reading() as connection:
        rows = connection.execute(select(replicas).where(replicas.c.use_case == use_case)).mappings()
        return [
            Replica(r["id"], r["node"], r["revision"], tuple(r["loaded"]), r["failed"], r["counters"], r["seen_at"])
            for r in rows
        ]


def _with_champion(before: Live, version: VersionRef) -> Live:
    return replace(before, champion=version, champion_since=datetime.now(UTC), previous=before.champion)


def _expect(connection: Connection, use_case: str, seen: Rollout) -> Live:
    before = _live(connection, use_case)
    found = before.rollout
    if found is None or (found.id, found.state, found.step) != (seen.id, seen.state, seen.step):
        raise _conflict(connection, before)
    return before


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
    after = replace(after, revision=before.revision + 1)
    values = {
        "revision": after.revision,
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
    )
    return after


def _write_rollout(connection: Connection, rollout: Rollout, ended_because: str | None = None) -> None:
    values: dict[str, Any] = {"state": rollout.state, "step": rollout.step, "step_since": rollout.step_since}
    if ended_because is not None:
        values |= {"reason": ended_because, "ended_at": datetime.now(UTC)}
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
