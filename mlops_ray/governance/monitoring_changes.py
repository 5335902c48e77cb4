"""Changes of how predictions are watched: where approvals are demanded, they wait for somebody else's.

Whoever could widen what raises an alarm alone would need nobody's approval for a version that goes wrong.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mlops_ray.artifacts import digest_json
from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.events import Actor, plain
from mlops_ray.governance.monitoring_definitions import MonitoringRevision, newest_definition, write_definition
from mlops_ray.governance.policies import in_force
from mlops_ray.governance.policy_changes import PolicyChange, ask, wanted_change
from mlops_ray.governance.versions import expect_name


def set_definition(
    store: ControlStore,
    actor: Actor,
    use_case: str,
    definition: Mapping[str, Any] | None,
    reason: str,
    seen: int | None = None,
    now: datetime | None = None,
) -> MonitoringRevision | PolicyChange:
    """Let predictions of a use case be watched so from now on; the revision that holds then.

    Where approvals are demanded it is asked for instead, and the request returned until it is in force; another that
    waits is rejected, the same one stands. What holds already changes nothing. seen: the revision that the caller
    decided on; if another holds, ConflictError. Raises ForbiddenError without the role `operate` on the use case, and
    ConfigurationError without a reason.
    """
    expect_name(use_case)
    if not reason.strip():
        raise ConfigurationError("Say why it is to be watched so: the reason goes into the audit log.")
    if not {"operate", "admin"}.intersection(actor.roles):
        raise ForbiddenError(
            f"{actor.name} does not carry the role 'operate' on {use_case}, which changing its monitoring needs."
        )
    with store.transaction() as connection:
        before, content = newest_definition(connection, use_case), plain(definition)
        if before and before.digest == digest_json(content):
            return before
        number = before.revision if before else 0
        if seen is not None and seen != number:
            raise ConflictError(
                f"Monitoring of {use_case} is at revision {number}, and you decided on {seen}. Look at what holds now."
            )
        now, rules = now or database_now(connection), in_force(connection, use_case)
        if rules is None or not rules.policy.required:
            return write_definition(connection, actor, use_case, content, now, reason)
        monitoring = {"definition": content, "revision": number}
        wanted = wanted_change(actor, use_case, rules.policy, rules.gates, rules.policy, reason, now, monitoring)
        change = ask(connection, actor, wanted, rules.policy)
        made = newest_definition(connection, use_case)
        return made if change.state == "in_force" and made is not None else change
