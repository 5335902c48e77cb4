"""Versions: the routes by which people see what is behind a version, and take one out of use.

They stand below `/v2`, as approvals do: who approves the first version of a model looks at it before it is served.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from mlops_ray.config import Settings
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.live import retire
from mlops_ray.registry.trace import trace
from mlops_ray.serving.approvals import change_version, expect_role
from mlops_ray.serving.http import Request, Response, Route
from mlops_ray.serving.operations import read_body


class LineageBody(msgspec.Struct, forbid_unknown_fields=True):
    """of: an endpoint (flights), a version (flights@7) or a request's id. near: see `trace`."""

    of: Annotated[str, Meta(max_length=200)]
    near: Annotated[datetime, Meta(tz=True)] | None = None


class Versions:
    """Of all use cases; a caller needs a role on the one that the body leads to."""

    def __init__(self, settings: Settings, store: ControlStore):
        self._settings, self._store = settings, store

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            "/versions/lineage": {"POST": Route(self._lineage, None)},
            "/versions/retire": {"POST": Route(self._retire, None)},
        }

    async def _lineage(self, request: Request) -> Response:
        body = await read_body(request, LineageBody)
        found = await asyncio.to_thread(trace, self._settings, body.of, body.near)
        expect_role(request.principal, ("operate", "approve"), found.use_case)
        return Response(found.to_json())

    async def _retire(self, request: Request) -> Response:
        return await change_version(
            request,
            "operate",
            lambda actor, body: retire(self._store, actor, body.model, body.version, body.reason),
        )
