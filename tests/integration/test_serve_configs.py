"""The Serve files can be deployed as they are, and a mistyped key in one does not pass unnoticed."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from ray.serve.schema import ServeDeploySchema

from mlops_ray.config import Settings
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.declared_resources import Resources, declare_resources
from mlops_ray.governance.events import SYSTEM
from mlops_ray.retraining.governed_endpoint import GovernedArgs
from mlops_ray.serving.app import EndpointArgs, ServerArgs, endpoint_application
from mlops_ray.serving.model_deployment import ModelArgs

FILES = sorted((Path(__file__).parents[2] / "serve_configs").glob("*.yaml"))
ARGS: dict[str, type[BaseModel]] = {
    "mlops_ray.serving.app:build_endpoint": EndpointArgs,
    "mlops_ray.serving.app:build_server": ServerArgs,
    "mlops_ray.retraining.governed_endpoint:build_governed_endpoint": GovernedArgs,
}


def check(config: Any) -> None:
    """Ray's schema lets unknown keys pass, so what it read is compared with what was written."""
    deployed = ServeDeploySchema.model_validate(config)
    assert_known(config, deployed.model_dump())
    for application in config["applications"]:
        ARGS[application["import_path"]].model_validate(application.get("args", {}))


def assert_known(written: Any, read: Any) -> None:
    if isinstance(written, dict):
        assert written.keys() <= read.keys(), f"unknown keys: {sorted(written.keys() - read.keys())}"
        for key, value in written.items():
            assert_known(value, read[key])
    elif isinstance(written, list):
        for one, other in zip(written, read, strict=True):
            assert_known(one, other)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_serve_file_is_complete_and_portable(file: Path) -> None:
    config = yaml.safe_load(file.read_text())
    check(config)
    routes = {application["name"]: application["route_prefix"] for application in config["applications"]}
    assert routes.pop("server") == "/"
    assert routes
    assert all(route == f"/v2/models/{name}" for name, route in routes.items())
    assert "/home" not in file.read_text()


@pytest.mark.parametrize("path", [(), ("http_options",), ("applications", 1), ("applications", 1, "args")])
def test_a_mistyped_key_is_caught(path: tuple[Any, ...]) -> None:
    config = yaml.safe_load((FILES[0]).read_text())
    check(copy.deepcopy(config))
    part = config
    for key in path:
        part = part[key]
    part["mistpyed"] = 1
    with pytest.raises((AssertionError, ValueError), match="mistpyed"):
        check(config)


def test_an_endpoint_takes_what_is_declared_for_it_and_else_what_its_arguments_say(tmp_path: Path) -> None:
    settings = Settings(state=str(tmp_path), data=str(tmp_path))
    args = EndpointArgs(model="flights", min_replicas=2, max_replicas=9, downscale_delay_s=7)

    def deployed() -> tuple[Any, ...]:
        deployment = endpoint_application(args, settings)._bound_deployment
        scaling = deployment._deployment_config.autoscaling_config
        bounds = scaling.min_replicas, scaling.max_replicas, scaling.downscale_delay_s
        return *bounds, deployment.ray_actor_options

    assert deployed() == (2, 9, 7, {"num_cpus": 1})
    declare_resources(open_store(settings), SYSTEM, "flights", {"endpoint": Resources(0.5, 700, 1, 3)}, "advised")
    assert deployed() == (1, 3, 7, {"num_cpus": 0.5, "memory": 700 << 20})


def test_replicas_take_none_of_the_cpus_that_runs_take_where_nodes_keep_some_for_them(tmp_path: Path) -> None:
    settings = Settings(state=str(tmp_path), data=str(tmp_path), num_cpus=4, serving_cpus=2)
    args = EndpointArgs(model="flights", model_deployment=ModelArgs(num_cpus=0.5))
    app = endpoint_application(args, settings)._bound_deployment
    assert app.ray_actor_options == {"num_cpus": 0, "resources": {"serving_cpus": 1}}
    model = app.init_args[4]._bound_deployment.ray_actor_options
    assert (model["num_cpus"], model["resources"]) == (0, {"serving_cpus": 0.5})
    declare_resources(open_store(settings), SYSTEM, "flights", {"endpoint": Resources(0.25, 700)}, "advised")
    declared = endpoint_application(EndpointArgs(model="flights"), settings)._bound_deployment.ray_actor_options
    assert declared == {"num_cpus": 0, "resources": {"serving_cpus": 0.25}, "memory": 700 << 20}
