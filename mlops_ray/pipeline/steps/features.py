"""Features: the rows of each feature view, computed from the snapshot's tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.features.definitions import Definitions
from mlops_ray.features.part_table import place_of
from mlops_ray.features.transform import FeatureRows, is_there, transform
from mlops_ray.ingestion.snapshot import load_snapshot
from mlops_ray.pipeline.fingerprint import Known
from mlops_ray.pipeline.part import part
from mlops_ray.pipeline.steps.step import Given, Step, Where
from mlops_ray.pipeline.task import say_if_it_waits
from mlops_ray.use_case import DividedView, UseCase


@dataclass(frozen=True)
class FeaturesInputs:
    """use_case: sources only say when their rows became known, and only where a view is divided by that. snapshot: its
    digest. definitions: whose types the rows must have; None where there is no feature service."""

    use_case: UseCase
    snapshot: str
    definitions: Known[Definitions] | None


def features_inputs(given: Given) -> FeaturesInputs:
    case = given.use_case
    sources = {}
    if any(isinstance(view, DividedView) and view.looks_back is not None for view in case.feature_views.values()):
        sources = {name: part(source, "known_at") for name, source in case.sources.items()}
    use_case = part(case, "name", "feature_views", sources=sources)
    return FeaturesInputs(use_case, str(given.results["ingest"]["digest"]), known_definitions(given))


def known_definitions(given: Given) -> Known[Definitions] | None:
    """The Feast definitions, known by the digest of what the service uses of them."""
    found = given.definitions()
    return Known(found.digest, found) if found else None


def run_features(inputs: FeaturesInputs, where: Where) -> dict[str, Any]:
    if inputs.definitions is None:
        return {"views": []}
    snapshot = load_snapshot(Artifacts(where.settings.artifacts), inputs.use_case.name, inputs.snapshot)
    ready = partial(say_if_it_waits, where, "features")
    rows = transform(inputs.use_case, where.settings, snapshot, inputs.definitions.value, ready)
    return {"views": [found.to_json() for found in rows]}


def verify_features(inputs: FeaturesInputs, result: Mapping[str, Any], where: Where) -> str | None:
    artifacts = Artifacts(where.settings.artifacts)
    gone = [rows.view for rows in map(FeatureRows.from_json, result["views"]) if not is_there(artifacts, rows)]
    return f"the rows of {', '.join(gone)} are not below {artifacts.root} any more" if gone else None


def feature_rows(given: Given) -> dict[str, Known[FeatureRows]]:
    """The rows of each view, as an input of later steps: known by their digest, and by the code that computed them,
    which the Feast project of a model is named by; wherever they lie."""
    views = [FeatureRows.from_json(view) for view in given.results["features"]["views"]]
    return {rows.view: Known([rows.digest, rows.code], rows) for rows in views}


def tables_of_features(inputs: FeaturesInputs, result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [place_of(inputs.use_case.name, view["view"], view["digest"]) for view in result["views"]]


FEATURES = Step("features", features_inputs, run_features, verify_features, rows_at=tables_of_features)
