"""The Serve applications: one for each use case at `/v2/models/<name>`, and a small one that owns the rest: what is
below `/v2` beside them, and `/console`."""

from collections.abc import Mapping
from typing import Any

import ray
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import BackpressureConfig

from mlops_ray.config import Settings, load_settings, settings_from_environment
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.declared_resources import Resources, resources_of
from mlops_ray.registry.model_registry import MlflowRegistry, Registry
from mlops_ray.serving.endpoint_replica import EndpointReplica, OpenReader
from mlops_ray.serving.environment import SERVING_CPUS
from mlops_ray.serving.http import MAX_AT_WORK
from mlops_ray.serving.model_deployment import ModelArgs, ModelDeployment
from mlops_ray.serving.predictor import OnlineReader
from mlops_ray.serving.replica_process import LOGGING
from mlops_ray.serving.server_replica import ServerReplica

SERVER_ROUTE = "/"  # and so all that is no model's
_REPLICA_CPUS = 1.0  # as Serve has it


class EndpointArgs(BaseModel):
    """`args` of one model's application in a Serve file. Settings come from `settings`, or else the environment.

    Replicas grow in number while more than half of `max_ongoing_requests` are at work in each, for `upscale_delay_s`,
    and shrink after `downscale_delay_s` of less. With `model_deployment` the model runs apart from the endpoint's
    replicas, for example on a GPU.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    settings: str | None = None
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=2, ge=1)
    upscale_delay_s: float = Field(default=30, ge=0)
    downscale_delay_s: float = Field(default=600, ge=0)
    max_ongoing_requests: int = Field(default=64, ge=1)
    max_queued_requests: int = Field(default=32, ge=1)
    model_deployment: ModelArgs | None = None


class ServerArgs(BaseModel):
    """`args` of the server's own application. Settings come from `settings`, or else the environment."""

    model_config = ConfigDict(extra="forbid")

    settings: str | None = None


def online_reader_of(settings: Settings, feature_project: str) -> OnlineReader:
    """A reader of the online store. Importing feast takes seconds, so only replicas that need it do."""
    from mlops_ray.features.store import Store

    return Store(settings, feature_project).online_reader()


def endpoint_application(
    args: EndpointArgs,
    settings: Settings,
    registry: Registry | None = None,
    open_reader: OpenReader = online_reader_of,
    governor: serve.Application | None = None,
) -> serve.Application:
    """The application of one model; its versions come from `registry`, by default MLflow's. governor: what lives and
    ends with the endpoint, see `beside`."""
    registry = registry or MlflowRegistry(settings)
    options = {
        "autoscaling_config": {
            "min_replicas": args.min_replicas,
            "max_replicas": args.max_replicas,
            "upscale_delay_s": args.upscale_delay_s,
            "downscale_delay_s": args.downscale_delay_s,
            "target_ongoing_requests": max(1, args.max_ongoing_requests // 2),
        },
        "max_ongoing_requests": MAX_AT_WORK,
        "max_queued_requests": args.max_queued_requests,
        "backpressure_config": BackpressureConfig(status_code=429, retry_after_s=1),
    }
    declared = resources_of(open_store(settings), args.model).get("endpoint") or Resources()
    options |= _as_declared(declared, options["autoscaling_config"], settings)
    endpoint: Any = EndpointReplica
    model = _model(args, registry, settings)
    room = args.max_ongoing_requests, args.max_queued_requests
    return endpoint.options(**options).bind(args.model, settings, registry, open_reader, model, governor, *room)


def _as_declared(declared: Resources, scaling: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """What is declared of an endpoint (`mlops-ray cost apply`) in the place of what its arguments say."""
    actor = _held(_REPLICA_CPUS if declared.cpus is None else declared.cpus, settings)
    if declared.memory_mb is not None:
        actor["memory"] = declared.memory_mb << 20
    bounds = {name: getattr(declared, name) for name in ("min_replicas", "max_replicas")}
    found = {"autoscaling_config": {**scaling, **{name: one for name, one in bounds.items() if one is not None}}}
    return found | {"ray_actor_options": actor}


def _held(cpus: float, settings: Settings) -> dict[str, Any]:
    """CPUs that a replica holds: those that nodes keep for what serves, or such as runs take, too. Raises
    ConfigurationError where no node keeps any, for which Serve would wait for ever."""
    if not settings.serving_cpus:
        return {"num_cpus": cpus}
    if ray.is_initialized() and not ray.cluster_resources().get(SERVING_CPUS):
        raise ConfigurationError(
            f"serving_cpus is {settings.serving_cpus}, and no node of this Ray keeps CPUs for what serves. Start its "
            f"nodes with them (`ray start --num-cpus=... --resources='{{\"{SERVING_CPUS}\": ...}}'`), or set it to 0."
        )
    return {"num_cpus": 0, "resources": {SERVING_CPUS: cpus}}


def beside(name: str, actor: type, *arguments: Any) -> serve.Application:
    """Something that is no endpoint, as a deployment of an endpoint's application: it works by itself, from its
    constructor on, and takes no CPU from others."""
    deployment: Any = serve.deployment(name=name, ray_actor_options={"num_cpus": 0}, logging_config=LOGGING)(actor)
    return deployment.bind(*arguments)


def _model(args: EndpointArgs, registry: Registry, settings: Settings) -> serve.Application | None:
    wanted = args.model_deployment
    if wanted is None:
        return None
    deployment: Any = ModelDeployment
    return deployment.options(
        ray_actor_options={**_held(wanted.num_cpus, settings), "num_gpus": wanted.num_gpus},
        autoscaling_config={"min_replicas": wanted.min_replicas, "max_replicas": wanted.max_replicas},
    ).bind(args.model, registry, settings)


def server_application(settings: Settings) -> serve.Application:
    """The application that owns what is no model's: the routes below `/v2`, and the console."""
    deployment: Any = ServerReplica
    return deployment.bind(settings)


def build_endpoint(args: EndpointArgs) -> serve.Application:
    """For `import_path` in a Serve file: the endpoint of one model."""
    return endpoint_application(args, _settings(args.settings))


def build_server(args: ServerArgs) -> serve.Application:
    """For `import_path` in a Serve file: what is no model's, at `/`."""
    return server_application(_settings(args.settings))


def _settings(file: str | None) -> Settings:
    return load_settings(file) if file else settings_from_environment()
