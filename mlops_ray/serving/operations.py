"""Operations: the routes by which people with the right role see and change what is live."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from mlops_ray.errors import ConflictError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor
from mlops_ray.governance.live import (
    Live,
    Plan,
    Rollout,
    VersionRef,
    live,
    promote,
    replicas_of,
    roll_back,
    start_rollout,
)
from mlops_ray.serving.http import HttpError, Request, Response, Route
from mlops_ray.serving.rollout import progress

Body = TypeVar("Body", bound=msgspec.Struct)
FindVersion = Callable[[int], VersionRef]
VersionNumber = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class StartBody(msgspec.Struct, forbid_unknown_fields=True):
    version: VersionNumber
    plan: dict[str, Any] = {}


class ReasonBody(msgspec.Struct, forbid_unknown_fields=True):
    reason: str = ""


class Operations:
    """Rollouts of one use case. find: the digest under which a version was registered, or an error."""

    def __init__(self, store: ControlStore, use_case: str, find: FindVersion):
        self._store, self._use_case, self._find = store, use_case, find

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            "/rollout": {"GET": Route(self._status, "operate"), "POST": Route(self._start, "operate")},
            "/rollout/promote": {"POST": Route(self._promote, "operate")},
            "/rollout/rollback": {"POST": Route(self._roll_back, "operate")},
        }

    async def _status(self, request: Request) -> Response:
        return Response(await asyncio.to_thread(self._described))

    async def _start(self, request: Request) -> Response:
        body = await read_body(request, StartBody)
        return await self._do(lambda: self._started(actor_of(request), body))

    async def _promote(self, request: Request) -> Response:
        body = await read_body(request, ReasonBody)
        return await self._do(lambda: self._promoted(actor_of(request), body.reason))

    async def _roll_back(self, request: Request) -> Response:
        body = await read_body(request, ReasonBody)
        return await self._do(lambda: self._rolled_back(actor_of(request), body.reason))

    async def _do(self, change: Callable[[], Live]) -> Response:
        await asyncio.to_thread(change)
        return Response(await asyncio.to_thread(self._described))

    def _started(self, actor: Actor, body: StartBody) -> Live:
        return start_rollout(self._store, actor, self._use_case, self._find(body.version), Plan.from_json(body.plan))

    def _promoted(self, actor: Actor, reason: str) -> Live:
        rollout = self._running()
        if rollout.state == "loading":
            raise ConflictError(f"Version {rollout.version.version} is not loaded by every replica yet. Try again.")
        numbers = progress(rollout, replicas_of(self._store, self._use_case))
        return promote(self._store, actor, self._use_case, rollout, reason, numbers)

    def _rolled_back(self, actor: Actor, reason: str) -> Live:
        return roll_back(self._store, actor, self._use_case, live(self._store, self._use_case), reason)

    def _running(self) -> Rollout:
        rollout = live(self._store, self._use_case).rollout
        if rollout is None:
            raise ConflictError(f"No rollout of {self._use_case} is under way. Start one.")
        return rollout

    def _described(self) -> dict[str, Any]:
        """What is live, how far the rollout is, and which replicas act on it."""
        state, replicas = live(self._store, self._use_case), replicas_of(self._store, self._use_case)
        now = datetime.now(UTC)
        return {
            **asdict(state),
            "progress": progress(state.rollout, replicas) if state.rollout else None,
            "replicas": [
                {
                    "id": replica.id, "revision": replica.revision, "loaded": replica.loaded, "failed": replica.failed,
                    "silent_s": (now - replica.seen_at).total_seconds() if replica.seen_at else None,
                }
                for replica in replicas
            ],
        }  # fmt: skip


def actor_of(request: Request) -> Actor:
    """Who asks, as the audit log names them."""
    assert request.principal is not None
    return Actor(request.principal.name, request.principal.roles)


async def read_body(request: Request, kind: type[Body]) -> Body:
    """The body as `kind`. Raises HttpError 415 if it is not declared as JSON, 400 if it is something else."""
    request.expect_content_type("application/json")
    try:
        return msgspec.json.decode(await request.body() or b"{}", type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise HttpError(400, f"The body is not understood: {error}", "body") from None
