"""What a retraining leaves behind, below the artifact root; and what the champion was made from."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import msgspec

from mlops_ray.artifacts import Artifacts
from mlops_ray.evaluation.comparison import Comparison
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import read_events
from mlops_ray.governance.live import live
from mlops_ray.registry.lineage import FOLDER, Lineage
from mlops_ray.retraining.policy import Outcome

RESULTS = "retrainings"


@dataclass(frozen=True)
class Result:
    """What came of a retraining. outcome: of the challenger against the champion on the recent window; reason: why.

    version, digest: of the challenger; None where there is none. admissible: it passed its gates. champion: what it was
    compared with. comparison: None where it was not compared. What it took is known by `cost.history.used_by`.
    """

    id: str
    as_of: datetime
    outcome: Outcome
    reason: str
    version: int | None = None
    digest: str | None = None
    admissible: bool = False
    champion: int | None = None
    comparison: Comparison | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"as_of": self.as_of.isoformat()}


def find_result(artifacts: Artifacts, use_case: str, id: str) -> Result | None:
    """What a retraining left behind; None while it has not ended."""
    found = artifacts.read_json(RESULTS, use_case, f"{id}.json")
    if found is not None and found["outcome"] == "not better":  # how one was called that ended before an upgrade
        found = {**found, "outcome": "undecided"}
    return None if found is None else msgspec.convert(found, Result)


def champion_lineage(store: ControlStore, artifacts: Artifacts, use_case: str) -> Lineage | None:
    """What the champion was made from; None where there is no champion, or no record of it."""
    champion = live(store, use_case).champion
    if champion is None:
        return None
    found = read_events(
        store, use_case=use_case, types=["version.registered"], subject=f"{use_case}@{champion.version}"
    )
    digest = found[-1].payload.get("lineage") if found else None
    record = artifacts.read_json(FOLDER, use_case, f"{digest}.json") if digest else None
    return None if record is None else Lineage.from_json(record)
