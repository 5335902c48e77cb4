"""The inventory: the routes by which people see all use cases, and say that they looked at one."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.inventory import REVIEWERS, inventory, review
from mlops_ray.governance.principals import LOOKS
from mlops_ray.serving.approvals import expect_role, may_one
from mlops_ray.serving.http import Request, Response, Route
from mlops_ray.serving.operations import Reason, actor_of, read_body


class ReviewBody(msgspec.Struct, forbid_unknown_fields=True):
    """reason: what was looked at, and what was found."""

    use_case: Annotated[str, Meta(max_length=200)]
    reason: Reason


class Inventory:
    """Of the use cases on which the caller operates, approves or audits."""

    def __init__(self, store: ControlStore):
        self._store = store

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            "/inventory": {"GET": Route(self._list, None)},
            "/inventory/review": {"POST": Route(self._review, None)},
        }

    async def _list(self, request: Request) -> Response:
        now = datetime.now(UTC)
        found = await asyncio.to_thread(inventory, self._store, now)
        seen = [one.shown(now) for one in found if may_one(request.principal, LOOKS, one.use_case)]
        return Response({"use_cases": seen})

    async def _review(self, request: Request) -> Response:
        body = await read_body(request, ReviewBody)
        expect_role(request.principal, REVIEWERS[:1], body.use_case)
        actor = actor_of(request, body.use_case)
        event = await asyncio.to_thread(review, self._store, actor, body.use_case, body.reason)
        return Response({"use_case": body.use_case, "reviewed_at": event.time.isoformat(), "reviewed_by": event.actor})
