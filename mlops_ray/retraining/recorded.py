"""What was recorded of the past: the training set of the champion."""

import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.live import live
from mlops_ray.registry.sealed_model import load
from mlops_ray.retraining.result import champion_lineage
from mlops_ray.use_case import Feature, UseCase


@dataclass(frozen=True)
class Recorded:
    """What the champion's lineage gives: the training set, and its features."""

    url: str
    as_of: datetime
    features: tuple[Feature, ...]


def recorded(settings: Settings, use_case: UseCase) -> Recorded:
    """Raises ConfigurationError if the use case has no champion with a record of its origin."""
    store, artifacts, name = open_store(settings), Artifacts(settings.artifacts), use_case.name
    champion, lineage = live(store, name).champion, champion_lineage(store, artifacts, name)
    if champion is None or lineage is None:
        raise ConfigurationError(f"{name} has no champion whose training set is known. Run its pipeline first.")
    with tempfile.TemporaryDirectory() as folder:
        artifacts.download(Path(folder), "sealed_models", name, champion.digest)
        features = load(Path(folder), champion.digest).schema.features
    return Recorded(
        artifacts.url("training_sets", name, f"{lineage.training_set}.parquet"),
        datetime.fromisoformat(lineage.as_of),
        tuple(Feature(feature.name, feature.kind) for feature in features),
    )
