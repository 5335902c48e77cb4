"""What a step made is looked at before it is called unchanged."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.code_version import CodeVersion
from mlops_ray.config import Settings
from mlops_ray.pipeline.pipeline import PIPELINE
from mlops_ray.pipeline.steps.step import StepName, Where

DIGEST = "d" * 64


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    found = Artifacts(str(tmp_path / "artifacts"))
    found.write_json({}, "snapshots", "orders", DIGEST, "manifest.json")
    for parts in (("features", "view.parquet"), ("training_sets", "set.parquet")):
        found.write_bytes(b"rows", *parts)
    for name in ("model.onnx", "manifest.json"):
        found.write_bytes(b"content", "sealed_models", "orders", DIGEST, name)
    return found


def missing(step: StepName, artifacts: Artifacts, result: dict[str, Any]) -> str | None:
    settings = Settings(state="/state", data="/data", artifacts=artifacts.root)
    inputs = SimpleNamespace(use_case=SimpleNamespace(name="orders"), definitions=None)
    return PIPELINE[step].verify(
        inputs, result, Where(settings, "key", lambda event: None, {}, CodeVersion("c", False))
    )


def results(artifacts: Artifacts) -> dict[StepName, tuple[dict[str, Any], tuple[str, ...], str]]:
    """Of a step its result, a file of it, and what is said when that file is gone."""
    view = {"view": "customer", "url": artifacts.url("features", "view.parquet"), "digest": DIGEST, "rows": 1}
    table = {"digest": DIGEST, "url": artifacts.url("training_sets", "set.parquet")}
    sealed = ("sealed_models", "orders", DIGEST, "model.onnx")
    return {
        "ingest": (
            {"digest": DIGEST},
            ("snapshots", "orders", DIGEST, "manifest.json"),
            "snapshot dddddddddddd is not",
        ),
        "features": ({"views": [view]}, ("features", "view.parquet"), "the rows of customer are not below"),
        "training_set": (table, ("training_sets", "set.parquet"), "training set dddddddddddd is not below"),
        "evaluate": ({"digest": DIGEST, "files": {"model.onnx": "x"}}, sealed, "dddddddddddd lacks model.onnx below"),
    }


@pytest.mark.parametrize("step", ["ingest", "features", "training_set", "evaluate"])
def test_a_result_whose_file_is_gone_is_missing(step: StepName, artifacts: Artifacts) -> None:
    result, file, sentence = results(artifacts)[step]
    assert missing(step, artifacts, result) is None
    artifacts.delete(*file)
    assert sentence in str(missing(step, artifacts, result))


def test_without_a_feature_service_nothing_can_be_missing_online(artifacts: Artifacts) -> None:
    assert missing("materialize", artifacts, {}) is None
