"""Versions: the routes by which people see what is behind a version, and take one out of use.

They stand below `/v2`, as approvals do: who approves the first version of a model looks at it before it is served.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Annotated

import msgspec
from msgspec import Meta

from mlops_ray.config import Settings
from mlops_ray.governance.champion import retire
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.principals import LOOKS
from mlops_ray.governance.versions import RegisteredVersion, list_versions
from mlops_ray.registry.trace import trace, use_case_named
from mlops_ray.serving.approvals import RETIRED, Decision, VersionBody, change_version, expect_role, may_one
from mlops_ray.serving.http import HttpError, Request, Response, Route
from mlops_ray.serving.operations import read_body

TRACES_AT_A_TIME = 2


class LineageBody(msgspec.Struct, forbid_unknown_fields=True):
    """of: an endpoint (flights), a version (flights@7) or a request's id. near: see `trace`."""

    of: Annotated[str, Meta(max_length=200)]
    near: Annotated[datetime, Meta(tz=True)] | None = None


class Versions:
    """Of all use cases; a caller needs a role on the one that the body leads to."""

    def __init__(self, settings: Settings, store: ControlStore):
        self._settings, self._store = settings, store
        # Of their own: however many ask, decisions do not wait for what is read, nor is more read at a time.
        self._threads = ThreadPoolExecutor(TRACES_AT_A_TIME, thread_name_prefix="lineage")

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            "/versions/lineage": {"POST": Route(self._lineage, None)},
            "/versions/retire": {"POST": Route(self._retire, None)},
        }

    async def _lineage(self, request: Request) -> Response:
        """Who asks is judged before anything is read; a request is looked for where the caller has a role alone."""
        body = await read_body(request, LineageBody)
        principal = request.principal
        use_case = use_case_named(body.of)
        if use_case is not None:
            expect_role(principal, LOOKS, use_case)
        elif principal is None or not {*LOOKS, "admin"} & set(principal.roles):
            raise HttpError(403, f"This credential does not carry the role {LOOKS[0]!r}.", "authorization")
        find = partial(trace, self._settings, body.of, body.near, lambda name: may_one(principal, LOOKS, name))
        found = await asyncio.get_running_loop().run_in_executor(self._threads, find)
        return Response(found.to_json())

    async def _retire(self, request: Request) -> Response:
        return await change_version(self._store, request, _RETIREMENT)


def _retired(store: ControlStore, body: VersionBody) -> RegisteredVersion | None:
    found = (one for one in list_versions(store, body.model) if one.version == body.version and one.retired_at)
    return next(found, None)


_RETIREMENT = Decision(
    (RETIRED,),
    "operate",
    lambda store, actor, body: retire(store, actor, body.model, body.version, body.reason),
    _retired,
)
