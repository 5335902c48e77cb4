"""Approvals: the routes by which people ask for, give and take back the approval of a version.

They stand below `/v2`, not below a model: the first version of a model is approved before anything serves it.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from mlops_ray.governance.approvals import Approval, approve, list_approvals, reject, request, revoke
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor
from mlops_ray.governance.live import Live, break_glass
from mlops_ray.governance.principals import Principal, Role
from mlops_ray.governance.versions import RegisteredVersion
from mlops_ray.serving.http import HttpError, Request, Response, Route
from mlops_ray.serving.operations import actor_of, read_body

LONGEST_REASON = 2000


class VersionBody(msgspec.Struct, forbid_unknown_fields=True):
    """digest: of the sealed model that the caller looked at, to refuse another one. revision: of what was live when the
    caller looked; with it, breaking the glass a second time changes nothing."""

    model: str
    version: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    reason: Annotated[str, Meta(max_length=LONGEST_REASON)] = ""
    digest: Annotated[str, Meta(max_length=64)] | None = None
    revision: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None


Change = Callable[[Actor, VersionBody], Approval | Live | RegisteredVersion]


class Approvals:
    """Of all use cases; a caller needs the role on the one that the body names."""

    def __init__(self, store: ControlStore):
        self._store = store

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        # The role depends on the use case in the body, so the routes themselves only ask who it is.
        return {
            "/approvals": {"GET": Route(self._list, None)},
            "/approvals/request": {"POST": Route(self._request, None)},
            "/approvals/approve": {"POST": Route(self._approve, None)},
            "/approvals/reject": {"POST": Route(self._reject, None)},
            "/approvals/revoke": {"POST": Route(self._revoke, None)},
            "/approvals/break-glass": {"POST": Route(self._break_glass, None)},
        }

    async def _list(self, request: Request) -> Response:
        """Of the use cases on which the caller operates or approves, the newest first."""
        found = await asyncio.to_thread(list_approvals, self._store)
        seen = [asdict(one) for one in found if _may(request.principal, ("operate", "approve"), one.use_case)]
        return Response({"approvals": seen})

    async def _request(self, asked: Request) -> Response:
        return await change_version(
            asked,
            "operate",
            lambda actor, body: request(self._store, actor, body.model, body.version, body.reason),
        )

    async def _approve(self, asked: Request) -> Response:
        return await change_version(
            asked,
            None,
            lambda actor, body: approve(self._store, actor, body.model, body.version, body.reason, body.digest),
        )

    async def _reject(self, asked: Request) -> Response:
        return await change_version(
            asked, None, lambda actor, body: reject(self._store, actor, body.model, body.version, body.reason)
        )

    async def _revoke(self, asked: Request) -> Response:
        return await change_version(
            asked, None, lambda actor, body: revoke(self._store, actor, body.model, body.version, body.reason)
        )

    async def _break_glass(self, asked: Request) -> Response:
        return await change_version(
            asked,
            "operate",
            lambda actor, body: break_glass(self._store, actor, body.model, body.version, body.reason, body.revision),
        )


async def change_version(request: Request, role: Role | None, change: Change) -> Response:
    """Do what the body asks if the caller has `role` on its use case; None: the use case says which role decides."""
    body = await read_body(request, VersionBody)
    expect_role(request.principal, (role,) if role else ("approve", "operate", "admin"), body.model)
    return Response(asdict(await asyncio.to_thread(change, actor_of(request), body)))


def expect_role(principal: Principal | None, roles: tuple[Role, ...], use_case: str) -> None:
    """Raise HttpError 403 unless the caller has one of `roles` on the use case."""
    if not _may(principal, roles, use_case):
        raise HttpError(
            403, f"This credential does not carry the role {roles[0]!r} on {use_case[:63]!r}.", "authorization"
        )


def _may(principal: Principal | None, roles: tuple[Role, ...], use_case: str) -> bool:
    now = datetime.now(UTC)
    return principal is not None and any(principal.may(role, use_case, now) for role in roles)
