"""What is imported costs every command, worker and replica its time: heavy libraries come when they are called."""

import subprocess
import sys

import pytest

HEAVY = {"duckdb", "feast", "ibis", "mlflow", "onnx", "onnxruntime", "scipy", "sklearn", "torch"}


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        ("mlops_ray.cli.main", set()),
        ("mlops_ray.training.candidates", set()),
        ("mlops_ray.ingestion.ingest", set()),
        ("mlops_ray.features.store", {"feast"}),
        ("mlops_ray.features.offline_store", {"feast"}),
        ("mlops_ray.registry.models", set()),
    ],
)
def test_a_module_imports_no_heavy_library_that_it_does_not_need(module: str, needed: set[str]) -> None:
    code = f"import sys, {module}; print(*{HEAVY} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) == needed


@pytest.mark.torch
def test_feast_finds_torch_when_it_asks_for_it() -> None:
    code = "import mlops_ray.features.feast, feast.online_response as asked; print(asked.get_torch().__name__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["torch"]
