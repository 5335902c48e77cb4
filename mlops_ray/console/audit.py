"""The audit log: its events, the newest first, by filter, and whether the chain was verified."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from mlops_ray.console.page import Refused, Viewer, expect_done, in_thread, page
from mlops_ray.console.server import Answer, Server
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import EVENT_TYPES, newest_events

PAGE = 50
WAIT_S = 0.05
VERIFICATION = "/audit/verification"
_FIELDS = ("use_case", "type", "subject", "before")
_MAX_TEXT = 600


class AuditPages:
    """server: which verifies the chain."""

    def __init__(self, store: ControlStore, server: Server, threads: ThreadPoolExecutor):
        self._store, self._server, self._threads = store, server, threads

    async def show(self, request: Request, viewer: Viewer) -> Response:
        """Of one use case for who audits that one, of all for who audits the platform; as the API has it."""
        asked = {name: request.query_params.get(name, "").strip() for name in _FIELDS}
        use_case = asked["use_case"] or None
        if not viewer.principal.may("audit", use_case, viewer.now):
            where = f"of {asked['use_case'][:63]!a}" if use_case else "of all use cases; filter for one of yours"
            raise Refused(403, f"Your key does not let you read the audit log {where}.")
        if any(len(text) > _MAX_TEXT for text in asked.values()):
            raise Refused(400, f"A filter has at most {_MAX_TEXT} characters.")
        if asked["before"] and not (asked["before"].isascii() and asked["before"].isdigit()):
            raise Refused(400, "before is no number of an event.")
        verified = None
        if viewer.principal.may("audit", None, viewer.now):
            answer = await self._verification(viewer, "GET")
            verified = answer.body if answer.status == 200 else {}
        return await in_thread(self._threads, partial(self._made, viewer, asked, verified))

    def _made(self, viewer: Viewer, asked: Mapping[str, str], verified: Any) -> Response:
        before = min(int(asked["before"][:19]), 2**62) if asked["before"] else None
        types = [asked["type"]] if asked["type"] else None
        found = newest_events(self._store, before, asked["use_case"] or None, types, asked["subject"] or None, PAGE + 1)
        shown = found[:PAGE]
        older = ""
        if len(found) > PAGE:
            older = "?" + urlencode({**{k: v for k, v in asked.items() if v}, "before": shown[-1].seq})
        return page(
            "audit", viewer, events=shown, older=older, asked=asked, types=sorted(EVENT_TYPES), verified=verified
        )

    async def verify(self, request: Request, viewer: Viewer, form: Mapping[str, str]) -> Response:
        """Begin to verify all events, or join who does."""
        expect_done(await self._verification(viewer, "POST"))
        return RedirectResponse("/console/audit", 303)

    async def _verification(self, viewer: Viewer, method: str) -> Answer:
        """How it goes. Of a long one the route would wait for seconds; it goes on without us."""
        try:
            return await asyncio.wait_for(self._server.ask(viewer.principal, method, VERIFICATION), WAIT_S)
        except TimeoutError:
            return Answer(200, {"state": "running", "result": None})
