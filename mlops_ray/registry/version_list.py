"""The list of a use case's versions: what is behind each in one line, newest first."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

import msgspec

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import IntegrityError
from mlops_ray.governance.approvals import list_approvals
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import read_events
from mlops_ray.governance.live import Live, live
from mlops_ray.governance.versions import RegisteredVersion, list_versions
from mlops_ray.registry.lineage import FOLDER

NEWEST = 100  # each has its record read


@dataclass(frozen=True)
class ListedVersion:
    """One registered version.

    part: champion, previous, rollout, or "" for one that is not loaded. approval: the state of its newest request, ""
    where nobody asked. metric, value, low, high: what it was chosen by, on the test period, with its 95 % interval;
    value is None where its record cannot be read.
    """

    use_case: str
    version: int
    digest: str
    author: str
    registered_at: datetime
    retired_at: datetime | None
    failed_gates: tuple[str, ...]
    approval: str
    part: str
    candidate: str
    training_rows: int
    metric: str
    value: float | None
    low: float | None
    high: float | None

    @property
    def standing(self) -> str:
        """What can be done with it, in a few words."""
        if self.retired_at is not None:
            return f"retired {self.retired_at:%Y-%m-%d}"
        if self.part:
            return self.part
        if self.failed_gates:
            return f"failed {', '.join(self.failed_gates)}"
        return f"approval {self.approval}" if self.approval else "registered"

    def to_json(self) -> dict[str, Any]:
        times = {name: one and one.isoformat() for name, one in vars(self).items() if name.endswith("_at")}
        return asdict(self) | times

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """What `to_json` gave. Raises IntegrityError if it was written by another version."""
        try:
            return msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise IntegrityError(
                f"A list of versions cannot be read: {error}. Use the release of the server."
            ) from None


def newest_versions(settings: Settings, store: ControlStore, use_case: str) -> list[ListedVersion]:
    """The last registered, newest first; none where the use case has none."""
    found, state = list_versions(store, use_case)[-NEWEST:][::-1], live(store, use_case)
    approvals: dict[int, str] = {}
    for one in list_approvals(store, use_case):
        approvals.setdefault(one.version, one.state)
    artifacts = Artifacts(settings.artifacts)
    return [
        _listed(one, approvals.get(one.version, ""), _part(state, one), _record(artifacts, store, one)) for one in found
    ]


def _part(state: Live, one: RegisteredVersion) -> str:
    if state.champion == one.ref:
        return "champion"
    if state.rollout is not None and state.rollout.version == one.ref:
        return "rollout"
    return "previous" if state.previous == one.ref else ""


def _record(artifacts: Artifacts, store: ControlStore, one: RegisteredVersion) -> Mapping[str, Any]:
    """Its lineage record as it is stored; empty where there is none."""
    subject = f"{one.use_case}@{one.version}"
    events = read_events(store, 0, one.use_case, ["version.registered"], subject, 1)
    digest = events[0].payload.get("lineage") if events else None
    found = artifacts.read_json(FOLDER, one.use_case, f"{digest}.json") if digest else None
    return found if isinstance(found, Mapping) else {}


def _listed(one: RegisteredVersion, approval: str, part: str, record: Mapping[str, Any]) -> ListedVersion:
    metric = str(record.get("metric", ""))
    estimate = (record.get("evaluation") or {}).get(metric) or {}
    return ListedVersion(
        one.use_case, one.version, one.evidence.model, one.author, one.registered_at, one.retired_at, one.failed_gates,
        approval, part, str(record.get("candidate", "")), int(record.get("training_rows", 0)), metric,
        estimate.get("value"), estimate.get("low"), estimate.get("high"),
    )  # fmt: skip
