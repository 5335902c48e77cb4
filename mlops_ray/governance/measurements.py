"""Measurements: a version's gates judged again, because one sample was slow or a service was away.

Both results stay in the audit log, and the later counts. What somebody has approved, or was asked to, stays what it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError
from mlops_ray.governance import versions as registered_versions
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.events import Actor
from mlops_ray.governance.tables import approvals, events
from mlops_ray.governance.versions import Evidence, GateOutcome, RegisteredVersion

ROLES = ("operate", "approve", "admin")
# In the payload of `version.registered`: the rules that the version was judged by, as text.
RULES = "gates"


def expect_may_measure(
    store: ControlStore, actor: Actor, use_case: str, version: int, rules: Sequence[str], reason: str
) -> None:
    """Raise what `record_measurement` would, before anything is measured."""
    with store.reading() as connection:
        _expect_may(connection, actor, use_case, version, rules, reason)


def record_measurement(
    store: ControlStore,
    actor: Actor,
    use_case: str,
    version: int,
    evidence: Evidence,
    gates: Iterable[GateOutcome],
    rules: Sequence[str],
    reason: str,
    payload: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> RegisteredVersion:
    """Record other results of a version's gates, with `version.measured` and an event for each gate.

    evidence: with the digests as measured now. rules: the gates as declared now, which must be those that the version
    was registered with. Raises ConfigurationError without a reason or for an unknown version, ForbiddenError for who
    carries none of ROLES or for a retired version, ConflictError if the rules or the model are others, or if somebody
    has approved, or was asked to approve, on evidence that this would change.
    """
    with store.transaction() as connection:
        known = _expect_may(connection, actor, use_case, version, rules, reason)
        if known.evidence.model != evidence.model:
            raise ConflictError(
                f"Version {version} of {use_case} was registered with the model {known.evidence.model}, not "
                f"{evidence.model}, which was measured."
            )
        if evidence.evaluation != known.evidence.evaluation:
            _expect_nobody_relies_on(connection, known)
        moment = now or database_now(connection)
        return registered_versions.measure_again(
            connection, actor, known, evidence, gates, reason, payload or {}, moment
        )


def _expect_may(
    connection: Connection, actor: Actor, use_case: str, version: int, rules: Sequence[str], reason: str
) -> RegisteredVersion:
    if not reason.strip():
        raise ConfigurationError("Say why the version is measured again: the reason goes into the audit log.")
    known = registered_versions.expect(connection, use_case, version)
    if not set(ROLES).intersection(actor.roles):
        raise ForbiddenError(
            f"{actor.name} carries none of the roles {', '.join(ROLES)}, of which measuring a version needs one. Set "
            f"MLOPS_RAY_API_KEY to a key that does."
        )
    known.expect_in_use()
    by = judged_by(connection, use_case, version)
    if by is None:
        raise ConflictError(
            f"By which rules version {version} of {use_case} was judged is not on record. Register the model again."
        )
    if list(rules) != by:
        others = [one for one in by if one not in rules] + [one for one in rules if one not in by]
        raise ConflictError(
            f"Version {version} of {use_case} was judged by other gates than the use case has now "
            f"({', '.join(others) or 'another order'}). Other rules need another version: register the model again."
        )
    return known


def judged_by(connection: Connection, use_case: str, version: int) -> list[str] | None:
    """The gates by which a version was judged when it was registered, as text; None if that is not on record."""
    query = select(events.c.payload).where(
        events.c.subject == f"{use_case}@{version}", events.c.type == "version.registered"
    )
    payload = connection.execute(query.order_by(events.c.seq)).scalar()
    return payload.get(RULES) if payload else None


def _expect_nobody_relies_on(connection: Connection, version: RegisteredVersion) -> None:
    """Raise ConflictError if an approval of what the version is now was given or asked for, and not taken back."""
    query = select(approvals.c.state, approvals.c.decided_by, approvals.c.requested_by).where(
        approvals.c.use_case == version.use_case,
        approvals.c.version == version.version,
        approvals.c.model_digest == version.evidence.model,
        approvals.c.evaluation_digest == version.evidence.evaluation,
    )
    newest = connection.execute(query.order_by(approvals.c.id.desc()).limit(1)).first()
    if newest is None or newest.state in ("rejected", "revoked"):
        return
    if newest.state == "expired" and newest.decided_by is None:
        return
    who = f"{newest.decided_by} has approved" if newest.decided_by else f"{newest.requested_by} has asked to approve"
    raise ConflictError(
        f"{who} version {version.version} of {version.use_case} as it was measured, and measured now it is another "
        f"(the champion or the rows are). Reject or revoke the approval first, or register the model again."
    )
