"""Approvals: an authorised person says that exactly these bytes may be used; and what a use case demands of them.

An approval is about a version and its digests. Whoever changes a byte of the model, its evaluation or its bill of
materials has other digests, and no approval; the same bytes under another number have their own. It ends when its time
is over: then nothing new may be begun with it, but what is live stays. Only a revocation takes that away, and it holds
whatever the use case demands later.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

import uuid6
from sqlalchemy import Connection, Row, insert, select, update

from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError
from mlops_ray.governance import versions as registered_versions
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.events import SYSTEM, Actor, Severity, plain, record
from mlops_ray.governance.policies import Policy as Policy  # known here as what a verdict has to keep to
from mlops_ray.governance.policies import policy_of, required_since
from mlops_ray.governance.policies import set_policy as set_policy
from mlops_ray.governance.signatures import expect_signed
from mlops_ray.governance.tables import approvals, endpoints, versions
from mlops_ray.governance.versions import Evidence, RegisteredVersion, VersionRef

State = Literal["requested", "approved", "rejected", "revoked", "expired"]


@dataclass(frozen=True)
class Approval:
    """A request and what became of it. break_glass: the version went live before anybody approved it.

    decided_by, decided_at: of the last verdict, None before. reason: of the last change. The ids are of the people and
    services behind the names, None where a row is older than ids.
    """

    id: str
    use_case: str
    version: int
    evidence: Evidence
    author: str
    state: State
    requested_by: str
    requested_at: datetime
    expires_at: datetime
    break_glass: bool = False
    decided_by: str | None = None
    decided_at: datetime | None = None
    reason: str = ""
    author_id: str | None = None
    requested_by_id: str | None = None
    decided_by_id: str | None = None

    @property
    def ref(self) -> VersionRef:
        return VersionRef(self.version, self.evidence.model)


@dataclass(frozen=True)
class Request:
    """Somebody asks for the approval of a version; `id` is the new request's."""

    id: str
    actor: Actor
    version: RegisteredVersion
    reason: str = ""
    break_glass: bool = False


@dataclass(frozen=True)
class Verdict:
    """Somebody decides. version: as it was registered and stands now. seen: the model digest that they looked at.

    earlier: all that was ever asked for these bytes, whatever became of it.
    """

    kind: Literal["approved", "rejected", "revoked"]
    actor: Actor
    version: RegisteredVersion
    reason: str = ""
    seen: str | None = None
    earlier: tuple[Approval, ...] = ()


@dataclass(frozen=True)
class Lapse:
    """Time has passed."""


def decide(state: Approval | None, event: Request | Verdict | Lapse, policy: Policy, now: datetime) -> Approval:
    """What the last request for a version becomes; None: there was none.

    Raises ForbiddenError if the actor may not do this at all, ConflictError if it cannot be done to this state,
    ConfigurationError if a reason is missing.
    """
    match event:
        case Request():
            return _requested(state, event, policy, now)
        case Verdict():
            return _judged(state, event, policy, now)
        case Lapse():
            if state is None or state.state not in ("requested", "approved") or now < state.expires_at:
                raise ConflictError("There is nothing whose time is over.")
            return replace(state, state="expired", reason=f"not used until {_moment(state.expires_at)}")


def _requested(state: Approval | None, event: Request, policy: Policy, now: datetime) -> Approval:
    version = event.version
    version.expect_in_use()
    if version.failed_gates and not event.break_glass:
        raise ConflictError(
            f"{_name(version)} did not pass {', '.join(version.failed_gates)}. Train a better one, or change the gates."
        )
    stands = state is not None and state.evidence == version.evidence and now < state.expires_at
    if state is not None and stands and not event.break_glass:
        if state.state == "approved":
            raise ConflictError(f"{_name(version)} was approved by {state.decided_by} already.")
        if state.state == "requested":
            raise ConflictError(f"{state.requested_by} has asked for the approval of {_name(version)} already.")
    return Approval(
        id=event.id,
        use_case=version.use_case,
        version=version.version,
        evidence=version.evidence,
        author=version.author,
        author_id=version.author_id,
        state="requested",
        requested_by=event.actor.name,
        requested_by_id=event.actor.id or None,
        requested_at=now,
        expires_at=now + timedelta(seconds=policy.expires_after_s),
        break_glass=event.break_glass,
        reason=event.reason,
    )


