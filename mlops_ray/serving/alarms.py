"""Alarms: the route by which people say that nobody has to act on one for a time."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from mlops_ray.governance.alarms import silence_alarm
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.serving.approvals import expect_role
from mlops_ray.serving.http import Request, Response, Route
from mlops_ray.serving.operations import Reason, actor_of, read_body


class SilenceBody(msgspec.Struct, forbid_unknown_fields=True):
    """alarm: the id of one that is not resolved, or its beginning. until: when it speaks again."""

    use_case: Annotated[str, Meta(max_length=200)]
    alarm: Annotated[str, Meta(min_length=1, max_length=200)]
    until: Annotated[datetime, Meta(tz=True)]
    reason: Reason


class Alarms:
    """Of all use cases; a caller operates the one that the body names."""

    def __init__(self, store: ControlStore):
        self._store = store

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {"/alarms/silence": {"POST": Route(self._silence, None)}}

    async def _silence(self, request: Request) -> Response:
        body = await read_body(request, SilenceBody)
        expect_role(request.principal, ("operate",), body.use_case)
        actor, now = actor_of(request, body.use_case), datetime.now(UTC)
        silenced = await asyncio.to_thread(
            silence_alarm, self._store, actor, body.use_case, body.alarm, body.reason, body.until, now
        )
        return Response({"alarm": silenced.id, "use_case": body.use_case, "silenced_until": body.until.isoformat()})
