"""Approvals: an authorised person says that exactly these bytes may be used.

An approval is about a version and its digests. Whoever changes a byte of the model, its evaluation or its bill of
materials has other digests, and no approval; the same bytes under another number have their own. It ends when its time
is over: then nothing new may be begun with it, but what is live stays. Only a revocation takes that away, and it holds
whatever the use case demands later.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import uuid6
from sqlalchemy import Connection, Row, func, insert, select, update

from mlops_ray.errors import ConflictError, ForbiddenError
from mlops_ray.governance import assents
from mlops_ray.governance import versions as registered_versions
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.delegations import givers_to
from mlops_ray.governance.events import SYSTEM, Actor, Severity, plain, record
from mlops_ray.governance.policies import Policy, policy_of
from mlops_ray.governance.tables import approvals
from mlops_ray.governance.verdicts import Approval, Lapse, Report, Request, Verdict, decide
from mlops_ray.governance.versions import Evidence, VersionRef

REPORTERS = ("operate", "approve", "audit", "admin")
MAX_REPORTS = 20  # each event of a request tells of all


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
    condition: str = "",
    approval: str | None = None,
) -> Approval:
    """Approve what was asked for; while others have to as well, the request waits for them.

    seen, approval: the digest, and the id of the request, that the actor looked at, to refuse another one. condition:
    what has to be kept to, which is recorded and shown. Who has no right of their own decides in the place of somebody
    who has given them theirs.

    Raises ForbiddenError for an author of these bytes and for who lacks the role; ConflictError if nobody asked, twice,
    after the end, or if version or request is another than was looked at; ConfigurationError if there is no such
    version.
    """
    return _give(store, "approved", actor, use_case, version, reason, seen, approval, now, condition)


def reject(
    store: ControlStore,
    actor: Actor,
    use_case: str,
    version: int,
    reason: str,
    now: datetime | None = None,
    seen: str | None = None,
    approval: str | None = None,
) -> Approval:
    """Refuse what was asked for; errors as of `approve`, and ConfigurationError without a reason."""
    return _give(store, "rejected", actor, use_case, version, reason, seen, approval, now)


def revoke(
    store: ControlStore,
    actor: Actor,
    use_case: str,
    version: int,
    reason: str,
    now: datetime | None = None,
    seen: str | None = None,
    approval: str | None = None,
) -> Approval:
    """Take an approval back: rollouts of the version end, and replicas do not load it again. Errors as of `reject`."""
    return _give(store, "revoked", actor, use_case, version, reason, seen, approval, now)


def expire(store: ControlStore, now: datetime) -> list[Approval]:
    """Mark every request and approval whose time is over, each with its event. Call it at an interval."""
    over = approvals.c.state.in_(("requested", "approved")) & (approvals.c.expires_at <= now)
    with store.reading() as connection:  # most of the time there is none, and a transaction would lock out others
        if connection.execute(select(approvals.c.id).where(over).limit(1)).first() is None:
            return []
    with store.transaction() as connection:
        found = [_approval(row) for row in connection.execute(select(approvals).where(over).order_by(approvals.c.id))]
        return [_write(connection, state, decide(state, Lapse(), Policy(), now), SYSTEM, now) for state in found]


def list_approvals(
    store: ControlStore,
    use_case: str | None = None,
    limit: int | None = 1000,
    sees: Callable[[str], bool] = lambda use_case: True,
) -> list[Approval]:
    """Requests and what became of them, the newest first: all that wait, and of the rest the newest; limit: None for
    all. sees: of which use cases; what others have asked for takes nobody's place."""
    with store.reading() as connection:
        known = connection.execute(select(approvals.c.use_case).distinct()).scalars()
        names = [name for name in known if use_case in (None, name) and sees(name)]
        of_these = select(approvals).where(approvals.c.use_case.in_(names)).order_by(approvals.c.id.desc())
        newest = of_these.with_only_columns(approvals.c.id).limit(limit)
        waits = approvals.c.state == "requested"
        shown = waits if limit == 0 else waits | approvals.c.id.in_(newest)
        return [_approval(row) for row in connection.execute(of_these.where(shown))]


def newest_states(store: ControlStore, use_case: str) -> dict[int, str]:
    """What became of the newest request about each version of a use case for which anybody asked."""
    query = select(approvals.c.version, approvals.c.state).where(approvals.c.use_case == use_case)
    with store.reading() as connection:
        return {row.version: row.state for row in connection.execute(query.order_by(approvals.c.id))}


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
    state = next(iter(asked_for(connection, use_case, found.ref)), None)
    event = Request(_new_id(connection, use_case), actor, found, reason, break_glass)
    return _write(connection, state, decide(state, event, policy_of(connection, use_case), now), actor, now)


