"""Declared resources: what a step or an endpoint is given in the place of what the code says."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import insert, select, update

from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor, record
from mlops_ray.governance.tables import declared_resources


@dataclass(frozen=True)
class Resources:
    """cpus and memory_mb: of a step's task, of each trial, or of each replica, None for what the code says.
    min_replicas, max_replicas: of an endpoint, None as well."""

    cpus: float | None = None
    memory_mb: int | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def declare_resources(
    store: ControlStore, actor: Actor, use_case: str, wanted: Mapping[str, Resources], reason: str
) -> list[str]:
    """Let these hold from the next run or deployment on, by the name of the step ("train": each trial) or "endpoint";
    empty ones give it back to the code. An event for each that changes; returns the names of those."""
    changed = []
    with store.transaction() as connection:
        for name, resources in wanted.items():
            this = (declared_resources.c.use_case == use_case) & (declared_resources.c.name == name)
            old = connection.execute(select(declared_resources.c.resources).where(this)).scalar()
            new = resources.to_json() or None
            if old == new:
                continue
            if new is None:
                connection.execute(declared_resources.delete().where(this))
            elif old is None:
                connection.execute(insert(declared_resources).values(use_case=use_case, name=name, resources=new))
            else:
                connection.execute(update(declared_resources).where(this).values(resources=new))
            subject = f"resources {use_case} {name}"
            record(connection, "resources.changed", actor, subject, use_case, before=old, after=new, reason=reason)
            changed.append(name)
    return changed


def resources_of(store: ControlStore, use_case: str) -> dict[str, Resources]:
    """What is declared of a use case, by name."""
    query = select(declared_resources).where(declared_resources.c.use_case == use_case)
    with store.reading() as connection:
        return {row.name: Resources(**row.resources) for row in connection.execute(query)}
