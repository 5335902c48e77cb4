"""What is sealed answers as the model that was fitted."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import DataError
from mlops_ray.pipeline.sealing import fit_score_and_seal
from mlops_ray.registry.sealed_model import load
from mlops_ray.training.candidates.logistic_regression import LogisticRegression
from mlops_ray.training.trial import Trial
from mlops_ray.use_case import Candidate, Classifier
from tests.integration.search_setting import make_settings, make_training_set, make_use_case


@dataclass(frozen=True)
class Shifted:
    """Answers with so much more than its ONNX export."""

    classifier: Classifier
    by: float

    def predict_probability(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return self.classifier.predict_probability(matrix) + self.by

    def to_onnx(self) -> bytes:
        return self.classifier.to_onnx()


@dataclass(frozen=True)
class Misexported(LogisticRegression):
    by: float = 0.0

    def fit(self, *args: Any, **kwargs: Any) -> Iterator[tuple[float, Any]]:
        for fraction, classifier in super().fit(*args, **kwargs):
            yield fraction, Shifted(classifier, self.by)


def seal(folder: Path, candidate: Candidate) -> dict[str, Any]:
    trial = Trial(candidate.name, 0, {"l2": 1e-4, "iterations": 30})
    settings = make_settings(folder)
    return fit_score_and_seal(make_use_case((candidate,), 1), settings, make_training_set(settings), trial)


def test_a_sealed_model_loads_by_its_digest_and_says_how_good_it_is(tmp_path: Path) -> None:
    sealed = seal(tmp_path, LogisticRegression())
    Artifacts(make_settings(tmp_path).artifacts).download(
        tmp_path / "model", "sealed_models", "planes", sealed["digest"]
    )
    assert load(tmp_path / "model", sealed["digest"]).schema.named("number") == ("wind",)
    assert sealed["evaluation"]["test_rows"] == 120
    assert sealed["evaluation"]["roc_auc"]["value"] > 0.8
    assert sealed["evaluation"]["importance"]["features"]["wind"] > 0.1


@pytest.mark.parametrize("by", [1e-4, math.nan])
def test_an_export_that_answers_otherwise_is_not_sealed(tmp_path: Path, by: float) -> None:
    with pytest.raises(DataError, match="The ONNX export of logistic_regression differs from the trained model by"):
        seal(tmp_path, Misexported(by=by))
    assert not list(tmp_path.rglob("model.onnx"))
