"""The training set of a use case, built once and kept below `.bench`, and its parts as matrices."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.artifacts import read_parquet
from mlops_ray.config import Settings
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.features.training_set import TrainingSet, split_by_time
from mlops_ray.pipeline.pipeline import Pipeline
from mlops_ray.training.encoding import fit_encoder
from mlops_ray.use_case import UseCase, load_use_case

ROOT = Path(__file__).parents[2]
AS_OF = datetime(2014, 1, 1, 5, tzinfo=UTC)
SETTINGS = Settings(state=str(ROOT / ".bench" / "training"), data=str(ROOT / "data" / "flights"))


def prepared(name: str) -> tuple[UseCase, TrainingSet]:
    """Ray must run."""
    use_case = load_use_case(str(ROOT / "use_cases" / f"{name}.py"))
    done = Pipeline(use_case, SETTINGS, ROOT / "feature_repo", AS_OF).run(until="training_set")
    return use_case, TrainingSet.from_json(done["training_set"].result)


def matrices(use_case: UseCase, training_set: TrainingSet) -> dict[str, NDArray[Any]]:
    """Train, validation, and what the last fit sees, with one encoding, and the test period's rows and days."""
    task, frame = use_case.label.task, read_parquet(training_set.url)
    parts = split_by_time(frame, AS_OF, use_case.split, task)
    end = use_case.split.trained_until(AS_OF)
    seen = frame.filter((frame[PREDICTION_TIME] < end) & (frame[LABEL_KNOWN_AT] <= end)).sort(PREDICTION_TIME)
    encoder = fit_encoder(parts.train, training_set.features)
    found = dict[str, NDArray[Any]]()
    for part, rows in {"train": parts.train, "validation": parts.validation, "seen": seen, "test": parts.test}.items():
        found[part], found[f"{part}_label"] = encoder.encode(rows), np.asarray(task.encoded(rows[LABEL]))
    return found
