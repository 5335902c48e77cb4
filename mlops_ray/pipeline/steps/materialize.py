"""Materialize: the newest feature values into the online store. It has to do with no model, and needs none."""

from collections.abc import Mapping, Sequence
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

# Of one view, which is what is in memory at once, up to which it is done in this process: Ray's first task costs 3 s.
HERE_ROWS = 2_000_000


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
        settings = joined(inputs.settings, where.settings)
        keys = bring_online(where, settings, inputs.definitions.value, _rows(inputs), inputs.as_of)
    return {"as_of": inputs.as_of.isoformat(), "keys": keys}


def bring_online(
    where: Where, settings: Settings, definitions: Definitions, rows: Sequence[FeatureRows], as_of: datetime
) -> dict[str, int]:
    """Materialize rows in the project of these definitions; the number of keys of each view."""
    given = settings, definitions, list(rows), as_of
    if max((found.rows for found in rows), default=0) <= HERE_ROWS:
        return materialize_views(*given)
    return in_task(where, "materialize", materialize_views, *given)


def verify_materialize(inputs: MaterializeInputs, result: Mapping[str, Any], where: Where) -> str | None:
    if inputs.definitions is None:
        return None
    settings = joined(inputs.settings, where.settings)
    return verify_views(settings, inputs.definitions.value, _rows(inputs), inputs.as_of)


def _rows(inputs: MaterializeInputs) -> list[FeatureRows]:
    return [known.value for known in inputs.feature_rows.values()]


def no_tables(inputs: MaterializeInputs, result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return []


MATERIALIZE = Step(
    "materialize",
    materialize_inputs,
    run_materialize,
    verify_materialize,
    ("artifacts", "online_cache_s"),
    rows_at=no_tables,
)
