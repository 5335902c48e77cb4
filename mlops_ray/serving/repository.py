"""The models of this server, as the model repository extension of the protocol lists them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.history import use_cases
from mlops_ray.governance.live import live
from mlops_ray.governance.principals import ROLES, Principal
from mlops_ray.serving.http import HttpError, Request, Response, Route
from mlops_ray.serving.json_body import order_of

RunningModels = Callable[[], Awaitable[Mapping[str, bool]]]


class IndexBody(msgspec.Struct):
    """ready: list those alone that take requests. Other parts of the body are passed over."""

    ready: bool = False


class Repository:
    """running: each model that is deployed here, and whether it takes requests."""

    def __init__(self, store: ControlStore, running: RunningModels):
        self._store, self._running = store, running

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {"/repository/index": {"POST": Route(self._index, None)}}

    async def not_found(self, request: Request) -> Response:
        """For a path that this application does not have. Raises HttpError 503 below a model that is deployed: the
        front end has not learned its route yet, or again; 404 for all others."""
        name = request.path.removeprefix("/models/").partition("/")[0]
        if request.path.startswith("/models/") and name in await self._running():
            raise HttpError(503, f"Model {name} is not reached yet. Ask again.", headers={"retry-after": "1"})
        raise HttpError(404, f"There is nothing at {request.path[:200]!a} of this server.")

    async def _index(self, request: Request) -> Response:
        """Of the use cases on which the caller may do anything."""
        request.expect_content_type()
        body = order_of(await request.body(), IndexBody)
        assert request.principal is not None
        listed = await asyncio.to_thread(self._listed, await self._running(), request.principal)
        return Response([one for one in listed if one["state"] == "READY" or not body.ready])

    def _listed(self, running: Mapping[str, bool], principal: Principal) -> list[dict[str, Any]]:
        found, now = [], datetime.now(UTC)
        for name in use_cases(self._store):
            if not any(principal.may(role, name, now) for role in ROLES):
                continue
            state = live(self._store, name)
            if state.champion is not None:
                ready = running.get(name)
                why = "" if ready else "not deployed here" if ready is None else "its replicas are not ready"
                found.append(_entry(name, state.champion.version, "READY" if ready else "UNAVAILABLE", why))
            if state.rollout is not None and principal.may("operate", name, now):
                loading = state.rollout.state == "loading"
                what = "LOADING" if loading else "READY"
                found.append(_entry(name, state.rollout.version.version, what, "in a rollout"))
        return found


def _entry(name: str, version: int, state: str, reason: str) -> dict[str, Any]:
    return {"name": name, "version": str(version), "state": state, "reason": reason}
