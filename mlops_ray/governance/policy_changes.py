"""Changes of a policy, of the gates or of monitoring: where approvals are demanded, they wait for somebody else's.

Whoever could write a laxer rule alone would need nobody's approval for a version. What holds stays in force meanwhile.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

import uuid6
from sqlalchemy import Connection, Row, insert, select, update

from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError
from mlops_ray.governance import assents
from mlops_ray.governance.assents import Assent, expect_another, is_same, may_be
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.events import Actor, plain, record
from mlops_ray.governance.monitoring_definitions import newest_definition, write_definition
from mlops_ray.governance.policies import InForce, Policy, in_force, policy_of, write_policy
from mlops_ray.governance.tables import policy_changes
from mlops_ray.governance.versions import expect_name


@dataclass(frozen=True)
class PolicyChange:
    """What somebody wants to hold instead, and what became of it. policy: None for demanding nothing any more.

    gates: by which versions shall be judged, as text; None where nobody has said. assents: who has agreed so far.
    decided_by, decided_at: None while it waits. monitoring: None for a change of the rules; of one of monitoring the
    `definition` that is wanted (None: as sealed) and the `revision` that it was asked for at. Policy and gates are then
    those that held, so that the release before, which knows of no monitoring here, could only write them again.
    """

    id: str
    use_case: str
    policy: Policy | None
    gates: tuple[str, ...] | None
    state: Literal["requested", "in_force", "rejected"]
    requested_by: str
    requested_by_id: str | None
    requested_at: datetime
    expires_at: datetime
    assents: tuple[Assent, ...] = ()
    decided_by: str | None = None
    decided_by_id: str | None = None
    decided_at: datetime | None = None
    reason: str = ""
    monitoring: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; what is not demanded is left out of the policy."""
        shown = {name: plain(value) for name, value in vars(self).items() if name not in ("policy", "assents")}
        return shown | {"policy": self.policy and self.policy.to_json(), "assents": assents.to_json(self.assents)}


def set_policy(
    store: ControlStore,
    actor: Actor,
    use_case: str,
    policy: Policy | None,
    gates: tuple[str, ...] | None = None,
    reason: str = "",
    now: datetime | None = None,
) -> PolicyChange | None:
    """Let this hold for a use case; None as policy for demanding nothing, None as gates for those that there are.

    Where approvals are demanded it is asked for instead, and returned until it is in force; another request that waits
    is rejected, the same one stands. What holds already changes nothing. Raises ForbiddenError for who carries neither
    the role `operate` nor the approver's on the use case.
    """
    expect_name(use_case)
    with store.transaction() as connection:
        now = now or database_now(connection)
        stored = in_force(connection, use_case)
        before = stored.policy if stored else Policy()
        if not {"operate", "admin", before.role}.intersection(actor.roles):
            raise ForbiddenError(
                f"{actor.name} carries neither the role 'operate' nor {before.role!r} on {use_case}, of which changing "
                f"its rules needs one. Set MLOPS_RAY_API_KEY to a key that does."
            )
        gates = stored.gates if stored and gates is None else gates
        if _is_held(stored, policy, gates):
            return None
        learned = stored is not None and stored.gates is None and policy == before  # nobody has said which there are
        if not before.required or learned:
            write_policy(connection, actor, use_case, policy, gates, now, reason)
            return None
        change = ask(connection, actor, wanted_change(actor, use_case, policy, gates, before, reason, now), before)
        return None if change.state == "in_force" else change


def wanted_change(
    actor: Actor,
    use_case: str,
    policy: Policy | None,
    gates: tuple[str, ...] | None,
    rules: Policy,
    reason: str,
    now: datetime,
    monitoring: Mapping[str, Any] | None = None,
) -> PolicyChange:
    """What `actor` wants, as a request that waits as long as the policy in force, `rules`, says."""
    return PolicyChange(
        str(uuid6.uuid7()),
        use_case,
        policy,
        gates,
        "requested",
        actor.name,
        actor.id or None,
        now,
        now + timedelta(seconds=rules.expires_after_s),
        reason=reason,
        monitoring=monitoring,
    )