def _judged(state: Approval | None, event: Verdict, policy: Policy, now: datetime) -> Approval:
    name, actor = _name(event.version), event.actor
    if policy.role not in actor.roles and "admin" not in actor.roles:
        raise ForbiddenError(f"{actor.name} does not carry the role {policy.role!r}, which {event.kind} needs.")
    if event.kind != "approved" and not event.reason.strip():
        raise ConfigurationError(f"Say why {name} is {event.kind}: the reason goes into the audit log.")
    if state is None:
        raise ConflictError(f"Nobody has asked for the approval of {name}. Ask for it first.")
    if event.kind == "approved":
        event.version.expect_in_use()
        _expect_other_eyes(state, event, policy)
    revoking = event.kind == "revoked"
    open_states = ("approved", "expired") if revoking else ("requested",)
    # What the glass was broken for serves without a verdict: it can be taken back after its request has ended as well.
    if state.state not in open_states or (revoking and state.decided_by is None and not state.break_glass):
        by = f" by {state.decided_by}" if state.decided_by else ""
        raise ConflictError(f"{name} cannot be {event.kind}: its approval is {state.state}{by} already.")
    if not revoking and now >= state.expires_at:
        raise ConflictError(f"The request for {name} ended at {_moment(state.expires_at)}. Ask for approval again.")
    if not revoking and event.version.evidence != state.evidence:
        raise ConflictError(f"{name} was changed since its approval was asked for. Ask for approval again.")
    if event.seen is not None and event.seen != state.evidence.model:
        raise ConflictError(f"{name} has the digest {state.evidence.model}, not {event.seen[:64]}.")
    expires_at = state.expires_at if revoking else now + timedelta(seconds=policy.expires_after_s)
    return replace(
        state,
        state=event.kind,
        decided_by=actor.name,
        decided_by_id=actor.id or None,
        decided_at=now,
        expires_at=expires_at,
        reason=event.reason,
    )


def _expect_other_eyes(state: Approval, event: Verdict, policy: Policy) -> None:
    """Asking again in the ordinary way does not make another person of who broke the glass."""
    if not policy.four_eyes:
        return
    actor, name = event.actor, _name(event.version)
    if _is_same(actor, state.author, state.author_id):
        raise ForbiddenError(f"{actor.name} is the author of {name.lower()}. Somebody else has to approve.")
    broken = [one for one in (state, *event.earlier) if one.break_glass]
    if any(_is_same(actor, one.requested_by, one.requested_by_id) for one in broken):
        raise ForbiddenError(f"{actor.name} broke the glass for {name.lower()}. Somebody else has to approve.")


def _is_same(actor: Actor, name: str, id: str | None) -> bool:
    """Whether the actor is that person: by the ids, whatever key was used; by the names where an id is not known."""
    return actor.id == id if actor.id and id else actor.name == name


def valid_among(asked: Sequence[Approval], evidence: Evidence | None, now: datetime) -> Approval | None:
    """The approval with which a version may go live now. asked: for this version, the newest first.

    evidence: the registered digests as they stand; an approval of others is void, and so is one of nothing.
    """
    newest = asked[0] if asked else None
    if newest is None or newest.state != "approved" or now >= newest.expires_at or newest.evidence != evidence:
        return None
    return newest


def servable_among(asked: Sequence[Approval], evidence: Evidence | None) -> bool:
    """Whether a replica may load a version that is live: it was approved, or the glass was broken for it, and nobody
    has rejected or revoked it since. asked: for this version, the newest first."""
    for approval in asked:
        if approval.state in ("rejected", "revoked"):
            return False
        if approval.evidence == evidence and (approval.break_glass or approval.decided_by is not None):
            return True
    return False


