"""How the predictions of a use case are watched, where somebody has said it beside its models: revision by revision.

A definition is a JSON value here; `mlops_ray.monitoring` knows what it means. Until somebody sets one, each model is
watched as it was sealed (revision 0), and None sets that again. Who may set one is judged in `monitoring_changes`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, tuple_

from mlops_ray.artifacts import digest_json
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor, plain, record
from mlops_ray.governance.tables import monitoring_definitions


@dataclass(frozen=True)
class MonitoringRevision:
    """What was set, and by whom: where it needed an approval, by whose it holds. definition: None for what each model
    was sealed with. digest: of the definition."""

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


def write_definition(
    connection: Connection,
    actor: Actor,
    use_case: str,
    definition: Mapping[str, Any] | None,
    now: datetime,
    reason: str,
    change: str | None = None,
) -> MonitoringRevision:
    """Let this hold from now on, with `monitoring.changed`, inside the caller's transaction.

    change: the id of the request that was approved, where one was needed.
    """
    before = newest_definition(connection, use_case)
    made = MonitoringRevision(
        use_case, (before.revision if before else 0) + 1, plain(definition), digest_json(plain(definition)),
        plain(actor.name), plain(actor.id or None), now, plain(reason),
    )  # fmt: skip
    connection.execute(insert(monitoring_definitions).values(vars(made)))
    record(
        connection, "monitoring.changed", actor, f"monitoring {use_case}", use_case,
        before=before and before.to_json(), after=made.to_json(), payload={"change": change}, reason=reason, now=now,
    )  # fmt: skip
    return made


def definition_of(store: ControlStore, use_case: str) -> MonitoringRevision | None:
    """What was set last; None where nobody ever has."""
    with store.reading() as connection:
        return newest_definition(connection, use_case)


def definitions(store: ControlStore, use_case: str | None = None) -> list[MonitoringRevision]:
    """All that was ever set, of one use case or of all, the oldest first."""
    order = (monitoring_definitions.c.use_case, monitoring_definitions.c.revision)
    query = select(monitoring_definitions).order_by(*order)
    if use_case is not None:
        query = query.where(monitoring_definitions.c.use_case == use_case)
    with store.reading() as connection:
        return [_revision(row) for row in connection.execute(query)]


def newest_definition(connection: Connection, use_case: str) -> MonitoringRevision | None:
    """What was set last; None where nobody ever has."""
    query = select(monitoring_definitions).where(monitoring_definitions.c.use_case == use_case)
    row = connection.execute(query.order_by(monitoring_definitions.c.revision.desc()).limit(1)).first()
    return None if row is None else _revision(row)


def newest_definitions(connection: Connection, use_cases: Collection[str]) -> dict[str, MonitoringRevision]:
    """As `newest_definition`, of each of which somebody ever has."""
    of_these = select(monitoring_definitions).where(monitoring_definitions.c.use_case.in_(use_cases))
    newest = of_these.with_only_columns(
        monitoring_definitions.c.use_case, func.max(monitoring_definitions.c.revision)
    ).group_by(monitoring_definitions.c.use_case)
    these = tuple_(monitoring_definitions.c.use_case, monitoring_definitions.c.revision).in_(newest)
    return {row.use_case: _revision(row) for row in connection.execute(of_these.where(these))}


def _revision(row: Row[Any]) -> MonitoringRevision:
    return MonitoringRevision(**row._mapping)