def ask(connection: Connection, actor: Actor, wanted: PolicyChange, rules: Policy) -> PolicyChange:
    """Ask for a change, inside the caller's transaction, and give what became of it. One of the same kind that waits is
    rejected, or stands if it is the same. rules: the policy in force; where one pair of eyes is enough by it, an
    approver's own counts."""
    now, earlier = wanted.requested_at, _newest_requested(connection, wanted.use_case, wanted.monitoring is not None)
    if earlier is not None:
        if _content(earlier) == _content(wanted) and now < earlier.expires_at:
            return earlier
        _rejected(connection, actor, earlier, "another change is asked for instead", now)
    _write(connection, None, wanted, "policy.requested", actor, now)
    if not rules.four_eyes and {rules.role, "admin"}.intersection(actor.roles):
        return _agreed(connection, actor, wanted, rules, wanted.reason, now)
    return wanted


def _content(change: PolicyChange) -> tuple[object, ...]:
    return change.policy, change.gates, change.monitoring


def approve_change(
    store: ControlStore, actor: Actor, id: str, reason: str = "", now: datetime | None = None
) -> PolicyChange:
    """Agree to a change; with the last person whom the policy in force demands, the change is in force.

    Raises ForbiddenError for who asked for it and for who lacks the approver's role, ConflictError for one person
    twice, after its end, once it is decided, and where monitoring is at another revision than when it was asked for;
    ConfigurationError if there is no such change.
    """
    with store.transaction() as connection:
        now = now or database_now(connection)
        change, policy = _open(connection, id, now)
        _expect_role(actor, change, policy)
        if policy.four_eyes and may_be(actor, change.requested_by, change.requested_by_id):
            raise ForbiddenError(f"{actor.name} has asked for this change of {_what(change)}. Somebody else approves.")
        _expect_same_revision(connection, change)
        return _agreed(connection, actor, change, policy, reason, now)


def reject_change(store: ControlStore, actor: Actor, id: str, reason: str, now: datetime | None = None) -> PolicyChange:
    """Refuse a change; who asked for it takes it back so, with any role. Errors as of `approve_change`, and
    ConfigurationError without a reason."""
    if not reason.strip():
        raise ConfigurationError("Say why the change is rejected: the reason goes into the audit log.")
    with store.transaction() as connection:
        now = now or database_now(connection)
        change, policy = _open(connection, id, now)
        if not is_same(actor, change.requested_by, change.requested_by_id):
            _expect_role(actor, change, policy)
        return _rejected(connection, actor, change, reason, now)


def list_changes(
    store: ControlStore, use_case: str | None = None, limit: int = 1000, state: str | None = None
) -> list[PolicyChange]:
    """What was asked for and what became of it, the newest first. state: None for all."""
    query = select(policy_changes).order_by(policy_changes.c.id.desc()).limit(limit)
    if use_case is not None:
        query = query.where(policy_changes.c.use_case == use_case)
    if state is not None:
        query = query.where(policy_changes.c.state == state)
    with store.reading() as connection:
        return [_change(row) for row in connection.execute(query)]


def change_named(connection: Connection, id: str) -> PolicyChange:
    """Raises ConfigurationError if there is no such change."""
    row = connection.execute(select(policy_changes).where(policy_changes.c.id == plain(id))).first()
    if row is None:
        raise ConfigurationError(f"There is no change of rules {id[:64]!r}. `mlops-ray approvals rules` lists them.")
    return _change(row)


def waiting(connection: Connection, use_case: str, now: datetime) -> PolicyChange | None:
    """The change of the rules that waits for somebody and can still be approved."""
    found = _newest_requested(connection, use_case, of_monitoring=False)
    return found if found and now < found.expires_at else None


def _is_held(stored: InForce | None, policy: Policy | None, gates: tuple[str, ...] | None) -> bool:
    if stored is None or policy is None:
        return stored is None and policy is None
    return (stored.policy, stored.gates) == (policy, gates)


def _agreed(
    connection: Connection, actor: Actor, change: PolicyChange, policy: Policy, reason: str, now: datetime
) -> PolicyChange:
    expect_another(change.assents, [actor], f"this change of {_what(change)}")
    given = (*change.assents, Assent(actor.name, actor.id or None, now, plain(reason)))
    after = replace(change, assents=given, reason=reason)
    if len(given) >= (policy.min_approvers or 1):
        who = actor.id or None
        after = replace(after, state="in_force", decided_by=actor.name, decided_by_id=who, decided_at=now)
    _write(connection, change, after, "policy.approved", actor, now)
    if after.state == "in_force":
        _put_in_force(connection, actor, change, reason, now)
    return after


