"""Monitoring: the routes by which people see how predictions are watched, and set it."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, UseCaseError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor
from mlops_ray.governance.monitoring_definitions import MonitoringRevision, definitions
from mlops_ray.governance.policy_changes import PolicyChange
from mlops_ray.governance.principals import LOOKS
from mlops_ray.serving.approvals import expect_role, may_one
from mlops_ray.serving.http import Request, Response, Route
from mlops_ray.serving.operations import Reason, RevisionNumber, actor_of, read_body

CHANGES_AT_A_TIME = 2


class MonitoringBody(msgspec.Struct, forbid_unknown_fields=True):
    """definition: null for what each model was sealed with. revision: that held when the caller looked."""

    model: Annotated[str, Meta(max_length=200)]
    definition: dict[str, Any] | None
    revision: RevisionNumber
    reason: Reason


class Monitored:
    """Of all use cases; a caller needs a role on the one that it is about."""

    def __init__(self, settings: Settings, store: ControlStore):
        self._settings, self._store = settings, store
        # Of their own: MLflow, or a download, may hang in each, and no decision or key waits for either.
        self._threads = ThreadPoolExecutor(CHANGES_AT_A_TIME, thread_name_prefix="monitoring")

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            "/monitoring": {"GET": Route(self._list, None)},
            "/monitoring/set": {"POST": Route(self._set, None)},
        }

    async def _list(self, request: Request) -> Response:
        found = await asyncio.to_thread(definitions, self._store)
        seen = [one.to_json() for one in found if may_one(request.principal, LOOKS, one.use_case)]
        return Response({"definitions": seen})

    async def _set(self, request: Request) -> Response:
        """202 with the change where somebody else has to approve it."""
        body = await read_body(request, MonitoringBody)
        expect_role(request.principal, ("operate",), body.model)
        actor = actor_of(request, body.model)
        made = await asyncio.get_running_loop().run_in_executor(self._threads, self._made, actor, body)
        return Response(made.to_json(), 202 if isinstance(made, PolicyChange) else 200)

    def _made(self, actor: Actor, body: MonitoringBody) -> MonitoringRevision | PolicyChange:
        # Imported where it is needed: learning what is normal takes SciPy, and few ever ask.
        from mlops_ray.monitoring.definition import set_monitoring
        from mlops_ray.monitoring.foreign_model import every_version
        from mlops_ray.use_case import Monitoring

        try:
            wanted = None if body.definition is None else Monitoring.from_json(body.definition)
        except UseCaseError as error:
            raise ConfigurationError(str(error)) from error
        registry = every_version(self._settings, self._store)
        return set_monitoring(self._store, registry, actor, body.model, wanted, body.reason, body.revision)
