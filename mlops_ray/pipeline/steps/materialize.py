"""Materialize: the newest feature values into the online store. It has to do with no model, and needs none."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlops_ray.config import Settings
from mlops_ray.features.definitions import Definitions
from mlops_ray.features.transform import FeatureRows
from mlops_ray.pipeline.fingerprint import Known
from mlops_ray.pipeline.part import joined, part
from mlops_ray.pipeline.steps.features import feature_rows, known_definitions
from mlops_ray.pipeline.steps.step import Given, Step, Where
from mlops_ray.pipeline.task import in_task
from mlops_ray.pipeline.tasks import materialize_views, verify_views


@dataclass(frozen=True)
class MaterializeInputs:
    """definitions: None where the use case has no feature service, and there is nothing to do."""

    settings: Settings
    feature_rows: Mapping[str, Known[FeatureRows]]
    definitions: Known[Definitions] | None
    as_of: datetime


def materialize_inputs(given: Given) -> MaterializeInputs:
    as_of = datetime.fromisoformat(given.results["ingest"]["as_of"])
    return MaterializeInputs(feast_stores(given), feature_rows(given), known_definitions(given), as_of)


def feast_stores(given: Given) -> Settings:
    """The settings that say where Feast writes; none of them where the use case has no feature service."""
    return part(given.settings, *(("feast_registry", "online_store") if given.use_case.feature_service else ()))


def run_materialize(inputs: MaterializeInputs, where: Where) -> dict[str, Any]:
    keys: dict[str, int] = {}
    if inputs.definitions is not None:
        settings, rows = joined(inputs.settings, where.settings), _rows(inputs)
        keys = in_task(where, "materialize", materialize_views, settings, inputs.definitions.value, rows, inputs.as_of)
    return {"as_of": inputs.as_of.isoformat(), "keys": keys}


def verify_materialize(inputs: MaterializeInputs, result: Mapping[str, Any], where: Where) -> str | None:
    if inputs.definitions is None:
        return None
    settings = joined(inputs.settings, where.settings)
    return verify_views(settings, inputs.definitions.value, _rows(inputs), inputs.as_of)


def _rows(inputs: MaterializeInputs) -> list[FeatureRows]:
    return [known.value for known in inputs.feature_rows.values()]


MATERIALIZE = Step(
    "materialize", materialize_inputs, run_materialize, verify_materialize, ("artifacts", "online_cache_s")
)