def _put_in_force(connection: Connection, actor: Actor, change: PolicyChange, reason: str, now: datetime) -> None:
    name, monitoring = change.use_case, change.monitoring
    if monitoring is None:
        stored, gates = in_force(connection, name), change.gates
        gates = stored.gates if stored and gates is None else gates  # which may have been learned meanwhile
        write_policy(connection, actor, name, change.policy, gates, now, reason, change.id)
    else:
        write_definition(connection, actor, name, monitoring["definition"], now, reason or change.reason, change.id)


def _rejected(connection: Connection, actor: Actor, change: PolicyChange, reason: str, now: datetime) -> PolicyChange:
    after = replace(
        change,
        state="rejected",
        decided_by=actor.name,
        decided_by_id=actor.id or None,
        decided_at=now,
        reason=reason,
    )
    _write(connection, change, after, "policy.rejected", actor, now)
    return after


def _open(connection: Connection, id: str, now: datetime) -> tuple[PolicyChange, Policy]:
    """The change, if it can be decided, and the policy in force, by which it is judged."""
    change = change_named(connection, id)
    if change.state != "requested":
        when = f", at {change.decided_at:%Y-%m-%d %H:%M:%S} UTC" if change.decided_at else ""
        raise ConflictError(
            f"This change of {_what(change)} is {_SAID[change.state]} by {change.decided_by} already{when}."
        )
    if now >= change.expires_at:
        again = "Run the pipeline again" if change.monitoring is None else "Set it again"
        raise ConflictError(
            f"The request to change {_what(change)} ended at {change.expires_at:%Y-%m-%d %H:%M:%S} UTC. {again} to ask "
            f"anew."
        )
    return change, policy_of(connection, change.use_case)


def _expect_role(actor: Actor, change: PolicyChange, policy: Policy) -> None:
    if not {policy.role, "admin"}.intersection(actor.roles):
        raise ForbiddenError(
            f"{actor.name} does not carry the role {policy.role!r} on {change.use_case}, which deciding on a change of "
            f"its rules or monitoring needs."
        )


def _expect_same_revision(connection: Connection, change: PolicyChange) -> None:
    if change.monitoring is None:
        return
    found, asked = newest_definition(connection, change.use_case), change.monitoring["revision"]
    if (number := found.revision if found else 0) != asked:
        raise ConflictError(
            f"Monitoring of {change.use_case} is at revision {number}, and this change was asked for at {asked}. "
            f"Reject it, look at what holds now, and set it again."
        )


_SAID = {"in_force": "put in force", "rejected": "rejected"}


def _what(change: PolicyChange) -> str:
    return f"the {'rules' if change.monitoring is None else 'monitoring'} of {change.use_case}"


def _newest_requested(connection: Connection, use_case: str, of_monitoring: bool) -> PolicyChange | None:
    query = select(policy_changes).where(policy_changes.c.use_case == use_case, policy_changes.c.state == "requested")
    what = policy_changes.c.monitoring
    query = query.where(what.is_not(None) if of_monitoring else what.is_(None))
    row = connection.execute(query.order_by(policy_changes.c.id.desc()).limit(1)).first()
    return None if row is None else _change(row)


def _write(
    connection: Connection, before: PolicyChange | None, after: PolicyChange, type: str, actor: Actor, now: datetime
) -> None:
    shown = after.to_json()
    moments = {name: getattr(after, name) for name in ("requested_at", "expires_at", "decided_at")}
    if before is None:
        connection.execute(insert(policy_changes).values(shown | moments))
    else:
        this = policy_changes.c.id == after.id
        connection.execute(update(policy_changes).where(this).values(shown | moments))
    of = "policy" if after.monitoring is None else "monitoring"
    subject, was = f"{of} {after.use_case}", before and before.to_json()
    record(connection, type, actor, subject, after.use_case, before=was, after=shown, reason=after.reason, now=now)


def _change(row: Row[Any]) -> PolicyChange:
    values = dict(row._mapping)
    policy, gates = values["policy"], values["gates"]
    values["policy"] = None if policy is None else Policy.from_json(policy)
    values["gates"] = None if gates is None else tuple(gates)
    values["assents"] = assents.from_json(values["assents"])
    return PolicyChange(**values)
