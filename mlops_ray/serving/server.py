"""The application that owns `/v2`: what the Open Inference Protocol asks of a server, and what belongs to no model
alone."""

from importlib.metadata import version as package_version

from mlops_ray.config import Settings
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.serving.alarms import Alarms
from mlops_ray.serving.approvals import Approvals
from mlops_ray.serving.approvers import Approvers
from mlops_ray.serving.audit_log import AuditLog
from mlops_ray.serving.auth import Guard
from mlops_ray.serving.data import Data
from mlops_ray.serving.http import Request, Response, Route, Routes
from mlops_ray.serving.inventory import Inventory
from mlops_ray.serving.keys import Keys
from mlops_ray.serving.monitoring import Monitored
from mlops_ray.serving.openapi import openapi_of_server
from mlops_ray.serving.records import Records
from mlops_ray.serving.repository import Repository, RunningModels
from mlops_ray.serving.subscriptions import Subscriptions
from mlops_ray.serving.versions import Versions

EXTENSIONS = ("binary_tensor_data", "model_repository", "model_configuration", "statistics")


class ServerApi:
    """Name, version, liveness, readiness; the models that there are; approvals, lineage, keys, subscriptions, the audit
    log, the inventory, the data, and what is read of versions, drift and predictions. running: each model that is
    deployed here, and whether it takes requests."""

    def __init__(self, settings: Settings, store: ControlStore, guard: Guard, running: RunningModels) -> None:
        self._running = running
        self._document = openapi_of_server(package_version("mlops_ray"))
        repository = Repository(store, running)
        self.app = Routes(
            {
                "": {"GET": Route(self._describe, None)},
                "/health/live": {"GET": Route(self._live, None, public=True)},
                "/health/ready": {"GET": Route(self._ready, None)},
                "/openapi.json": {"GET": Route(self._describe_routes, None)},
                **repository.routes(),
                **Approvals(store).routes(),
                **Approvers(settings, store).routes(),
                **Versions(settings, store).routes(),
                **Keys(settings, store).routes(),
                **Subscriptions(settings, store).routes(),
                **AuditLog(settings, store).routes(),
                **Inventory(store).routes(),
                **Alarms(store).routes(),
                **Monitored(settings, store).routes(),
                **Data(settings, store).routes(),
                **Records(settings, store).routes(),
            },
            guard,
            not_found=repository.not_found,
        )

    async def _describe(self, request: Request) -> Response:
        return Response({"name": "mlops_ray", "version": package_version("mlops_ray"), "extensions": list(EXTENSIONS)})

    async def _live(self, request: Request) -> Response:
        return Response({"live": True})

    async def _ready(self, request: Request) -> Response:
        running = await self._running()
        waiting = sorted(name for name, runs in running.items() if not runs)
        ready = bool(running) and not waiting
        return Response({"ready": ready, "not_ready": waiting}, 200 if ready else 503)

    async def _describe_routes(self, request: Request) -> Response:
        return Response(self._document)
