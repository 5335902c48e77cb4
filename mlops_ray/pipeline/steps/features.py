"""Features: the rows of each feature view, computed from the snapshot's tables."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.features.definitions import Definitions
from mlops_ray.features.transform import FeatureRows, transform
from mlops_ray.ingestion.snapshot import load_snapshot
from mlops_ray.pipeline.fingerprint import Known
from mlops_ray.pipeline.part import part
from mlops_ray.pipeline.steps.step import Given, Step, Where
from mlops_ray.pipeline.task import say_if_it_waits
from mlops_ray.use_case import UseCase


@dataclass(frozen=True)
class FeaturesInputs:
    """snapshot: its digest. definitions: whose types the rows must have; None where there is no feature service."""

    use_case: UseCase
    snapshot: str
    definitions: Known[Definitions] | None


def features_inputs(given: Given) -> FeaturesInputs:
    use_case = part(given.use_case, "name", "feature_views")
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
    return {"views": [asdict(found) for found in rows]}


def verify_features(inputs: FeaturesInputs, result: Mapping[str, Any], where: Where) -> str | None:
    artifacts = Artifacts(where.settings.artifacts)
    gone = [view["view"] for view in result["views"] if not artifacts.holds(view["url"])]
    return f"the rows of {', '.join(gone)} are not below {artifacts.root} any more" if gone else None


def feature_rows(given: Given) -> dict[str, Known[FeatureRows]]:
    """The rows of each view, as an input of later steps: known by their digest, and by the code that computed them,
    which the Feast project of a model is named by; wherever they lie."""
    views = [FeatureRows(**view) for view in given.results["features"]["views"]]
    return {rows.view: Known([rows.digest, rows.code], rows) for rows in views}


FEATURES = Step("features", features_inputs, run_features, verify_features)
