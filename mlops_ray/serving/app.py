"""The Serve applications: one for each use case at `/v2/models/<name>`, and a small one that owns `/v2`."""

import asyncio
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from starlette.types import ASGIApp

from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.registry.models import ModelVersion, champion, download
from mlops_ray.registry.sealed_model import load
from mlops_ray.serving.endpoint import Endpoint
from mlops_ray.serving.environment import settings_from_environment
from mlops_ray.serving.http import Request, Response, Routes
from mlops_ray.serving.openapi import openapi_of_server
from mlops_ray.serving.predictor import OnlineReader, Predictor

SERVER_APPLICATION = "server"
SERVER_ROUTE = "/v2"
STATUS_AGE_S = 1.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LiveModel:
    """The version that should be served, and the folder into which it was downloaded."""

    version: str
    digest: str
    folder: Path


FindModel = Callable[[Settings, str, Path], LiveModel]
OpenReader = Callable[[Settings, str], OnlineReader]


class EndpointArgs(BaseModel):
    """`args` of one model's application in a Serve file. Settings come from `settings`, or else the environment."""

    model_config = ConfigDict(extra="forbid")

    model: str
    settings: str | None = None
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=2, ge=1)
    max_ongoing_requests: int = Field(default=64, ge=1)


class ServerArgs(BaseModel):
    """`args` of the application that owns `/v2`; it takes none."""

    model_config = ConfigDict(extra="forbid")


def champion_of(settings: Settings, name: str) -> ModelVersion:
    """The version of `name` to serve. Raises ConfigurationError if there is none."""
    version = champion(settings, name)
    if version is None:
        raise ConfigurationError(f"Model {name!r} has no champion in {settings.mlflow_uri}. Run its pipeline first.")
    return version


def download_champion(settings: Settings, name: str, folder: Path) -> LiveModel:
    """Download the champion of `name` into `folder`. Raises ConfigurationError if there is none."""
    version = champion_of(settings, name)
    return LiveModel(str(version.version), version.digest, download(settings, version, folder))


def online_reader_of(settings: Settings, feature_service: str) -> OnlineReader:
    """A reader of the online store. Importing feast takes seconds, so only replicas that need it do."""
    from mlops_ray.features.store import Store

    return Store(settings, feature_service).online_reader()


def endpoint_application(
    args: EndpointArgs,
    settings: Settings,
    find_model: FindModel = download_champion,
    open_reader: OpenReader = online_reader_of,
) -> serve.Application:
    """The application of one model. Its parts come from the registry and the online store."""
    options = {
        "autoscaling_config": {
            "min_replicas": args.min_replicas,
            "max_replicas": args.max_replicas,
            "target_ongoing_requests": max(1, args.max_ongoing_requests // 2),
        },
        "max_ongoing_requests": args.max_ongoing_requests,
    }
    deployment: Any = _Endpoint
    return deployment.options(**options).bind(args.model, settings, find_model, open_reader)


def build_endpoint(args: EndpointArgs) -> serve.Application:
    """For `import_path` in a Serve file: the endpoint of the champion of one model."""
    settings = load_settings(args.settings) if args.settings else settings_from_environment()
    return endpoint_application(args, settings)


def build_server(args: ServerArgs) -> serve.Application:
    """For `import_path` in a Serve file: server metadata and health."""
    deployment: Any = _Server
    return deployment.bind()


@serve.deployment(
    name="endpoint",
    health_check_period_s=5,
    health_check_timeout_s=10,
    graceful_shutdown_timeout_s=20,
    graceful_shutdown_wait_loop_s=0.5,
)
@serve.ingress()
class _Endpoint:
    """A replica: the champion, verified by its digest before the first request comes."""

    def __init__(self, name: str, settings: Settings, find_model: FindModel, open_reader: OpenReader):
        with tempfile.TemporaryDirectory(prefix="mlops-ray-model-") as folder:
            live = find_model(settings, name, Path(folder))
            sealed = load(live.folder, live.digest)
        service = sealed.schema.feature_service
        reader = open_reader(settings, service) if service else None
        self._endpoint = Endpoint(name, live.version, Predictor(sealed, reader))
        self._endpoint.warm_up()
        _logger.info("Serving %s version %s (digest %s)", name, live.version, live.digest)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._endpoint.app

    async def check_health(self) -> None:
        self._endpoint.warm_up()


@serve.deployment(name="server", ray_actor_options={"num_cpus": 0}, graceful_shutdown_wait_loop_s=0.5)
@serve.ingress()
class _Server:
    """What the Open Inference Protocol asks of a server: name, version, liveness, readiness."""

    def __init__(self) -> None:
        self._version = package_version("mlops_ray")
        self._seen: tuple[float, dict[str, bool]] = (-STATUS_AGE_S, {})

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return Routes(
            {
                "": {"GET": self._describe},
                "/health/live": {"GET": self._live},
                "/health/ready": {"GET": self._ready},
                "/openapi.json": {"GET": self._document},
            }
        )

    async def _describe(self, request: Request) -> Response:
        return Response({"name": "mlops_ray", "version": self._version, "extensions": ["binary_tensor_data"]})

    async def _live(self, request: Request) -> Response:
        return Response({"live": True})

    async def _document(self, request: Request) -> Response:
        return Response(openapi_of_server(self._version))

    async def _ready(self, request: Request) -> Response:
        seen_at, running = self._seen
        if time.monotonic() - seen_at > STATUS_AGE_S:
            running = await asyncio.to_thread(_running_models)
            self._seen = (time.monotonic(), running)
        waiting = sorted(name for name, runs in running.items() if not runs)
        ready = bool(running) and not waiting
        return Response({"ready": ready, "not_ready": waiting}, 200 if ready else 503)


def _running_models() -> dict[str, bool]:
    """Every other application of this Serve, and whether all its deployments take requests."""
    applications: dict[str, Any] = serve.status().applications
    return {name: a.status == "RUNNING" for name, a in applications.items() if name != SERVER_APPLICATION}
