"""Approvers: the routes by which rules are changed, the right to approve is given, and reports are attached."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mlops_ray.config import Settings
from mlops_ray.errors import ConflictError
from mlops_ray.governance.assents import is_same
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.delegations import (
    Delegation,
    delegate,
    delegation_named,
    end_delegation,
    list_delegations,
    may_decide_for_others,
)
from mlops_ray.governance.events import Actor, plain
from mlops_ray.governance.policy_changes import (
    PolicyChange,
    approve_change,
    change_named,
    list_changes,
    reject_change,
)
from mlops_ray.governance.principals import Role
from mlops_ray.registry.reports import attach_report, read_report
from mlops_ray.serving.approvals import expect_role, may_one
from mlops_ray.serving.http import MAX_BODY_BYTES, Request, Response, Route
from mlops_ray.serving.operations import Reason, VersionNumber, actor_of, read_body

REPORTS_AT_A_TIME = 2
SEES: tuple[Role, ...] = ("operate", "approve", "audit")
Id = Annotated[str, Meta(max_length=64)]


class IdBody(msgspec.Struct, forbid_unknown_fields=True):
    """id: of a change of rules or a delegation."""

    id: Id
    reason: Reason = ""


class DelegationBody(msgspec.Struct, forbid_unknown_fields=True):
    """to: a key of the person, or `issuer|sub` of their tokens. until: by the database's clock."""

    model: Annotated[str, Meta(max_length=200)]
    to: Annotated[str, Meta(max_length=500)]
    until: Annotated[datetime, Meta(tz=True)]
    reason: Reason


class ReportBody(msgspec.Struct, forbid_unknown_fields=True):
    """content: the file, as base64."""

    model: Annotated[str, Meta(max_length=200)]
    version: VersionNumber
    name: Annotated[str, Meta(max_length=200)]
    content: bytes


class ReportQuestion(msgspec.Struct, forbid_unknown_fields=True):
    """digest: of a report that the approval names."""

    model: Annotated[str, Meta(max_length=200)]
    version: VersionNumber
    digest: Annotated[str, Meta(max_length=64)]


class Approvers:
    """Of all use cases; a caller needs a role on the one that it is about."""

    def __init__(self, settings: Settings, store: ControlStore):
        self._settings, self._store = settings, store
        # Of their own: where the artifacts lie may hang, and no decision or key waits for that.
        self._threads = ThreadPoolExecutor(REPORTS_AT_A_TIME, thread_name_prefix="reports")

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            "/approvals/rules": {"GET": Route(self._rules, None)},
            "/approvals/rules/approve": {"POST": self._decide(approve_change)},
            "/approvals/rules/reject": {"POST": self._decide(reject_change)},
            "/approvals/delegations": {"GET": Route(self._delegations, None), "POST": Route(self._delegate, None)},
            "/approvals/delegations/end": {"POST": Route(self._end, None)},
            "/approvals/reports": {"POST": Route(self._attach, None)},
            "/approvals/reports/read": {"POST": Route(self._read, None)},
        }

    async def _rules(self, request: Request) -> Response:
        found = await asyncio.to_thread(list_changes, self._store)
        return Response({"changes": [one.to_json() for one in found if may_one(request.principal, SEES, one.use_case)]})

    def _decide(self, change: Callable[[ControlStore, Actor, str, str], PolicyChange]) -> Route:
        async def decide(request: Request) -> Response:
            body = await read_body(request, IdBody)
            use_case = await asyncio.to_thread(self._read_one, change_named, body.id)
            expect_role(request.principal, SEES, use_case)
            done = await asyncio.to_thread(self._decided, change, actor_of(request, use_case), body)
            return Response(done.to_json())

        return Route(decide, None)

    def _decided(
        self, change: Callable[[ControlStore, Actor, str, str], PolicyChange], actor: Actor, body: IdBody
    ) -> PolicyChange:
        """A repetition, as after an answer that did not arrive, changes nothing and returns what holds."""
        try:
            return change(self._store, actor, body.id, body.reason)
        except ConflictError:
            with self._store.reading() as connection:
                found = change_named(connection, body.id)
            if change is reject_change:
                said = [(found.decided_by or "", found.decided_by_id, found.reason)] * (found.state == "rejected")
            else:
                said = [(one.name, one.id, one.reason) for one in found.assents if found.state != "rejected"]
            if any(is_same(actor, name, id) and why == plain(body.reason) for name, id, why in said):
                return found
            raise

    async def _delegations(self, request: Request) -> Response:
        """Of the use cases on which the caller has a role, and those that lead to or from them."""
        found, principal = await asyncio.to_thread(list_delegations, self._store), request.principal
        own = actor_of(request, "").id
        seen = [
            asdict(one)
            for one in found
            if own in (one.giver_id, one.taker_id) or may_one(principal, SEES, one.use_case)
        ]
        return Response({"delegations": seen})

    async def _delegate(self, request: Request) -> Response:
        body = await read_body(request, DelegationBody)
        expect_role(request.principal, ("approve", "operate", "admin"), body.model)
        actor = actor_of(request, body.model)
        done = await asyncio.to_thread(delegate, self._store, actor, body.model, body.to, body.until, body.reason)
        return Response(asdict(done))

    async def _end(self, request: Request) -> Response:
        body = await read_body(request, IdBody)
        use_case = await asyncio.to_thread(self._read_one, delegation_named, body.id)
        actor = actor_of(request, use_case)
        return Response(asdict(await asyncio.to_thread(end_delegation, self._store, actor, body.id, body.reason)))

    def _read_one(self, named: Callable[[Any, str], PolicyChange | Delegation], id: str) -> str:
        with self._store.reading() as connection:
            return named(connection, id).use_case

    async def _attach(self, request: Request) -> Response:
        request.max_body_bytes = MAX_BODY_BYTES
        body = await read_body(request, ReportBody)
        await self._expect_sees(request, body.model)
        of = actor_of(request, body.model), body.model, body.version, body.name, body.content
        attach = partial(attach_report, self._settings, self._store, *of)
        return Response(asdict(await asyncio.get_running_loop().run_in_executor(self._threads, attach)))

    async def _read(self, request: Request) -> Response:
        body = await read_body(request, ReportQuestion)
        await self._expect_sees(request, body.model)
        of = body.model, body.version, body.digest
        read = partial(read_report, self._settings, self._store, *of)
        content = await asyncio.get_running_loop().run_in_executor(self._threads, read)
        return Response({"digest": body.digest, "content": content})

    async def _expect_sees(self, request: Request, use_case: str) -> None:
        if may_one(request.principal, SEES, use_case):
            return
        if not await asyncio.to_thread(may_decide_for_others, self._store, actor_of(request, use_case), use_case):
            expect_role(request.principal, SEES, use_case)
