"""The replica of an endpoint."""

import asyncio
import logging
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import ray
from ray import serve
from ray.serve._private.common import RUNNING_REQUESTS_KEY
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from mlops_ray.config import Settings
from mlops_ray.cost.replica import LOOK_S as COST_LOOK_S
from mlops_ray.cost.replica import ReplicaMeter
from mlops_ray.cost.work import Work
from mlops_ray.errors import ForbiddenError, IntegrityError, MlopsRayError
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.database_clock import DatabaseClock
from mlops_ray.governance.leases import hold
from mlops_ray.governance.live import VersionRef
from mlops_ray.governance.missing_ledger import report_missing
from mlops_ray.governance.signatures import demands_signature
from mlops_ray.monitoring.drift_actor import keep_watching
from mlops_ray.predictions.label_writer import LabelWriter
from mlops_ray.predictions.writer import LedgerWriter
from mlops_ray.registry.model_registry import Registry
from mlops_ray.registry.model_signature import expect_demanded_signature
from mlops_ray.registry.sealed_model import load
from mlops_ray.registry.served_packages import other_packages
from mlops_ray.serving.auth import Guard, is_public, tokens_of
from mlops_ray.serving.credentials import expect_credentials, with_persons
from mlops_ray.serving.duty import Duty
from mlops_ray.serving.endpoint import Endpoint
from mlops_ray.serving.environment import SERVING_CPUS
from mlops_ray.serving.follower import Follower
from mlops_ray.serving.freshness import LOOK_S, FreshnessWatch
from mlops_ray.serving.golden import replay_golden_requests
from mlops_ray.serving.key_watch import key_set_duty
from mlops_ray.serving.label_routes import LabelRoutes
from mlops_ray.serving.metrics import Metrics
from mlops_ray.serving.middleware import answer_here
from mlops_ray.serving.model_deployment import CALLS_AT_A_TIME, RemoteModel
from mlops_ray.serving.operations import Operations
from mlops_ray.serving.predictor import OnlineReader, Predictor
from mlops_ray.serving.push_routes import PushRoutes
from mlops_ray.serving.replica_process import CLOCK_LOOK_S, LOGGING, http_host, set_aside_what_stays, set_up_process
from mlops_ray.serving.served_version import ServedVersion
from mlops_ray.serving.site import ROUTES
from mlops_ray.serving.slots import Slots

PUBLISHED_S = 1.0
MISSING_S = 15.0

OpenReader = Callable[[Settings, str], OnlineReader]

_logger = logging.getLogger(__name__)


@serve.deployment(
    name="endpoint",
    health_check_period_s=1,  # how long a replica may be dead before another one is started
    health_check_timeout_s=10,
    graceful_shutdown_timeout_s=20,
    graceful_shutdown_wait_loop_s=0.5,
    logging_config=LOGGING,
)
@serve.ingress()
class EndpointReplica:
    """Holds the versions that are live, each verified by its digest before the first request comes."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        registry: Registry,
        open_reader: OpenReader,
        model: DeploymentHandle | None,
        governor: DeploymentHandle | None,
        at_work: int,
        waiting: int,
    ):
        """model: where it runs, if that is not here. governor: only so that it is part of the application. at_work,
        waiting: so many requests are at work with a model at a time, and so many wait."""
        set_up_process()
        store = open_store(settings)
        settings = with_persons(settings, store)
        self._store = store
        expect_credentials(settings, store, http_host())
        context = serve.get_replica_context()
        self._name, self._settings, self._registry, self._open_reader = name, settings, registry, open_reader
        self._model, self._loop = model, asyncio.get_running_loop()
        clock = DatabaseClock(store)
        clock.look()
        self._ledger, self._labels = LedgerWriter(settings, name), LabelWriter(settings, name, clock=clock)
        self._guard = Guard(name, {}, tokens_of(settings), is_public(settings, http_host()), clock)
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
            busy_from=max(1, at_work // 2),
            slots=Slots(at_work, waiting),
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
        set_aside_what_stays()

    def _cost_meter(self, store: ControlStore, settings: Settings) -> ReplicaMeter:
        asked = ray.get_runtime_context().get_assigned_resources()
        work = Work(asked.get("CPU", 0.0) + asked.get(SERVING_CPUS, 0.0), int(asked.get("memory", 0)))
        follower = self._follower
        return ReplicaMeter(
            store, settings, self._name, lambda: follower.traffic.ref.version, follower.answered, work,
            asked.get("GPU", 0.0),
        )  # fmt: skip

    def __serve_build_asgi_app__(self) -> ASGIApp:
        application = serve.get_replica_context().app_name
        answer_here(f"{ROUTES}/models/{self._name}", application, self._endpoint.app)
        return self._endpoint.app

    async def record_autoscaling_stats(self) -> dict[str, int]:
        """In the place of Serve's own count, which knows nothing of requests that `Edge` answers."""
        return {RUNNING_REQUESTS_KEY: self._endpoint.app.at_work}

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
