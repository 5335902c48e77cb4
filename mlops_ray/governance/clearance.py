"""Clearance: which version may go live, and which a replica may load."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from sqlalchemy import Connection, select

from mlops_ray.errors import ForbiddenError
from mlops_ray.governance import versions as registered_versions
from mlops_ray.governance.approvals import asked_for
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.measurements import judged_by
from mlops_ray.governance.policies import in_force
from mlops_ray.governance.signatures import expect_signed
from mlops_ray.governance.tables import endpoints, versions
from mlops_ray.governance.verdicts import Approval
from mlops_ray.governance.versions import Evidence, RegisteredVersion, VersionRef


def valid_approval(store: ControlStore, use_case: str, version: VersionRef, now: datetime) -> Approval | None:
    """The approval with which `version` may go live now, None if there is none."""
    with store.reading() as connection:
        return _valid(connection, use_case, version, now)


def expect_admitted(connection: Connection, use_case: str, version: VersionRef) -> None:
    """Raise ForbiddenError unless `version` may go live: as it was registered, in use, no blocking gate failed, not
    rejected or revoked, and if need be signed, judged by the gates in force and approved."""
    known = _expect_as_registered(connection, use_case, version)
    name = f"Version {version.version} of {use_case}"
    if known is not None and known.failed_gates:
        raise ForbiddenError(f"{name} did not pass {', '.join(known.failed_gates)}, so it may not go live.")
    _expect_not_refused(version, asked_for(connection, use_case, version), "go live")
    rules = in_force(connection, use_case)
    if rules is not None and rules.policy.signed:
        expect_signed(connection, use_case, version)
    if rules is None or not rules.policy.required:
        return
    if known is not None and rules.gates is not None:
        _expect_judged_by(connection, known, rules.gates)
    if _valid(connection, use_case, version, database_now(connection)) is None:
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
    asked = asked_for(connection, use_case, version)
    _expect_not_refused(version, asked, "serve")
    rules = in_force(connection, use_case)
    if rules is None or not rules.policy.required or servable_among(asked, _evidence(connection, use_case, version)):
        return
    nobody_decided = all(one.decided_at is None or one.decided_at < rules.since for one in asked)
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
            f"Version {known.version} of {use_case} was registered with the digest {known.evidence.model[:12]}, not "
            f"{version.digest[:12]}. "
            f"Put the registered bytes back, or register these as a new version."
        )
    return known


def _expect_judged_by(connection: Connection, version: RegisteredVersion, gates: tuple[str, ...]) -> None:
    by = judged_by(connection, version.use_case, version.version)
    if by is None or tuple(by) != gates:
        others = [gate for gate in gates if gate not in (by or ())] + [gate for gate in by or () if gate not in gates]
        raise ForbiddenError(
            f"Version {version.version} of {version.use_case} was judged by other gates than are in force "
            f"({', '.join(others) or 'another order'}), so it may not go live. Let somebody approve the change "
            f"(`mlops-ray approvals rules`), or register the model again with the gates in force."
        )


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


def unapproved(connection: Connection, use_case: str, version: VersionRef) -> Approval | None:
    """The request that was made when the glass was broken for `version`, if nobody has decided since."""
    for approval in asked_for(connection, use_case, version):
        if approval.decided_by is not None:
            return None
        if approval.break_glass:
            return approval
    return None


def _valid(connection: Connection, use_case: str, version: VersionRef, now: datetime) -> Approval | None:
    asked = asked_for(connection, use_case, version)
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
        ref = VersionRef(row.version, row.model_digest)
        found = _valid(connection, use_case, ref, now)
        if found is not None:
            with suppress(ForbiddenError):
                expect_admitted(connection, use_case, ref)
                return found
    return None


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
