"""What is live: the champion of each use case, the one before it, and the rollout of a new version.

It is changed in `champion`, `rollouts` and `rollback`, by the rules of `change`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, RowMapping, bindparam, select

from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.plan import Plan as Plan  # known here as the parts of a Rollout
from mlops_ray.governance.plan import Rules as Rules
from mlops_ray.governance.plan import Step as Step
from mlops_ray.governance.tables import endpoints, rollouts
from mlops_ray.governance.versions import VersionRef as VersionRef  # known here as one of the parts of Live

_ROLLOUT = "rollout_"  # before the names of its columns, where they stand beside the endpoint's
_READ = (
    select(endpoints, *(column.label(f"{_ROLLOUT}{column.name}") for column in rollouts.c))
    .outerjoin_from(endpoints, rollouts, (rollouts.c.use_case == endpoints.c.use_case) & rollouts.c.ended_at.is_(None))
    .where(endpoints.c.use_case == bindparam("use_case"))
)
RolloutState = Literal["loading", "running", "promoted", "rolled_back", "failed"]
Numbers = Mapping[str, Any]


@dataclass(frozen=True)
class Rollout:
    """`state` is loading until every replica holds the version, then running. paused_at: since when it goes no step on
    by itself; None while it does."""

    id: str
    version: VersionRef
    plan: Plan
    state: RolloutState
    step: int
    step_since: datetime
    started_at: datetime
    paused_at: datetime | None = None

    @property
    def current(self) -> Step | None:
        """The step that is in force; None while replicas load the version."""
        return self.plan.steps[self.step] if self.state == "running" else None


@dataclass(frozen=True)
class Live:
    """What a use case serves. `previous` stays loaded beside the champion, so that going back to it takes seconds.

    stands_since: the revision since which champion, previous and rollout are these; steps of the rollout change only
    `revision`. Who looked at a revision from there on has seen what holds.
    """

    use_case: str
    revision: int = 0
    champion: VersionRef | None = None
    champion_since: datetime | None = None
    previous: VersionRef | None = None
    rollout: Rollout | None = None
    stands_since: int = 0

    def serves_alone(self, version: int) -> bool:
        """Whether `version` answers everything: it is champion, and no rollout runs."""
        return self.rollout is None and self.champion is not None and self.champion.version == version

    def in_words(self) -> str:
        """What is live, in a sentence."""
        champion = f"version {self.champion.version}" if self.champion else "no version"
        rollout = f"a rollout of version {self.rollout.version.version}" if self.rollout else "no rollout"
        return f"At revision {self.revision}, {champion} is champion and {rollout} runs."

    def versions(self) -> tuple[VersionRef, ...]:
        """All that a replica keeps loaded."""
        given = (self.champion, self.rollout and self.rollout.version, self.previous)
        return tuple(dict.fromkeys(version for version in given if version))


def live(store: ControlStore, use_case: str) -> Live:
    """What is live now; a Live without champion where nothing ever was."""
    with store.reading() as connection:
        return read_live(connection, use_case)


def read_live(connection: Connection, use_case: str) -> Live:
    row = connection.execute(_READ, {"use_case": use_case}).mappings().first()
    if row is None:
        return Live(use_case)
    found = {column.name: row[f"{_ROLLOUT}{column.name}"] for column in rollouts.c}
    return Live(
        use_case,
        row["revision"],
        _ref(row, "champion"),
        row["champion_since"],
        _ref(row, "previous"),
        _rollout(found) if found["id"] is not None else None,
        row["stands_since"],
    )


def _ref(row: RowMapping, name: str) -> VersionRef | None:
    version = row[f"{name}_version"]
    return None if version is None else VersionRef(version, row[f"{name}_digest"])


def _rollout(row: Mapping[str, Any]) -> Rollout:
    version, plan = VersionRef(row["version"], row["digest"]), Plan.from_json(row["plan"])
    return Rollout(
        row["id"], version, plan, row["state"], row["step"], row["step_since"], row["started_at"], row["paused_at"]
    )
