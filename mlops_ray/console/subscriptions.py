"""Subscriptions: who is told of which events, and what waits for them."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from mlops_ray.console.forms import listed
from mlops_ray.console.page import Refused, Viewer, expect_done, page
from mlops_ray.console.server import Answer, Server
from mlops_ray.governance.events import EVENT_TYPES, SEVERITIES

PATH, PAGE = "/console/subscriptions", 100
ACTIONS = ("pause", "resume", "end", "test")
_MAX_TEXT = 600


class SubscriptionPages:
    """server: whose subscriptions these are. A channel is shown without the secrets in it."""

    def __init__(self, server: Server):
        self._server = server

    async def show(self, request: Request, viewer: Viewer) -> Response:
        return await self._shown(viewer, request.query_params.get("after", "")[:_MAX_TEXT])

    async def create(self, request: Request, viewer: Viewer, form: Mapping[str, str]) -> Response:
        body: dict[str, Any] = {
            "channel": form.get("channel", "").strip(),
            "use_case": form.get("use_case", "").strip() or None,
            "types": listed(form, "types"),
            "minimum_severity": form.get("minimum_severity", "info"),
            "secret": form.get("secret", "").strip(),
        }
        answer = await self._server.ask(viewer.principal, "POST", "/subscriptions/create", body)
        if answer.status >= 400:
            return await self._shown(viewer, "", answer, form)
        made, secret = answer.body["subscription"], answer.body["secret"]
        if not secret:
            return RedirectResponse(PATH, 303)
        return page("secret", viewer, what="subscription", back=PATH, made=made, secret=secret)

    async def change(self, request: Request, viewer: Viewer, form: Mapping[str, str]) -> Response:
        action = form.get("action", "")
        if action not in ACTIONS:
            raise Refused(400, f"A subscription is told one of {', '.join(ACTIONS)}.")
        body = {"id": form.get("id", ""), "reason": form.get("reason", "")}
        answer = await self._server.ask(viewer.principal, "POST", f"/subscriptions/{action}", body)
        if answer.status >= 400:
            return await self._shown(viewer, "", answer, form)
        if action == "test":
            return await self._shown(viewer, "", tried=answer.body)
        return RedirectResponse(PATH, 303)

    async def _shown(
        self,
        viewer: Viewer,
        after: str,
        refusal: Answer | None = None,
        form: Mapping[str, str] | None = None,
        tried: Mapping[str, Any] | None = None,
    ) -> Response:
        answer = await self._server.ask(viewer.principal, "GET", f"/subscriptions?after={quote(after)}&limit={PAGE}")
        expect_done(answer)
        found = [one | {"yours": viewer.may("operate", one["use_case"])} for one in answer.body["subscriptions"]]
        status, error = (refusal.status, refusal.error) if refusal else (200, "")
        return page(
            "subscriptions", viewer, status, subscriptions=found, next=answer.body["next"], error=error,
            form=form or {}, tried=tried, types=sorted(EVENT_TYPES), severities=SEVERITIES,
        )  # fmt: skip
