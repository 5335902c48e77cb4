"""The audit log: the routes by which an auditor reads it, and has it checked."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mlops_ray.config import Settings
from mlops_ray.errors import MlopsRayError
from mlops_ray.governance.audit import Verification, verify_store
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import read_events
from mlops_ray.governance.reconciliation import DESCRIBED
from mlops_ray.serving.approvals import expect_role
from mlops_ray.serving.failures import told
from mlops_ray.serving.http import HttpError, Request, Response, Route
from mlops_ray.serving.keys import PAGE, PageSize, page_of
from mlops_ray.serving.operations import read_query

WAIT_S = 5.0  # how long an answer waits for a verification; who wants more asks again
_IDS_SHOWN = 100


class EventsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """As `events.read_events`. types: with commas between."""

    after: Annotated[int, Meta(ge=0, le=2**62)] = 0
    use_case: Annotated[str, Meta(max_length=200)] | None = None
    types: Annotated[str, Meta(max_length=2_000)] = ""
    subject: Annotated[str, Meta(max_length=600)] | None = None
    limit: PageSize = PAGE


@dataclass
class _Check:
    """A verification that was begun, and how it went: None while it runs."""

    began_at: datetime
    done: Future[dict[str, Any]]


class AuditLog:
    """Of the platform; who audits certain use cases reads the events of those."""

    def __init__(self, settings: Settings, store: ControlStore):
        self._settings, self._store = settings, store
        # One at a time, in a thread of its own: it reads every event there is, and nobody else waits for that.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="verification")
        self._check: _Check | None = None

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            "/audit/events": {"GET": Route(self._events, None)},
            "/audit/verification": {"POST": Route(self._begin, "audit"), "GET": Route(self._look, "audit")},
        }

    async def _events(self, request: Request) -> Response:
        query = read_query(request, EventsQuery)
        expect_role(request.principal, ("audit",), query.use_case)
        types = query.types.split(",") if query.types else None
        found = await asyncio.to_thread(
            read_events, self._store, query.after, query.use_case, types, query.subject, query.limit + 1
        )
        return Response(page_of("events", [event.to_record() for event in found], query.limit, "seq"))

    async def _begin(self, request: Request) -> Response:
        """Begin to verify all events, or join who does already."""
        if self._check is None or self._check.done.done():
            self._check = _Check(datetime.now(UTC), self._thread.submit(self._verified))
        return await self._answer(self._check)

    async def _look(self, request: Request) -> Response:
        """How the last verification went, or goes."""
        if self._check is None:
            raise HttpError(404, "No verification was begun here since the server started. POST begins one.")
        return await self._answer(self._check)

    async def _answer(self, check: _Check) -> Response:
        """Once it is done, or after `WAIT_S`; it goes on whoever hangs up."""
        await asyncio.wait([asyncio.wrap_future(check.done)], timeout=WAIT_S)
        began = {"began_at": check.began_at.isoformat()}
        return Response(began | (check.done.result() if check.done.done() else {"state": "running", "result": None}))

    def _verified(self) -> dict[str, Any]:
        try:
            found = verify_store(self._store, self._settings)
        except MlopsRayError as error:
            return {"state": "failed", "result": None, "error": told(error)}
        return {"state": "done", "result": result_of(found)}


def result_of(found: Verification) -> dict[str, Any]:
    """What a verification found as JSON, with the tables that were compared."""
    ids = found.not_anchored
    shown = {"not_anchored": ids[:_IDS_SHOWN], "not_anchored_events": len(ids)}
    return asdict(found) | shown | {"compared": [str(name) for name in DESCRIBED]}
