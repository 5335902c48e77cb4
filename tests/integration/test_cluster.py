"""cluster.yaml satisfies Ray's own schema, and its nodes get what Serve needs before Ray starts."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from mlops_ray.serving.environment import SERVE_ENVIRONMENT

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cluster() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "cluster.yaml").read_text()))


def test_it_is_valid_for_the_cluster_launcher(cluster: dict[str, Any]) -> None:
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(cluster, json.loads(schema.read_text()))
    validate_config(prepare_config(cluster))


def test_a_mistyped_key_is_caught(cluster: dict[str, Any]) -> None:
    cluster["max_worker"] = cluster.pop("max_workers")
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(prepare_config(cluster))


@pytest.mark.parametrize("part", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_serve_gets_its_variables_before_ray_starts(cluster: dict[str, Any], part: str) -> None:
    start = next(command for command in cluster[part] if "ray start" in command)
    assert start.index("mlops-ray cluster serve-env") < start.index("ray start")
    assert "RAY_SERVE_ENABLE_HA_PROXY" in SERVE_ENVIRONMENT
