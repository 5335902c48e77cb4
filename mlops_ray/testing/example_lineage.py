"""A registered version with a complete lineage, as the pipeline leaves it, without having run one."""

from dataclasses import replace
from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor
from mlops_ray.governance.versions import Evidence, VersionRef, record_version
from mlops_ray.registry.lineage import Lineage, TrialRecord, write_lineage

AUTHOR = Actor("ada", ("operate",))


def example_lineage(use_case: str = "flights", digest: str = "d" * 64, files: int = 3, **changed: Any) -> Lineage:
    """A complete record of a sealed model; `files` raw files of one source."""
    estimate = {"value": 0.75, "low": 0.72, "high": 0.78}
    evaluation = {"roc_auc": estimate, "log_loss": estimate, "rows": 900, "days": 30, "positive": 0.23}
    names = ["contract", "snapshot", "training_set", "feature_definitions", "code", "lock_file"]
    digests: dict[str, Any] = {name: f"{number:064x}" for number, name in enumerate(names)}
    kind = "gradient_boosting"
    trials = tuple(
        TrialRecord(f"{kind}-{number:03d}", kind, {"depth": number}, f"run{number}", "finished", 0.7)
        for number in range(3)
    )
    found = Lineage(
        use_case=use_case,
        owner="operations@example.org",
        purpose="Will it be late?",
        limits=("Only <this> airport | that one.",),
        digest=digest,
        files={"model.onnx": "a" * 64, "evaluation.json": "b" * 64, "bill_of_materials.json": "c" * 64},
        evaluation=evaluation,
        vulnerabilities={"sentence": "Environment not audited: no advisories configured.", "artifact": []},
        parent_run="parent",
        trial_run="run2",
        trials=trials,
        metric="roc_auc",
        candidate=kind,
        parameters={"depth": 2, "learning_rate": 0.1},
        seed=13,
        threads=2,
        training_rows=1000,
        feature_service="flights",
        feature_rows={"weather": "e" * 64},
        rows={"flights": {"rows_in": 10, "accepted": 8, "repaired": 1, "quarantined": 1, "not_yet_known": 0}},
        data="/data/flights",
        source_files={
            "flights": {f"flights_2013-{number:02d}.csv": f"{number:064x}" for number in range(1, files + 1)}
        },
        as_of="2014-01-01T05:00:00+00:00",
        declarations={"split": "by time", "entities": "carrier", "lead time": "2:00:00", "event time": "departure"},
        code_version="0" * 40,
        framework="0.1.0",
        code_dirty=False,
        python="3.11.7",
        platform="Linux",
        used={"train": {"cpu_s": 12.5, "wall_s": 10.0, "key": "f" * 64}},
        **digests,
    )
    return replace(found, **changed)


def register_example(
    settings: Settings, store: ControlStore, made_from: Lineage, version: int = 1, /, **payload: Any
) -> VersionRef:
    """Write the record, and the version with the event that names it."""
    record = write_lineage(Artifacts(settings.artifacts), made_from)
    evidence = Evidence(made_from.digest, "b" * 64, "c" * 64)
    record_version(store, AUTHOR, made_from.use_case, version, evidence, payload={"lineage": record} | payload)
    return VersionRef(version, made_from.digest)
