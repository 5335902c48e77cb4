"""The Serve applications: one for each use case at `/v2/models/<name>`, and a small one that owns the rest: what is
below `/v2` beside them, and `/console`."""

import asyncio
import gc
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig
from starlette.types import ASGIApp

from mlops_ray.config import Settings, load_settings, settings_from_environment
from mlops_ray.cost.replica import LOOK_S as COST_LOOK_S
from mlops_ray.cost.replica import ReplicaMeter
from mlops_ray.cost.work import Work
from mlops_ray.errors import ConfigurationError, ForbiddenError, IntegrityError, MlopsRayError
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.database_clock import DatabaseClock
from mlops_ray.governance.declared_resources import Resources, resources_of
from mlops_ray.governance.dispatcher import Dispatcher
from mlops_ray.governance.keys import active_keys
from mlops_ray.governance.leases import hold
from mlops_ray.governance.live import VersionRef
from mlops_ray.governance.missing_ledger import report_missing
from mlops_ray.governance.signatures import demands_signature
from mlops_ray.monitoring.drift_actor import keep_watching
from mlops_ray.predictions.label_writer import LabelWriter
from mlops_ray.predictions.writer import LedgerWriter
from mlops_ray.registry.model_registry import MlflowRegistry, Registry
from mlops_ray.registry.model_signature import expect_demanded_signature
from mlops_ray.registry.sealed_model import load
from mlops_ray.registry.served_packages import other_packages
from mlops_ray.serving.auth import Guard, is_public, tokens_of
from mlops_ray.serving.credentials import expect_credentials
from mlops_ray.serving.duty import Duty
from mlops_ray.serving.endpoint import Endpoint
from mlops_ray.serving.environment import SERVING_CPUS, uses_haproxy
from mlops_ray.serving.follower import Follower
from mlops_ray.serving.freshness import LOOK_S, FreshnessWatch
from mlops_ray.serving.front_ends import FRONT_END_LOOK_S, FrontEnds
from mlops_ray.serving.golden import replay_golden_requests
from mlops_ray.serving.key_watch import KeyWatch, key_set_duty
from mlops_ray.serving.label_routes import LabelRoutes
from mlops_ray.serving.metrics import Metrics
from mlops_ray.serving.model_deployment import CALLS_AT_A_TIME, ModelArgs, ModelDeployment, RemoteModel
from mlops_ray.serving.operations import Operations
from mlops_ray.serving.predictor import OnlineReader, Predictor
from mlops_ray.serving.push_routes import PushRoutes
from mlops_ray.serving.served_version import ServedVersion
from mlops_ray.serving.site import Site
from mlops_ray.serving.slots import Slots
from mlops_ray.state_folder import keep_closed

_logger = logging.getLogger(__name__)

SERVER_APPLICATION = "server"
SERVER_ROUTE = "/"  # and so all that is no model's
STATUS_AGE_S = 1.0
SWITCH_INTERVAL_S = 0.0005  # how long a thread beside the event loop (ledger, follower, audit) may keep it waiting
PUBLISHED_S = 1.0
YOUNG = 5_000  # objects, after which Python looks for circles among them
CLOCK_LOOK_S = 10.0  # an oscillator that is off by 50 millionths makes half a millisecond meanwhile
MISSING_S = 15.0
_REPLICA_CPUS = 1.0  # as Serve has it
MAX_ARRIVING = 4_000  # requests in a replica at all; who of them may work or wait is for `Slots` to say

OpenReader = Callable[[Settings, str], OnlineReader]


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
        "max_ongoing_requests": MAX_ARRIVING,
        "max_queued_requests": args.max_queued_requests,
        "backpressure_config": BackpressureConfig(status_code=429, retry_after_s=1),
    }
    declared = resources_of(open_store(settings), args.model).get("endpoint") or Resources()
    options |= _as_declared(declared, options["autoscaling_config"], settings)
    endpoint: Any = _Endpoint
    model = _model(args, registry, settings)
    return endpoint.options(**options).bind(args, settings, registry, open_reader, model, governor)


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
    deployment: Any = serve.deployment(name=name, ray_actor_options={"num_cpus": 0}, logging_config=_LOGGING)(actor)
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
    deployment: Any = _Server
    return deployment.bind(settings)


def build_endpoint(args: EndpointArgs) -> serve.Application:
    """For `import_path` in a Serve file: the endpoint of one model."""
    return endpoint_application(args, _settings(args.settings))


def build_server(args: ServerArgs) -> serve.Application:
    """For `import_path` in a Serve file: what is no model's, at `/`."""
    return server_application(_settings(args.settings))


def _settings(file: str | None) -> Settings:
    return load_settings(file) if file else settings_from_environment()


