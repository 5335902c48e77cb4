"""Keys: who has which, and until when; administrators make, replace and revoke them. A secret is shown once."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from mlops_ray.console.forms import listed, moment_in
from mlops_ray.console.page import Refused, Viewer, page
from mlops_ray.console.server import Answer, Server
from mlops_ray.governance.principals import ROLES

PATH, PAGE = "/console/keys", 100
_MAX_TEXT = 600


class KeyPages:
    """server: whose keys these are."""

    def __init__(self, server: Server):
        self._server = server

    async def show(self, request: Request, viewer: Viewer) -> Response:
        return await self._shown(viewer, request.query_params.get("after", "")[:_MAX_TEXT])

    async def create(self, request: Request, viewer: Viewer, form: Mapping[str, str]) -> Response:
        body: dict[str, Any] = {
            "name": form.get("name", "").strip(),
            "roles": [role for role in ROLES if form.get(f"role_{role}")],
            "use_cases": listed(form, "use_cases") or ["all"],
            "expires_at": moment_in(form, "expires_at"),
        }
        if person := form.get("person", "").strip():
            body["person"] = person
        return await self._made(viewer, "/keys/create", body, form)

    async def rotate(self, request: Request, viewer: Viewer, form: Mapping[str, str]) -> Response:
        body = {"key": form.get("key", ""), "until": moment_in(form, "until"), "reason": form.get("reason", "")}
        return await self._made(viewer, "/keys/rotate", body, form)

    async def revoke(self, request: Request, viewer: Viewer, form: Mapping[str, str]) -> Response:
        body = {"key": form.get("key", ""), "reason": form.get("reason", "")}
        answer = await self._server.ask(viewer.principal, "POST", "/keys/revoke", body)
        return await self._shown(viewer, "", answer, form) if answer.status >= 400 else RedirectResponse(PATH, 303)

    async def _made(self, viewer: Viewer, path: str, body: Mapping[str, Any], form: Mapping[str, str]) -> Response:
        """The new key's page is the answer itself: nowhere is it kept, so there is no address to come back to."""
        answer = await self._server.ask(viewer.principal, "POST", path, body)
        if answer.status >= 400:
            return await self._shown(viewer, "", answer, form)
        return page("secret", viewer, what="key", back=PATH, made=answer.body["key"], secret=answer.body["secret"])

    async def _shown(
        self, viewer: Viewer, after: str, refusal: Answer | None = None, form: Mapping[str, str] | None = None
    ) -> Response:
        answer = await self._server.ask(viewer.principal, "GET", f"/keys?after={quote(after)}&limit={PAGE}")
        if answer.status >= 400:  # who may not see the list may change nothing in it, and reads why
            raise Refused(answer.status, refusal.error if refusal else answer.error)
        status, error = (refusal.status, refusal.error) if refusal else (200, "")
        return page(
            "keys", viewer, status, keys=answer.body["keys"], next=answer.body["next"], roles=ROLES, error=error,
            form=form or {}, administers=viewer.may("admin", None),
        )  # fmt: skip