def _new_id(connection: Connection, use_case: str) -> str:
    """Behind all others of the use case, whatever this machine's clock says: of two requests the later one counts."""
    newest = connection.execute(select(func.max(approvals.c.id)).where(approvals.c.use_case == use_case)).scalar()
    made = str(uuid6.uuid7())
    return made if newest is None or made > newest else str(UUID(int=UUID(newest).int + 1))


def end_unapproved(connection: Connection, broken: Approval, reason: str, now: datetime) -> Approval:
    """Reject in the system's name what the glass was broken for, inside the caller's transaction."""
    ended = replace(broken, state="rejected", decided_by=SYSTEM.name, decided_at=now, reason=reason)
    return _write(connection, broken, ended, SYSTEM, now)


def _give(
    store: ControlStore,
    kind: Literal["approved", "rejected", "revoked"],
    actor: Actor,
    use_case: str,
    version: int,
    reason: str,
    seen: str | None,
    approval: str | None,
    now: datetime | None,
    condition: str = "",
) -> Approval:
    with store.transaction() as connection:
        now = now or database_now(connection)
        found = registered_versions.expect(connection, use_case, version)
        state = next(iter(asked_for(connection, use_case, found.ref)), None)
        earlier = tuple(asked_for_bytes(connection, use_case, found.evidence.model))
        registered = tuple(registered_versions.registered_with(connection, use_case, found.evidence.model))
        givers = givers_to(connection, actor, use_case, now)
        verdict = Verdict(kind, actor, found, reason, seen, approval, earlier, registered, condition, givers)
        after = decide(state, verdict, policy_of(connection, use_case), now)
        return _write(connection, state, after, actor, now, "agreed" if after.state == "requested" else None)


def attach(
    store: ControlStore,
    actor: Actor,
    use_case: str,
    version: int,
    report: Report,
    now: datetime | None = None,
) -> Approval:
    """Attach a report, whose bytes are stored, to the newest request for a version; the same one twice changes nothing.

    Raises ForbiddenError for who carries none of REPORTERS and decides in nobody's place, ConflictError if nobody has
    asked, or it was rejected, revoked or has ended.
    """
    with store.transaction() as connection:
        now = now or database_now(connection)
        found = registered_versions.expect(connection, use_case, version)
        if not set(REPORTERS).intersection(actor.roles) and not givers_to(connection, actor, use_case, now):
            raise ForbiddenError(f"{actor.name} carries none of the roles {', '.join(REPORTERS)} on {use_case}.")
        state = next(iter(asked_for(connection, use_case, found.ref)), None)
        if state is None or state.state not in ("requested", "approved"):
            stands = "nobody has asked for its approval" if state is None else f"its approval is {state.state}"
            raise ConflictError(f"Version {version} of {use_case}: {stands}. Ask for its approval first.")
        if any((one.name, one.digest) == (report.name, report.digest) for one in state.reports):
            return state
        if len(state.reports) >= MAX_REPORTS:
            raise ConflictError(f"Version {version} of {use_case} has {MAX_REPORTS} reports, which is the limit.")
        after = replace(state, reports=(*state.reports, replace(report, at=now)))
        return _write(connection, state, after, actor, now, "reported")


def _write(
    connection: Connection,
    before: Approval | None,
    after: Approval,
    actor: Actor,
    now: datetime,
    what: str | None = None,
) -> Approval:
    """Write the state and its event, which is named after the state, or after what else happened. What else is loud: a
    version that went live without anybody's approval."""
    values = asdict(after) | {"reason": plain(after.reason)}
    evidence = values.pop("evidence")
    values |= {"assents": plain(values["assents"]), "reports": plain(values["reports"])}
    values |= {f"{part}_digest": digest for part, digest in evidence.items()}
    if before is not None and before.id == after.id:
        connection.execute(update(approvals).where(approvals.c.id == after.id).values(values))
    else:
        connection.execute(insert(approvals).values(values))
        before = None
    severity: Severity | None = "critical" if after.break_glass and after.state != "approved" else None
    record(
        connection,
        f"approval.{what or after.state}",
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


def asked_for(connection: Connection, use_case: str, version: VersionRef) -> list[Approval]:
    """What was asked for a version, the newest first."""
    return [one for one in asked_for_bytes(connection, use_case, version.digest) if one.version == version.version]


def asked_for_bytes(connection: Connection, use_case: str, digest: str) -> list[Approval]:
    """What was asked for a model, whatever number it was registered under, the newest first."""
    query = select(approvals).where(approvals.c.use_case == use_case, approvals.c.model_digest == digest)
    return [_approval(row) for row in connection.execute(query.order_by(approvals.c.id.desc()))]


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
        assents.from_json(row.assents),
        tuple(Report(**{**value, "at": datetime.fromisoformat(value["at"])}) for value in row.reports),
    )