def refused_among(asked: Sequence[Approval]) -> Approval | None:
    """The rejection or revocation after which nobody has approved the version, or broken the glass for it. asked: for
    this version, the newest first."""
    for approval in asked:
        if approval.state in ("rejected", "revoked"):
            return approval
        if approval.break_glass or approval.decided_by is not None:
            return None
    return None


def request(
    store: ControlStore, actor: Actor, use_case: str, version: int, reason: str = "", now: datetime | None = None
) -> Approval:
    """Ask for the approval of a registered version.

    Raises ConfigurationError if there is no such version, ConflictError if it is asked for or approved already.
    """
    with store.transaction() as connection:
        return ask(connection, actor, use_case, version, reason, now=now)


def approve(
    store: ControlStore,
    actor: Actor,
    use_case: str,
    version: int,
    reason: str = "",
    seen: str | None = None,
    now: datetime | None = None,
) -> Approval:
    """Approve what was asked for. seen: the digest that the actor looked at, to refuse another one.

    Raises ForbiddenError for the author and for who lacks the role; ConflictError if nobody asked, twice, after the
    end, or if the version is another than was asked about; ConfigurationError if there is no such version.
    """
    return _give(store, "approved", actor, use_case, version, reason, seen, now)


def reject(
    store: ControlStore, actor: Actor, use_case: str, version: int, reason: str, now: datetime | None = None
) -> Approval:
    """Refuse what was asked for; errors as of `approve`, and ConfigurationError without a reason."""
    return _give(store, "rejected", actor, use_case, version, reason, None, now)


def revoke(
    store: ControlStore, actor: Actor, use_case: str, version: int, reason: str, now: datetime | None = None
) -> Approval:
    """Take an approval back: rollouts of the version end, and replicas do not load it again. Errors as of `reject`."""
    return _give(store, "revoked", actor, use_case, version, reason, None, now)


def expire(store: ControlStore, now: datetime) -> list[Approval]:
    """Mark every request and approval whose time is over, each with its event. Call it at an interval."""
    over = approvals.c.state.in_(("requested", "approved")) & (approvals.c.expires_at <= now)
    with store.reading() as connection:  # most of the time there is none, and a transaction would lock out others
        if connection.execute(select(approvals.c.id).where(over).limit(1)).first() is None:
            return []
    with store.transaction() as connection:
        found = [_approval(row) for row in connection.execute(select(approvals).where(over).order_by(approvals.c.id))]
        return [_write(connection, state, decide(state, Lapse(), Policy(), now), SYSTEM, now) for state in found]


def list_approvals(store: ControlStore, use_case: str | None = None, limit: int | None = 1000) -> list[Approval]:
    """Requests and what became of them, the newest first; limit: None for all."""
    query = select(approvals).order_by(approvals.c.id.desc()).limit(limit)
    if use_case is not None:
        query = query.where(approvals.c.use_case == use_case)
    with store.reading() as connection:
        return [_approval(row) for row in connection.execute(query)]


def valid_approval(store: ControlStore, use_case: str, version: VersionRef, now: datetime) -> Approval | None:
    """The approval with which `version` may go live now, None if there is none."""
    with store.reading() as connection:
        return _valid(connection, use_case, version, now)


def expect_admitted(connection: Connection, use_case: str, version: VersionRef, now: datetime) -> None:
    """Raise ForbiddenError unless `version` may go live: as it was registered, in use, no blocking gate failed, not
    rejected or revoked, and signed and approved if need be."""
    known = _expect_as_registered(connection, use_case, version)
    name = f"Version {version.version} of {use_case}"
    if known is not None and known.failed_gates:
        raise ForbiddenError(f"{name} did not pass {', '.join(known.failed_gates)}, so it may not go live.")
    _expect_not_refused(version, _asked(connection, use_case, version), "go live")
    expect_signed(connection, use_case, version)
    if policy_of(connection, use_case).required and _valid(connection, use_case, version, now) is None:
        raise ForbiddenError(
            f"{name} (digest {version.digest[:12]}) has no valid approval, which {use_case} demands. Ask for it with "
            f"`mlops-ray approvals request {use_case} {version.version}`."
        )