# Serve would write a line for each request, which costs more than the model; even one that a filter drops costs
# 16 us, so its level is what it warns of.
_LOGGING = LoggingConfig(encoding="JSON", enable_access_log=False, log_level="WARNING")


def _set_up_process() -> None:
    """What a replica writes is its user's alone, whoever started Ray.

    Our lines from INFO on go where Serve's go: as JSON to the replica's log file, with the id of the request.
    """
    keep_closed()
    ours = logging.getLogger("mlops_ray")
    ours.handlers, ours.propagate = list(logging.getLogger("ray.serve").handlers), False
    ours.setLevel(logging.INFO)


def _set_aside_what_stays() -> None:
    """What a replica is made of is not looked through for garbage again: half a million objects, for which every full
    collection held up all callers for 50 to 300 ms, each few seconds under load. And the young are looked through less
    often than after each 700: a request makes some hundred, of which none is in a circle, and that was a tenth of its
    CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)


@serve.deployment(
    name="endpoint",
    health_check_period_s=1,  # how long a replica may be dead before another one is started
    health_check_timeout_s=10,
    graceful_shutdown_timeout_s=20,
    graceful_shutdown_wait_loop_s=0.5,
    logging_config=_LOGGING,
)
@serve.ingress()
class _Endpoint:
    """A replica: holds the versions that are live, each verified by its digest before the first request comes."""

    def __init__(
        self,
        args: EndpointArgs,
        settings: Settings,
        registry: Registry,
        open_reader: OpenReader,
        model: DeploymentHandle | None,
        governor: DeploymentHandle | None,  # only so that it is part of the application
    ):
        _set_up_process()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        name, store = args.model, open_store(settings)
        self._store = store
        expect_credentials(settings, store, _http_host())
        context = serve.get_replica_context()
        self._name, self._settings, self._registry, self._open_reader = name, settings, registry, open_reader
        self._model, self._loop = model, asyncio.get_running_loop()
        clock = DatabaseClock(store)
        clock.look()
        self._ledger, self._labels = LedgerWriter(settings, name), LabelWriter(settings, name, clock=clock)
        self._guard = Guard(name, {}, tokens_of(settings), is_public(settings, _http_host()), clock)
        self._follower = Follower(
            store, name, context.replica_id.unique_id, ray.get_runtime_context().get_node_id(),
            self._load, self._guard, lambda version: registry.show_champion(name, version.version),
            self._ledger.unmoved,
        )  # fmt: skip
        operations = Operations(store, name, self._find, self._follower.request_columns)
        labels = LabelRoutes(settings, name, self._follower, self._labels)
        pushes = PushRoutes(settings, name, self._follower, clock)
        self._endpoint = Endpoint(
            name, self._follower, self._ledger, self._guard,
            {**operations.routes(), **labels.routes(), **pushes.routes()},
            busy_from=max(1, args.max_ongoing_requests // 2),
            slots=Slots(args.max_ongoing_requests, args.max_queued_requests),
        )  # fmt: skip
        self._metrics = Metrics(name)
        replica_id = context.replica_id.unique_id
        freshness = FreshnessWatch(settings, store, name, self._follower, clock, replica_id)
        self._cost = self._cost_meter(store, settings)
        self._duties = (
            Duty("metrics", self._publish, PUBLISHED_S),
            Duty("cost", self._cost.round, COST_LOOK_S),
            key_set_duty(settings, self._guard),  # API keys are the follower's, who looks oftener
            Duty("clock", clock.look, CLOCK_LOOK_S),
            Duty("feature freshness", freshness.look, LOOK_S),
            Duty("missing ledger", lambda: self._look_for_missing(store, replica_id), MISSING_S),
        )
        self._ledger.start()
        self._labels.start()
        self._follower.prepare()
        self._follower.start()
        for duty in self._duties:
            duty.start()
        keep_watching(settings, name, registry)
        _set_aside_what_stays()

    def _cost_meter(self, store: ControlStore, settings: Settings) -> ReplicaMeter:
        asked = ray.get_runtime_context().get_assigned_resources()
        work = Work(asked.get("CPU", 0.0) + asked.get(SERVING_CPUS, 0.0), int(asked.get("memory", 0)))
        follower = self._follower
        return ReplicaMeter(
            store, settings, self._name, lambda: follower.traffic.ref.version, follower.answered, work,
            asked.get("GPU", 0.0),
        )  # fmt: skip

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._endpoint.app

    async def check_health(self) -> None:
        for thread in (self._follower, self._ledger, self._labels, *self._duties):
            thread.expect_alive()
        self._follower.traffic.champion.warm_up()

    def __del__(self) -> None:
        for duty in self._duties:
            duty.stop()
        with suppress(MlopsRayError):
            self._cost.end()
        self._follower.stop()
        self._ledger.close()
        self._labels.close()

    def _find(self, number: int) -> VersionRef:
        """The version that shall come in. Raises ForbiddenError if it must be signed and no signature holds."""
        version = self._registry.find(self._name, number)
        try:
            with tempfile.TemporaryDirectory(prefix="mlops-ray-model-") as folder:
                if demands_signature(self._store, self._name, version):
                    self._fetch(version, Path(folder))
        except IntegrityError as error:
            raise ForbiddenError(f"{self._name} demands signed models: {error}") from error
        return version

    def _fetch(self, version: VersionRef, folder: Path) -> Path:
        """Raises IntegrityError if the use case demands a signature, and there is none that holds."""
        files = self._registry.fetch(self._name, version, folder)
        if demands_signature(self._store, self._name, version):
            expect_demanded_signature(self._settings, files)
        return files

    def _load(self, version: VersionRef) -> ServedVersion:
        with tempfile.TemporaryDirectory(prefix="mlops-ray-model-") as folder:
            files = self._fetch(version, Path(folder))
            sealed = load(files, version.digest)
            if others := other_packages(files):
                what = "Version %d of %s was sealed, and looked up for vulnerabilities, with other packages: %s"
                _logger.warning(what, version.version, self._name, ", ".join(others))
        replay_golden_requests(sealed)
        reader = None
        if sealed.schema.feature_project:
            # One for each version: each reads the definitions that it was trained with.
            reader = self._open_reader(self._settings, sealed.schema.feature_project)
        if self._model is not None:
            sealed = replace(sealed, model=RemoteModel(self._model, version, self._loop))
        predictor = Predictor(sealed, reader)
        served = ServedVersion(self._name, str(version.version), predictor, CALLS_AT_A_TIME if self._model else 0)
        self._ledger.add_version(served.version, served.schema)
        return served

    def _publish(self) -> None:
        readers = [served.predictor.reader for served in self._follower.versions()]
        lookups = [reader for reader in readers if reader is not None]
        self._metrics.publish(self._follower.counts, lookups, self._endpoint.shadow.dropped, self._ledger.lag())
        self._metrics.publish_answers(self._endpoint.app.answers)
        self._metrics.publish_judged([(served.version, served.judged) for served in self._follower.versions()])

    def _look_for_missing(self, store: ControlStore, replica_id: str) -> None:
        """One replica of a use case is enough for that."""
        if not hold(store, f"missing ledger {self._name}", replica_id, timedelta(seconds=2 * MISSING_S)):
            report_missing(store, self._name)


def _http_host() -> str:
    """Where this Serve listens, whoever started it."""
    from ray.serve.context import _get_global_client

    return str(_get_global_client().http_config.host)


@serve.deployment(
    name="server", ray_actor_options={"num_cpus": 0}, graceful_shutdown_wait_loop_s=0.5, logging_config=_LOGGING
)
@serve.ingress()
class _Server:
    """`Site`, the dispatcher of notifications, and what looks after the front ends."""

    def __init__(self, settings: Settings) -> None:
        _set_up_process()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._settings = settings
        self._store = open_store(settings)
        public = is_public(settings, _http_host())
        clock = DatabaseClock(self._store)
        clock.look()
        self._clock = Duty("clock", clock.look, CLOCK_LOOK_S)
        self._clock.start()
        self._guard = Guard(None, active_keys(self._store), tokens_of(settings), public, clock)
        self._key_watch = KeyWatch(self._store, settings, self._guard)
        self._key_watch.start()
        self._dispatcher = Dispatcher(self._store, settings)
        self._dispatcher.start()
        self._front_ends = Duty("front ends", FrontEnds().look, FRONT_END_LOOK_S)
        if uses_haproxy():
            self._front_ends.start()
        # Of its own: Serve's controller may hang, probes come each second, and keys are revoked by the same process.
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="status")
        self._seen: tuple[float, dict[str, bool]] = (-STATUS_AGE_S, {})

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return Site(self._settings, self._store, self._guard, self._running)

    async def check_health(self) -> None:
        self._key_watch.expect_alive()
        self._clock.expect_alive()

    def __del__(self) -> None:
        self._key_watch.stop()
        self._clock.stop()
        self._dispatcher.stop()
        self._front_ends.stop()

    async def _running(self) -> dict[str, bool]:
        seen_at, running = self._seen
        if time.monotonic() - seen_at > STATUS_AGE_S:
            running = await asyncio.get_running_loop().run_in_executor(self._asking, _running_models)
            self._seen = (time.monotonic(), running)
        return running


def _running_models() -> dict[str, bool]:
    """Every other application of this Serve, and whether all its deployments take requests."""
    applications: dict[str, Any] = serve.status().applications
    return {name: a.status == "RUNNING" for name, a in applications.items() if name != SERVER_APPLICATION}
