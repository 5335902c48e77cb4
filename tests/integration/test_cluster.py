"""cluster.yaml satisfies Ray's own schema, and its nodes get what Serve needs before Ray starts."""

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from mlops_ray.config import load_settings
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


@pytest.mark.parametrize("part", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_every_node_is_given_what_its_variables_name(cluster: dict[str, Any], part: str) -> None:
    """The token where Ray looks for it, settings and secret below the folder that is linked to /etc/mlops-ray."""
    start = next(command for command in cluster[part] if "ray start" in command)
    given = dict(word.rstrip(";").split("=", 1) for word in shlex.split(start) if "=" in word)
    assert given["RAY_AUTH_MODE"] == "token"
    assert "~/.ray/auth_token" in cluster["file_mounts"]
    assert any("ln -sfn ~/mlops_ray_settings /etc/mlops-ray" in command for command in cluster["setup_commands"])
    shipped = {Path(one).name for one in cluster["file_mounts"] if one.startswith("~/mlops_ray_settings/")}
    settings = load_settings(str(ROOT / "deploy" / "production.yaml"))
    assert {Path(given["MLOPS_RAY_SETTINGS"]).name, Path(settings.ledger_secret_file).name} == shipped
    assert {str(Path(one).parent) for one in (given["MLOPS_RAY_SETTINGS"], settings.ledger_secret_file)} == {
        "/etc/mlops-ray"
    }
    assert given["MLOPS_RAY_PROJECT"].removeprefix("$HOME") == "/mlops_ray"
    assert (ROOT / "use_cases").is_dir()


def test_what_is_secret_is_not_committed(cluster: dict[str, Any]) -> None:
    secret = [local for remote, local in cluster["file_mounts"].items() if remote.startswith("~/mlops_ray_settings/")]
    done = subprocess.run(["git", "check-ignore", *secret], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == secret


def test_doctor_looks_when_the_head_has_started(cluster: dict[str, Any]) -> None:
    assert "mlops-ray doctor" in cluster["head_start_ray_commands"][-1]
    assert "ray start --head" in cluster["head_start_ray_commands"][-2]


def test_the_settings_are_of_services_that_all_nodes_share() -> None:
    settings = load_settings(str(ROOT / "deploy" / "production.yaml"))
    schemes = {name: getattr(settings, name).split("://")[0] for name in ("artifacts", "control_store", "online_store")}
    assert schemes == {"artifacts": "s3", "control_store": "postgresql", "online_store": "redis"}