def expect_servable(store: ControlStore, use_case: str, version: VersionRef) -> None:
    """Raise ForbiddenError for a version that may not serve; see `expect_may_serve`."""
    with store.reading() as connection:
        expect_may_serve(connection, use_case, version)


def expect_may_serve(connection: Connection, use_case: str, version: VersionRef) -> None:
    """Raise ForbiddenError for a version that was retired, registered with another digest, rejected or revoked, or if
    `use_case` demands an approval and nobody gave one. A champion, or the one before it, that went live before that
    was demanded needs none: what is live stays live until it is replaced."""
    _expect_as_registered(connection, use_case, version)
    asked = _asked(connection, use_case, version)
    _expect_not_refused(version, asked, "serve")
    since = required_since(connection, use_case)
    if since is None or servable_among(asked, _evidence(connection, use_case, version)):
        return
    nobody_decided = all(one.decided_at is None or one.decided_at < since for one in asked)
    if nobody_decided and _is_live(connection, use_case, version):
        return
    raise ForbiddenError(
        f"Version {version.version} of {use_case} (digest {version.digest[:12]}) is not approved, so it may not serve. "
        f"Approve it, or go back to another version."
    )


def _expect_as_registered(connection: Connection, use_case: str, version: VersionRef) -> RegisteredVersion | None:
    """Raise ForbiddenError for a version that was retired, or whose number was registered with another digest. None for
    one that was not registered."""
    known = registered_versions.find(connection, use_case, version.version)
    if known is None:
        return None
    known.expect_in_use()
    if known.evidence.model != version.digest:
        raise ForbiddenError(
            f"{_name(known)} was registered with the digest {known.evidence.model[:12]}, not {version.digest[:12]}. "
            f"Put the registered bytes back, or register these as a new version."
        )
    return known


def _expect_not_refused(version: VersionRef, asked: Sequence[Approval], use: str) -> None:
    refused = refused_among(asked)
    if refused is not None:
        raise ForbiddenError(
            f"Version {version.version} of {refused.use_case} (digest {version.digest[:12]}) is not approved, because "
            f"{refused.decided_by} has {refused.state} it, so it may not {use}. Approve it, or take another version."
        )


def _is_live(connection: Connection, use_case: str, version: VersionRef) -> bool:
    """Whether it is the champion, or the one that is kept to go back to."""
    row = connection.execute(select(endpoints).where(endpoints.c.use_case == use_case)).first()
    return row is not None and version in (
        VersionRef(row.champion_version, row.champion_digest),
        VersionRef(row.previous_version, row.previous_digest),
    )


def ask(
    connection: Connection,
    actor: Actor,
    use_case: str,
    version: int,
    reason: str = "",
    break_glass: bool = False,
    now: datetime | None = None,
) -> Approval:
    """`request` inside the caller's transaction."""
    now = now or database_now(connection)
    found = registered_versions.expect(connection, use_case, version)
    state = next(iter(_asked(connection, use_case, found.ref)), None)
    event = Request(str(uuid6.uuid7()), actor, found, reason, break_glass)
    return _write(connection, state, decide(state, event, policy_of(connection, use_case), now), actor, now)


def end_unapproved(connection: Connection, broken: Approval, reason: str, now: datetime) -> Approval:
    """Reject in the system's name what the glass was broken for, inside the caller's transaction."""
    ended = replace(broken, state="rejected", decided_by=SYSTEM.name, decided_at=now, reason=reason)
    return _write(connection, broken, ended, SYSTEM, now)


