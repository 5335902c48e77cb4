"""What the larger steps do, each as one Ray task that imports what it needs."""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from mlops_ray.artifacts import Artifacts, read_parquet
from mlops_ray.config import Settings
from mlops_ray.exploration.leakage import expect_no_leak, suspected_leaks
from mlops_ray.features.definitions import Definitions, keep_definitions
from mlops_ray.features.spans import first_rows
from mlops_ray.features.training_set import Parts, TrainingSet, build_training_set, read_sample, read_split
from mlops_ray.features.transform import FeatureRows
from mlops_ray.governance.events import Actor
from mlops_ray.governance.versions import VersionRef
from mlops_ray.ingestion.snapshot import load_snapshot
from mlops_ray.registry.lineage import Lineage
from mlops_ray.use_case import UseCase

_LOOKED_AT_ROWS = 1_000_000
_logger = logging.getLogger(__name__)


def build_training_set_task(
    use_case: UseCase,
    settings: Settings,
    snapshot: str,
    definitions: Definitions | None,
    rows: list[FeatureRows],
    as_of: datetime,
) -> dict[str, Any]:
    artifacts = Artifacts(settings.artifacts)
    accepted = load_snapshot(artifacts, use_case.name, snapshot)
    built = build_training_set(use_case, artifacts, definitions, rows, accepted, as_of)
    if built.parts:  # what is suspicious shows in some of the rows
        tables = {name: first_rows([artifacts.url(*accepted.place(name))], _LOOKED_AT_ROWS) for name in accepted.counts}
        some = read_sample(built, _LOOKED_AT_ROWS)
    else:
        tables, some = accepted.tables(artifacts), read_parquet(built.url)
    leaks = suspected_leaks(use_case, tables, some, built.features)
    known = [*(feature.name for feature in built.features), *use_case.feature_views]
    expect_no_leak(leaks, use_case.leakage_waivers, known)
    if definitions and built.feature_project:
        keep_definitions(artifacts, built.feature_project, definitions)
    return built.to_json()


def register_and_admit(
    use_case: UseCase,
    settings: Settings,
    author: Actor,
    training_set: TrainingSet,
    evaluated: Mapping[str, Any],
    lineage: Lineage,
    key: str,
    challenger: bool,
) -> dict[str, Any]:
    from mlops_ray.governance.control_store import open_store
    from mlops_ray.governance.versions import list_versions
    from mlops_ray.pipeline.admission import admit
    from mlops_ray.pipeline.measurement import Registered
    from mlops_ray.registry.artifact_check import refuse_artifact
    from mlops_ray.registry.models import register, set_champion
    from mlops_ray.registry.served_packages import FILE
    from mlops_ray.registry.vulnerabilities import gate_findings, scan, waivers

    metrics = {name: value["value"] for name, value in evaluated["evaluation"].items() if _is_metric(value)}
    with tempfile.TemporaryDirectory() as folder:
        Artifacts(settings.artifacts).download(Path(folder), "sealed_models", use_case.name, evaluated["digest"])
        refuse_artifact(Path(folder))
        scanned = scan(Path(folder), settings.advisories)
        lineage = replace(lineage, vulnerabilities=scanned.to_json() | {"waivers": waivers(use_case.gates)})
        recorded = {one.version: one.evidence.model for one in list_versions(open_store(settings), use_case.name)}
        version = register(settings, use_case.name, Path(folder), lineage, lineage.parent_run, metrics, key, recorded)
        registered = Registered(
            VersionRef(version.version, version.digest),
            evaluated["evaluation"],
            training_set,
            {"lineage": version.lineage},
            evaluated["files"][FILE],
            gate_findings(scanned, use_case.gates),
        )
        admission = admit(use_case, settings, author, Path(folder), registered, challenger)
    if admission.champion:
        set_champion(settings, use_case.name, version.version)
    found = {"version": version.version, "digest": version.digest, "lineage": version.lineage} | admission.to_json()
    return found | {"doubts": _doubts(use_case, training_set, evaluated["evaluation"], lineage)}


def _doubts(
    use_case: UseCase, training_set: TrainingSet, evaluation: Mapping[str, Any], lineage: Lineage
) -> tuple[str, ...]:
    from mlops_ray.pipeline.doubts import doubts

    task = use_case.label.task
    parts = Parts(**read_split(training_set, use_case.split, task, ("train", "validation", "test"), _LOOKED_AT_ROWS))
    validated = max((trial.value for trial in lineage.trials if trial.value is not None), default=None)
    found = doubts(task, parts, lineage.metric, {"validation": validated, "test": evaluation[lineage.metric]["value"]})
    for doubt in found:
        _logger.warning("%s", doubt)
    return found


def _is_metric(value: Any) -> bool:
    return isinstance(value, Mapping) and "value" in value


def materialize_views(
    settings: Settings, definitions: Definitions, rows: list[FeatureRows], as_of: datetime
) -> dict[str, int]:
    from mlops_ray.features.online.materialize import materialize

    return materialize(settings, definitions, rows, as_of).keys


def verify_views(settings: Settings, definitions: Definitions, rows: list[FeatureRows], as_of: datetime) -> str | None:
    from mlops_ray.features.online.materialize import verify

    return verify(settings, definitions, rows, as_of)
