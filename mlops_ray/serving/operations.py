"""Operations: the routes by which people with the right role see and change what is live."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from mlops_ray.errors import ConfigurationError, ConflictError
from mlops_ray.governance.change import said
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor
from mlops_ray.governance.history import last_change
from mlops_ray.governance.live import Live, Plan, VersionRef, live
from mlops_ray.governance.policies import policy_of
from mlops_ray.governance.replicas import FRESH, Heard, heard
from mlops_ray.governance.rollback import roll_back
from mlops_ray.governance.rollouts import pause, promote, resume, start_rollout
from mlops_ray.serving.http import HttpError, Request, Response, Route
from mlops_ray.serving.json_body import Order, order_of, said_once
from mlops_ray.serving.rollout import progress

MAX_QUERY_PARTS = 20
FINDS_AT_A_TIME = 2
FindVersion = Callable[[int], VersionRef]
VersionNumber = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Reason = Annotated[str, Meta(max_length=2_000)]  # goes into the audit log, and into messages
RevisionNumber = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class StartBody(msgspec.Struct, forbid_unknown_fields=True):
    """revision: of what was live when the caller looked. plan: left out for the default."""

    version: VersionNumber
    revision: RevisionNumber
    plan: dict[str, Any] = {}
    reason: Reason = ""


class TargetBody(msgspec.Struct, forbid_unknown_fields=True):
    """to: the version that shall answer everything afterwards, or whose rollout it is about. revision: of what was live
    when the caller looked."""

    to: VersionNumber
    revision: RevisionNumber
    reason: Reason = ""


class Operations:
    """Rollouts of one use case. find: the digest under which a version was registered, or an error. columns: those of
    the champion's requests, by name.

    A request says what shall be live afterwards, and on which revision that was decided. Sent again, or come late, it
    changes nothing: where what it wants holds, the answer is what is live, else 409 with a sentence that says so.
    """

    def __init__(self, store: ControlStore, use_case: str, find: FindVersion, columns: Callable[[], Sequence[str]]):
        self._store, self._use_case, self._find, self._columns = store, use_case, find, columns
        # Of their own: MLflow, or a download, may hang in each, and a rollback waits for neither.
        self._finding = ThreadPoolExecutor(FINDS_AT_A_TIME, thread_name_prefix="find-version")

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            "/rollout": {"GET": Route(self._status, "operate"), "POST": Route(self._start, "operate")},
            "/rollout/pause": {"POST": Route(self._pause, "operate")},
            "/rollout/resume": {"POST": Route(self._resume, "operate")},
            "/rollout/promote": {"POST": Route(self._promote, "operate")},
            "/rollout/rollback": {"POST": Route(self._roll_back, "operate")},
        }

    async def _status(self, request: Request) -> Response:
        return Response(await asyncio.to_thread(self._described))

    async def _start(self, request: Request) -> Response:
        body = await read_body(request, StartBody)
        plan = Plan.from_json(body.plan) if body.plan else None
        self._expect_sticky_is_sent(plan)

        def holds(state: Live) -> bool:
            rollout = state.rollout
            if rollout is not None:
                return rollout.version.version == body.version and rollout.plan == (plan or self._default_plan())
            return state.serves_alone(body.version) and body.revision < state.stands_since

        def start(state: Live) -> Live:
            version = self._find(body.version)
            return start_rollout(
                self._store,
                actor_of(request, self._use_case),
                self._use_case,
                version,
                plan,
                body.revision,
                body.reason,
            )

        return await self._do(holds, start, self._finding)

    def _expect_sticky_is_sent(self, plan: Plan | None) -> None:
        """Raise ConfigurationError where no request could fall to the version: the rollout would never end."""
        if plan is None or plan.sticky is None or plan.sticky in (known := self._columns()):
            return
        raise ConfigurationError(
            f"The plan's sticky column {plan.sticky[:100]!r} is none that requests of {self._use_case} have, so the "
            f"version would never be asked. They have: {', '.join(known)}."
        )

    def _default_plan(self) -> Plan:
        with self._store.reading() as connection:
            return policy_of(connection, self._use_case).default_plan()

    async def _pause(self, request: Request) -> Response:
        return await self._set_paused(request, pause, True)

    async def _resume(self, request: Request) -> Response:
        return await self._set_paused(request, resume, False)

    async def _set_paused(self, request: Request, change: Callable[..., Live], paused: bool) -> Response:
        body = await read_body(request, TargetBody)

        def holds(state: Live) -> bool:
            rollout = state.rollout
            same = rollout is not None and rollout.version.version == body.to
            return rollout is not None and same and (rollout.paused_at is not None) == paused

        def set_paused(state: Live) -> Live:
            actor = actor_of(request, self._use_case)
            return change(self._store, actor, self._use_case, body.revision, body.to, body.reason)

        return await self._do(holds, set_paused)

    async def _promote(self, request: Request) -> Response:
        body = await read_body(request, TargetBody)
        return await self._do(
            lambda state: state.serves_alone(body.to),
            lambda state: self._promoted(state, actor_of(request, self._use_case), body),
        )

    def _last_said(self) -> str:
        """Who did what last, and when: whom somebody that comes too late has to ask."""
        with self._store.reading() as connection:
            last = last_change(connection, self._use_case)
        return f" ({said(last)})" if last else ""

    async def _roll_back(self, request: Request) -> Response:
        body = await read_body(request, TargetBody)
        return await self._do(
            lambda state: state.serves_alone(body.to),
            lambda state: roll_back(
                self._store, actor_of(request, self._use_case), self._use_case, body.revision, body.to, body.reason
            ),
        )

    async def _do(
        self, holds: Callable[[Live], bool], change: Callable[[Live], Live], threads: ThreadPoolExecutor | None = None
    ) -> Response:
        """threads: None for those of all that waits for nothing but the control store."""
        return Response(await asyncio.get_running_loop().run_in_executor(threads, self._done, holds, change))

    def _done(self, holds: Callable[[Live], bool], change: Callable[[Live], Live]) -> dict[str, Any]:
        before = live(self._store, self._use_case)
        changed = not holds(before)
        if changed:
            try:
                change(before)
            except ConflictError:
                if not holds(live(self._store, self._use_case)):  # somebody else did the same meanwhile
                    raise
                changed = False
        return {**self._described(), "changed": changed}

    def _promoted(self, state: Live, actor: Actor, body: TargetBody) -> Live:
        rollout = state.rollout
        if rollout is None or rollout.version.version != body.to:
            raise ConflictError(
                f"No rollout of version {body.to} of {self._use_case} is under way{self._last_said()}: "
                f"{state.in_words()} Start one."
            )
        if not state.stands_since <= body.revision <= state.revision:
            raise ConflictError(
                f"The rollout of version {body.to} of {self._use_case} began after revision {body.revision}"
                f"{self._last_said()}. "
                f"{state.in_words()} If you mean this one, say so of revision {state.revision}."
            )
        if rollout.state == "loading":
            raise ConflictError(f"Version {rollout.version.version} is not loaded by every replica yet. Try again.")
        said = heard(self._store, self._use_case)
        if not said.alive:
            raise ConflictError(
                f"No replica of {self._use_case} has reported for {FRESH.total_seconds():.0f} s, so none is known to "
                f"hold version {body.to}. Try again once they report, or go back."
            )
        numbers = progress(rollout, said.replicas)
        return promote(self._store, actor, self._use_case, rollout, body.reason, numbers)

    def _described(self) -> dict[str, Any]:
        """What is live, how far the rollout is, and which replicas act on it."""
        state, said = live(self._store, self._use_case), heard(self._store, self._use_case)
        return {
            **asdict(state),
            "progress": progress(state.rollout, said.replicas) if state.rollout else None,
            "replicas": _replicas(said),
        }


def _replicas(said: Heard) -> list[dict[str, Any]]:
    """Those that have not left; silent_s by the database's clock."""
    return [
        {
            "id": replica.id,
            "revision": replica.revision,
            "serving": replica.serving and replica.serving.version,
            "loaded": [ref.version for ref in replica.loaded],
            "loading": {str(ref.version): asdict(how) for ref, how in replica.loading.items()},
            "failed": {str(ref.version): why for ref, why in replica.failed.items()},
            "silent_s": (said.now - replica.seen_at).total_seconds() if replica.seen_at else None,
        }
        for replica in said.replicas
        if replica.left_at is None
    ]


def actor_of(request: Request, use_case: str | None) -> Actor:
    """Who asks, as the audit log names them, with the roles that they have on the use case; None: on the platform."""
    assert request.principal is not None
    return request.principal.actor(use_case)


async def read_body(request: Request, kind: type[Order]) -> Order:
    """The body as `kind`. Raises HttpError 415 if it is not declared as JSON, and as `order_of` does."""
    request.expect_content_type("application/json")
    return order_of(await request.body(), kind)


def read_query(request: Request, kind: type[Order]) -> Order:
    """What stands behind the path as `kind`. Raises HttpError 400 if it is something else, or says a thing twice."""
    try:
        text = request.query.decode("ascii")
        pairs = parse_qsl(text, True, bool(text), errors="strict", max_num_fields=MAX_QUERY_PARTS)
        return msgspec.convert(said_once(pairs), kind, strict=False)
    except ValueError as error:  # msgspec.ValidationError is one
        raise HttpError(400, f"The query is not understood: {error}.", "query") from None