def unapproved(connection: Connection, use_case: str, version: VersionRef) -> Approval | None:
    """The request that was made when the glass was broken for `version`, if nobody has decided since."""
    for approval in _asked(connection, use_case, version):
        if approval.decided_by is not None:
            return None
        if approval.break_glass:
            return approval
    return None


def _give(
    store: ControlStore,
    kind: Literal["approved", "rejected", "revoked"],
    actor: Actor,
    use_case: str,
    version: int,
    reason: str,
    seen: str | None,
    now: datetime | None,
) -> Approval:
    with store.transaction() as connection:
        now = now or database_now(connection)
        found = registered_versions.expect(connection, use_case, version)
        state = next(iter(_asked(connection, use_case, found.ref)), None)
        earlier = tuple(_asked_for_bytes(connection, use_case, found.evidence.model))
        verdict = Verdict(kind, actor, found, reason, seen, earlier)
        return _write(connection, state, decide(state, verdict, policy_of(connection, use_case), now), actor, now)


def _write(connection: Connection, before: Approval | None, after: Approval, actor: Actor, now: datetime) -> Approval:
    """Write the state and its event. What else is loud: a version that went live without anybody's approval."""
    values = asdict(after) | {"reason": plain(after.reason)}
    evidence = values.pop("evidence")
    values |= {f"{part}_digest": digest for part, digest in evidence.items()}
    if before is not None and before.id == after.id:
        connection.execute(update(approvals).where(approvals.c.id == after.id).values(values))
    else:
        connection.execute(insert(approvals).values(values))
        before = None
    severity: Severity | None = "critical" if after.break_glass and after.state != "approved" else None
    record(
        connection,
        f"approval.{after.state}",
        actor,
        f"{after.use_case}@{after.version}",
        after.use_case,
        before=before and asdict(before),
        after=asdict(after),
        reason=after.reason,
        now=now,
        severity=severity,
    )
    return after


def _asked(connection: Connection, use_case: str, version: VersionRef) -> list[Approval]:
    """What was asked for a version, the newest first."""
    return [one for one in _asked_for_bytes(connection, use_case, version.digest) if one.version == version.version]


def _asked_for_bytes(connection: Connection, use_case: str, digest: str) -> list[Approval]:
    """What was asked for a model, whatever number it was registered under, the newest first."""
    query = select(approvals).where(approvals.c.use_case == use_case, approvals.c.model_digest == digest)
    return [_approval(row) for row in connection.execute(query.order_by(approvals.c.id.desc()))]


def _valid(connection: Connection, use_case: str, version: VersionRef, now: datetime) -> Approval | None:
    asked = _asked(connection, use_case, version)
    return valid_among(asked, _evidence(connection, use_case, version), now)


def _evidence(connection: Connection, use_case: str, version: VersionRef) -> Evidence | None:
    """What was registered as `version`; None if that was another model, or nothing, or is retired."""
    known = registered_versions.find(connection, use_case, version.version)
    if known is None or known.retired_at is not None or known.evidence.model != version.digest:
        return None
    return known.evidence


def newest_approved(connection: Connection, use_case: str, now: datetime) -> Approval | None:
    """The approval of the highest version that may go live now."""
    query = select(versions.c.version, versions.c.model_digest).where(versions.c.use_case == use_case)
    for row in connection.execute(query.order_by(versions.c.version.desc())).all():
        found = _valid(connection, use_case, VersionRef(row.version, row.model_digest), now)
        if found is not None:
            return found
    return None


def _approval(row: Row[Any]) -> Approval:
    evidence = Evidence(row.model_digest, row.evaluation_digest, row.materials_digest)
    return Approval(
        row.id,
        row.use_case,
        row.version,
        evidence,
        row.author,
        row.state,
        row.requested_by,
        row.requested_at,
        row.expires_at,
        row.break_glass,
        row.decided_by,
        row.decided_at,
        row.reason,
        row.author_id,
        row.requested_by_id,
        row.decided_by_id,
    )


def _name(version: RegisteredVersion) -> str:
    return f"Version {version.version} of {version.use_case}"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
