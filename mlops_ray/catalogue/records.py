"""What the records of the pipeline and of versions say was made from what."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlops_ray.artifacts import Artifacts, locate
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import read_events
from mlops_ray.governance.live import live
from mlops_ray.governance.versions import list_versions
from mlops_ray.ingestion.snapshot import MANIFEST, SNAPSHOTS

FEATURES, TRAINING_SETS, LINEAGE = "features", "training_sets", "lineage"
_PIPELINE = "pipeline"


@dataclass(frozen=True)
class Model:
    """A registered version. live: champion, the one before it or one that a rollout brings in; `retired`: nobody can
    begin anything with it; else `registered`."""

    version: int
    state: str
    snapshot: str
    training_set: str
    feature_rows: Mapping[str, str]

    @property
    def is_live(self) -> bool:
        return self.state == "live"


@dataclass(frozen=True)
class TrainingSetRecord:
    digest: str
    snapshot: str
    feature_rows: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CaseRecords:
    """Of one use case. features: the digests of rows of views (`view/digest`) by the snapshots they were made from."""

    use_case: str
    manifests: Mapping[str, Mapping[str, Any]]
    models: Sequence[Model]
    training_sets: Sequence[TrainingSetRecord]
    features: Mapping[str, frozenset[str]]

    def models_of(self, snapshot: str) -> list[Model]:
        return [model for model in self.models if model.snapshot == snapshot]

    def training_sets_of(self, snapshot: str) -> list[str]:
        return sorted({one.digest for one in self.training_sets if one.snapshot == snapshot})

    def made_of(self, snapshot: str) -> set[tuple[str, ...]]:
        """The places of feature rows and training sets that were made from a snapshot, below the artifact root."""
        sets = {(TRAINING_SETS, self.use_case, f"{digest}.parquet") for digest in self.training_sets_of(snapshot)}
        rows = {name for one in self.training_sets if one.snapshot == snapshot for name in _rows(one.feature_rows)}
        rows |= self.features.get(snapshot, frozenset())
        return sets | {(FEATURES, self.use_case, *f"{name}.parquet".split("/")) for name in rows}


def use_cases(artifacts: Artifacts) -> list[str]:
    """All that have a snapshot."""
    return [entry.name for entry in artifacts.entries(SNAPSHOTS)]


def expect_use_case(artifacts: Artifacts, use_case: str) -> None:
    """Raise ConfigurationError if a use case has no snapshot, with those that have."""
    known = use_cases(artifacts)
    if use_case not in known:
        raise ConfigurationError(
            f"No snapshot of {use_case!r} is below {artifacts.root}. There are: {', '.join(known)}."
        )


def read_records(artifacts: Artifacts, store: ControlStore, use_case: str) -> CaseRecords:
    """All that is recorded of a use case's snapshots and what was made from them."""
    names = [entry.name for entry in artifacts.entries(SNAPSHOTS, use_case)]
    found = {name: artifacts.read_json(SNAPSHOTS, use_case, name, MANIFEST) for name in names}
    manifests = {name: manifest for name, manifest in found.items() if manifest is not None}
    models = _models(artifacts, store, use_case)
    sets = [
        TrainingSetRecord(one["digest"], one["snapshot"], _digests_of(one.get("feature_rows") or {}))
        for _, one in _results(artifacts, use_case, "training_set")
    ]
    sets += [TrainingSetRecord(one.training_set, one.snapshot, one.feature_rows) for one in models]
    features: dict[str, set[str]] = {}
    for depends_on, result in _results(artifacts, use_case, "features"):
        given = json.dumps(depends_on)  # a step's inputs name the snapshot by its digest
        rows = {f"{view['view']}/{view['digest']}" for view in result["views"]}
        for digest in manifests:
            if digest in given:
                features.setdefault(digest, set()).update(rows)
    return CaseRecords(use_case, manifests, models, sets, {key: frozenset(rows) for key, rows in features.items()})


def _models(artifacts: Artifacts, store: ControlStore, use_case: str) -> list[Model]:
    serving = {ref.version for ref in live(store, use_case).versions()}
    gone = {one.version for one in list_versions(store, use_case) if one.retired_at is not None}
    models, after = [], 0
    while events := read_events(store, after, use_case, ["version.registered"]):
        after = events[-1].seq
        for event in events:
            record = artifacts.read_json(LINEAGE, use_case, f"{event.payload.get('lineage')}.json")
            if record is not None:
                number = int(event.subject.rpartition("@")[2])
                state = "live" if number in serving else "retired" if number in gone else "registered"
                names = (record["snapshot"], record["training_set"], record["feature_rows"])
                models.append(Model(number, state, *names))
    return models


def _results(artifacts: Artifacts, use_case: str, step: str) -> list[tuple[Any, Mapping[str, Any]]]:
    """What each finished run of a step depended on, and what it gave."""
    found = []
    for entry in artifacts.entries(_PIPELINE, use_case, step):
        record = artifacts.read_json(_PIPELINE, use_case, step, entry.name)
        if record and record.get("result"):
            found.append((record["depends_on"], record["result"]))
    return found


def _digests_of(urls: Mapping[str, str]) -> dict[str, str]:
    return {view: locate(url)[1].rpartition("/")[2].removesuffix(".parquet") for view, url in urls.items()}


def _rows(feature_rows: Mapping[str, str]) -> set[str]:
    return {f"{view}/{digest}" for view, digest in feature_rows.items()}
