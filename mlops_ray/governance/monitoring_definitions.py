"""How the predictions of a use case are watched, where somebody has said it beside its models: revision by revision.

A definition is a JSON value here; `mlops_ray.monitoring` knows what it means. Until somebody sets one, each model is
watched as it was sealed (revision 0), and None sets that again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from mlops_ray.artifacts import digest_json
from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.events import SYSTEM, Actor, plain, record
from mlops_ray.governance.tables import monitoring_definitions
from mlops_ray.governance.versions import expect_name


@dataclass(frozen=True)
class MonitoringRevision:
    """What was set, and by whom. definition: None for what each model was sealed with. digest: of the definition."""

    use_case: str
    revision: int
    definition: Mapping[str, Any] | None
    digest: str
    changed_by: str
    changed_by_id: str | None
    changed_at: datetime
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {name: plain(value) for name, value in vars(self).items()}


def set_definition(
    store: ControlStore,
    actor: Actor,
    use_case: str,
    definition: Mapping[str, Any] | None,
    reason: str,
    seen: int | None = None,
    now: datetime | None = None,
) -> MonitoringRevision:
    """Let predictions of a use case be watched so from now on, with `monitoring.changed`; the revision that holds then.

    What holds already changes nothing. seen: the revision that the caller decided on; if another holds, ConflictError.
    Raises ForbiddenError without the role `operate` on the use case, and ConfigurationError without a reason.
    """
    expect_name(use_case)
    if not reason.strip():
        raise ConfigurationError("Say why it is to be watched so: the reason goes into the audit log.")
    if not {"operate", "admin", *SYSTEM.roles}.intersection(actor.roles):
        raise ForbiddenError(
            f"{actor.name} does not carry the role 'operate' on {use_case}, which changing its monitoring needs."
        )
    with store.transaction() as connection:
        before = _newest(connection, use_case)
        number = before.revision if before else 0
        content, digest = plain(definition), digest_json(plain(definition))
        if before and before.digest == digest:
            return before
        if seen is not None and seen != number:
            raise ConflictError(
                f"Monitoring of {use_case} is at revision {number}, and you decided on {seen}. Look at what holds now."
            )
        made = MonitoringRevision(
            use_case, number + 1, content, digest, plain(actor.name), plain(actor.id or None),
            now or database_now(connection), plain(reason),
        )  # fmt: skip
        connection.execute(insert(monitoring_definitions).values(vars(made)))
        record(
            connection, "monitoring.changed", actor, f"monitoring {use_case}", use_case,
            before=before and before.to_json(), after=made.to_json(), reason=reason, now=made.changed_at,
        )  # fmt: skip
        return made


def definition_of(store: ControlStore, use_case: str) -> MonitoringRevision | None:
    """What was set last; None where nobody ever has."""
    with store.reading() as connection:
        return _newest(connection, use_case)


def definitions(store: ControlStore, use_case: str | None = None) -> list[MonitoringRevision]:
    """All that was ever set, of one use case or of all, the oldest first."""
    order = (monitoring_definitions.c.use_case, monitoring_definitions.c.revision)
    query = select(monitoring_definitions).order_by(*order)
    if use_case is not None:
        query = query.where(monitoring_definitions.c.use_case == use_case)
    with store.reading() as connection:
        return [_revision(row) for row in connection.execute(query)]


def _newest(connection: Connection, use_case: str) -> MonitoringRevision | None:
    query = select(monitoring_definitions).where(monitoring_definitions.c.use_case == use_case)
    row = connection.execute(query.order_by(monitoring_definitions.c.revision.desc()).limit(1)).first()
    return None if row is None else _revision(row)


def _revision(row: Row[Any]) -> MonitoringRevision:
    return MonitoringRevision(**row._mapping)
