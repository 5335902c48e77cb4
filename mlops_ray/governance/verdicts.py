"""Verdicts: what a request for the approval of a version becomes when people decide, and when its time is over."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError
from mlops_ray.governance.assents import Assent, expect_another, is_same, may_be
from mlops_ray.governance.events import Actor, plain
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.versions import Evidence, RegisteredVersion, VersionRef

State = Literal["requested", "approved", "rejected", "revoked", "expired"]


@dataclass(frozen=True)
class Report:
    """What somebody found, such as a validator, in a file. digest: SHA-256 of its bytes, which lie in the artifacts."""

    name: str
    digest: str
    bytes: int
    by: str
    by_id: str | None
    at: datetime


@dataclass(frozen=True)
class Approval:
    """A request and what became of it. break_glass: the version went live before anybody approved it.

    decided_by, decided_at: of the last verdict, None before. reason: of the last change. The ids are of the people and
    services behind the names, None where a row is older than ids. assents: who has approved, in their order; while
    they are fewer than the use case demands, the request waits. reports: what was attached for those who decide.
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
    assents: tuple[Assent, ...] = ()
    reports: tuple[Report, ...] = ()

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
    """Somebody decides. version: as it was registered and stands now. seen, approval: the model digest, and the id of
    the request, that they looked at.

    earlier: all that was ever asked for these bytes, whatever became of it. registered: each version that these bytes
    were registered as, by whomever. condition: what an approver wants to be
    kept to. givers: who has given the actor the right to decide in their place, with the roles that count there.
    """

    kind: Literal["approved", "rejected", "revoked"]
    actor: Actor
    version: RegisteredVersion
    reason: str = ""
    seen: str | None = None
    approval: str | None = None
    earlier: tuple[Approval, ...] = ()
    registered: tuple[RegisteredVersion, ...] = ()
    condition: str = ""
    givers: tuple[Actor, ...] = ()


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
    givers = tuple(giver for giver in event.givers if _carries(giver, policy))
    if not _carries(actor, policy) and not givers:
        raise ForbiddenError(f"{actor.name} does not carry the role {policy.role!r}, which {event.kind} needs.")
    if event.kind != "approved" and not event.reason.strip():
        raise ConfigurationError(f"Say why {name} is {event.kind}: the reason goes into the audit log.")
    if state is None:
        raise ConflictError(f"Nobody has asked for the approval of {name}. Ask for it first.")
    if event.approval is not None and event.approval != state.id:
        raise ConflictError(
            f"Nothing was changed: {name} was asked about anew by {state.requested_by}, at "
            f"{_moment(state.requested_at)}, and that request ({state.id}) is {state.state}. Look at it, and decide on "
            f"that."
        )
    if event.kind == "approved":
        event.version.expect_in_use()
        _expect_other_eyes(state, event, policy, actor)
    revoking = event.kind == "revoked"
    open_states = ("approved", "expired") if revoking else ("requested",)
    # What the glass was broken for serves without a verdict: it can be taken back after its request has ended as well.
    if state.state not in open_states or (revoking and state.decided_by is None and not state.break_glass):
        by = f" by {state.decided_by}" if state.decided_by else ""
        when = f", at {_moment(state.decided_at)}" if state.decided_at else ""
        again = " Ask for approval again." if state.state == "expired" else ""
        raise ConflictError(f"{name} cannot be {event.kind}: its approval is {state.state}{by} already{when}.{again}")
    if not revoking and now >= state.expires_at:
        raise ConflictError(f"The request for {name} ended at {_moment(state.expires_at)}. Ask for approval again.")
    if not revoking and event.version.evidence != state.evidence:
        raise ConflictError(f"{name} was changed since its approval was asked for. Ask for approval again.")
    if event.seen is not None and event.seen != state.evidence.model:
        raise ConflictError(f"{name} has the digest {state.evidence.model}, not {event.seen[:64]}.")
    if event.kind == "approved":
        state = replace(state, assents=(*state.assents, _assent(state, event, policy, givers, now)))
        if len(state.assents) < (policy.min_approvers or 1):
            return replace(state, reason=event.reason)
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


def _carries(actor: Actor, policy: Policy) -> bool:
    return bool({policy.role, "admin"}.intersection(actor.roles))


def _assent(state: Approval, event: Verdict, policy: Policy, givers: tuple[Actor, ...], now: datetime) -> Assent:
    """With the actor's own right, else with that of the first giver who might approve this version as well.

    A right that was given counts no further than the giver's own: not on what they made, and once.
    """
    actor, what = event.actor, _name(event.version).lower()
    expect_another(state.assents, [actor], what)
    giver = None if _carries(actor, policy) else _giver(state, event, policy, givers)
    return Assent(
        actor.name,
        actor.id or None,
        now,
        plain(event.reason),
        plain(event.condition),
        giver.name if giver else None,
        giver.id if giver else None,
    )


def _giver(state: Approval, event: Verdict, policy: Policy, givers: tuple[Actor, ...]) -> Actor:
    refused: Exception | None = None
    for giver in givers:
        try:
            _expect_other_eyes(state, event, policy, giver)
            expect_another(state.assents, [giver], _name(event.version).lower())
            return giver
        except (ForbiddenError, ConflictError) as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _expect_other_eyes(state: Approval, event: Verdict, policy: Policy, person: Actor) -> None:
    """Asking again in the ordinary way does not make another person of who broke the glass, and registering the same
    bytes again none of their author."""
    if not policy.four_eyes:
        return
    name = _name(event.version).lower()
    authored: tuple[Approval | RegisteredVersion, ...] = (state, *event.registered)
    for made in authored:
        if may_be(person, made.author, made.author_id):
            known = is_same(person, made.author, made.author_id)
            said = "is" if known else "may be the one who was erased from the audit log as"
            of = name if made.version == state.version else f"version {made.version}, which has the bytes of {name}"
            raise ForbiddenError(f"{person.name} {said} the author of {of}. Somebody else has to approve.")
    broken = [one for one in (state, *event.earlier) if one.break_glass]
    if any(may_be(person, one.requested_by, one.requested_by_id) for one in broken):
        raise ForbiddenError(f"{person.name} broke the glass for {name}. Somebody else has to approve.")


def _name(version: RegisteredVersion) -> str:
    return f"Version {version.version} of {version.use_case}"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
