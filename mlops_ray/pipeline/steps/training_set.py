"""Training set: one row per thing to predict, with its features as they were known then, and its label."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.features.definitions import Definitions
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.features.transform import FeatureRows
from mlops_ray.pipeline.fingerprint import Known
from mlops_ray.pipeline.part import joined, part
from mlops_ray.pipeline.steps.features import feature_rows
from mlops_ray.pipeline.steps.step import Given, Step, Where
from mlops_ray.pipeline.task import in_task
from mlops_ray.pipeline.tasks import build_training_set_task
from mlops_ray.use_case import Feature, UseCase


@dataclass(frozen=True)
class TrainingSetInputs:
    """settings: the stores of Feast, to which the definitions are written; none without a feature service."""

    use_case: UseCase
    settings: Settings
    snapshot: str
    feature_rows: Mapping[str, Known[FeatureRows]]
    definitions: Known[Definitions] | None
    as_of: datetime


def training_set_inputs(given: Given) -> TrainingSetInputs:
    case, ingested = given.use_case, given.results["ingest"]
    names = ("name", "entities", "event_time", "lead_time", "label", "request_features", "feature_service")
    return TrainingSetInputs(
        use_case=part(case, *names, sources={case.main_source: part(case.sources[case.main_source], "columns")}),
        settings=feast_stores(given),
        snapshot=str(ingested["digest"]),
        feature_rows=feature_rows(given),
        definitions=known_definitions(given),
        as_of=datetime.fromisoformat(ingested["as_of"]),
    )


def feast_stores(given: Given) -> Settings:
    """The settings that say where Feast writes; none of them where the use case has no feature service."""
    return part(given.settings, *(("feast_registry", "online_store") if given.use_case.feature_service else ()))


def known_definitions(given: Given) -> Known[Definitions] | None:
    """The Feast definitions, known by the digest of what the service uses of them."""
    found = given.definitions()
    return Known(found.digest, found) if found else None


def run_training_set(inputs: TrainingSetInputs, where: Where) -> dict[str, Any]:
    return in_task(
        where,
        "training_set",
        build_training_set_task,
        inputs.use_case,
        joined(inputs.settings, where.settings),
        inputs.snapshot,
        inputs.definitions.value.files if inputs.definitions else {},
        [known.value for known in inputs.feature_rows.values()],
        inputs.as_of,
    )


def verify_training_set(inputs: TrainingSetInputs, result: Mapping[str, Any], where: Where) -> str | None:
    artifacts = Artifacts(where.settings.artifacts)
    if not artifacts.holds(str(result["url"])):
        return f"training set {result['digest'][:12]} is not below {artifacts.root} any more"
    return None


def known_training_set(given: Given) -> Known[TrainingSet]:
    """The training set as an input of later steps: all of it counts but where it lies."""
    found = given.results["training_set"]
    return Known({name: value for name, value in found.items() if name != "url"}, training_set_of(found))


def training_set_of(result: Mapping[str, Any]) -> TrainingSet:
    """The training set in the result of the step."""
    features = tuple(Feature(feature["name"], feature["kind"]) for feature in result["features"])
    values = {**result, "as_of": datetime.fromisoformat(result["as_of"]), "features": features}
    return TrainingSet(**values)


TRAINING_SET = Step(
    "training_set", training_set_inputs, run_training_set, verify_training_set, ("artifacts", "online_cache_s")
)
