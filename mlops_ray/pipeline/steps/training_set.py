"""Training set: one row per thing to predict, with its features as they were known then, and its label."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.features.definitions import Definitions
from mlops_ray.features.training_parts import FOLDER
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.features.transform import FeatureRows
from mlops_ray.pipeline.fingerprint import Known
from mlops_ray.pipeline.part import part
from mlops_ray.pipeline.steps.features import feature_rows, known_definitions
from mlops_ray.pipeline.steps.step import Given, Step, Where
from mlops_ray.pipeline.task import in_task
from mlops_ray.pipeline.tasks import build_training_set_task
from mlops_ray.use_case import UseCase


@dataclass(frozen=True)
class TrainingSetInputs:
    """use_case: what a row of the set is made of; and what it takes to look for leakage, the views' functions among it.
    definitions: None where the use case has no feature service."""

    use_case: UseCase
    snapshot: str
    feature_rows: Mapping[str, Known[FeatureRows]]
    definitions: Known[Definitions] | None
    as_of: datetime


def training_set_inputs(given: Given) -> TrainingSetInputs:
    case, ingested = given.use_case, given.results["ingest"]
    names = (
        "name",
        "entities",
        "event_time",
        "lead_time",
        "label",
        "request_features",
        "feature_service",
        "on_demand_features",
    )
    leaks = ("feature_views", "leakage_waivers")
    sources = {name: part(source, "columns", "derived", "known_at") for name, source in case.sources.items()}
    return TrainingSetInputs(
        use_case=part(case, *names, *leaks, sources=sources),
        snapshot=str(ingested["digest"]),
        feature_rows=feature_rows(given),
        definitions=known_definitions(given),
        as_of=datetime.fromisoformat(ingested["as_of"]),
    )


def run_training_set(inputs: TrainingSetInputs, where: Where) -> dict[str, Any]:
    return in_task(
        where,
        "training_set",
        build_training_set_task,
        inputs.use_case,
        where.settings,
        inputs.snapshot,
        inputs.definitions.value if inputs.definitions else None,
        [known.value for known in inputs.feature_rows.values()],
        inputs.as_of,
    )


def verify_training_set(inputs: TrainingSetInputs, result: Mapping[str, Any], where: Where) -> str | None:
    artifacts = Artifacts(where.settings.artifacts)
    if not artifacts.holds(str(result["url"])):
        return f"training set {result['digest'][:12]} is not below {artifacts.root} any more"
    return None


def known_training_set(given: Given) -> Known[TrainingSet]:
    """The training set as an input of later steps: all of it counts but where it and its feature rows lie."""
    found = given.results["training_set"]
    counts = {name: value for name, value in found.items() if name not in ("url", "feature_rows", "parts")}
    return Known(counts, TrainingSet.from_json(found))


def table_of_training_set(inputs: TrainingSetInputs, result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [(FOLDER, inputs.use_case.name, f"{result['digest']}.parquet")]


TRAINING_SET = Step(
    "training_set", training_set_inputs, run_training_set, verify_training_set, rows_at=table_of_training_set
)
