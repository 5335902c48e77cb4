"""The console: an ASGI application of pages at `/console`, for people who sign in with their key.

Who asks is looked up at each request, so a session ends with its key. Pages read what commands read, from the same
functions, and change nothing themselves: what a form asks goes to the routes below `/v2` as the same principal.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from mlops_ray.config import Settings
from mlops_ray.console.audit import AuditPages
from mlops_ray.console.cost import Budgets, Costs
from mlops_ray.console.data import DataPages
from mlops_ray.console.drift import DriftPages
from mlops_ray.console.forms import expect_form_token, expect_same_site, read_form
from mlops_ray.console.keys import KeyPages
from mlops_ray.console.overview import overview
from mlops_ray.console.page import Refused, Viewer, in_thread, page, page_of_refusal
from mlops_ray.console.prediction import PredictionPages
from mlops_ray.console.provider import CALLBACK, Provider
from mlops_ray.console.rendering import STATIC, static
from mlops_ray.console.rules import RulePages
from mlops_ray.console.server import Server
from mlops_ray.console.sessions import Sessions
from mlops_ray.console.sign_in import SignIn, signed_out
from mlops_ray.console.standing import Standings
from mlops_ray.console.subscriptions import SubscriptionPages
from mlops_ray.console.use_case import UseCasePages
from mlops_ray.console.version import VersionPages
from mlops_ray.errors import MlopsRayError
from mlops_ray.governance.alarms import StandingAlarms
from mlops_ray.governance.control_store import ControlStore

PAGES_AT_A_TIME = 4
# Who looks first waits for libraries that few pages need: seconds, on a busy machine.
WITHIN_S, SHOWN_WITHIN_S = 10.0, 30.0
# Of every answer that says nothing else. Nothing from elsewhere, no script or style within a page, in nobody's frame,
# and no form that goes elsewhere (OWASP, "Content Security Policy Cheat Sheet").
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with none at all, browsers would send forms with the origin `null`
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_LATE = "The answer was not ready in time. What you sent may have been done: look before you send it again."
_FAILED = "The server failed; its log tells more. What you sent was not done halfway."

_logger = logging.getLogger(__name__)

Show = Callable[[Request, Viewer], Awaitable[Response]]
Change = Callable[[Request, Viewer, Mapping[str, str]], Awaitable[Response]]


class Console:
    """server: whose pages these are."""

    def __init__(self, settings: Settings, store: ControlStore, server: Server):
        self._store, self._server = store, server
        self._signing = SignIn(server, Sessions(), Provider(settings) if settings.oidc_client_id else None)
        # Of their own: however many look, decisions and keys do not wait for it.
        self._threads = threads = ThreadPoolExecutor(PAGES_AT_A_TIME, thread_name_prefix="console")
        self._standings = standings = Standings(settings)
        self._alarms, self._budgets = StandingAlarms(), Budgets(store)
        cases, versions = (
            UseCasePages(store, server, threads, standings, Costs(settings, store)),
            VersionPages(settings, store, server, threads),
        )
        audit, drift = AuditPages(store, server, threads), DriftPages(settings, store, threads)
        rules, keys, subscriptions = RulePages(store, server, threads), KeyPages(server), SubscriptionPages(server)
        data = DataPages(settings, store, threads)
        case = "/console/use-cases/{use_case}"
        version = f"{case}/versions/{{version:int}}"
        self._app = Starlette(
            routes=[
                Route("/console/static/{name}", self._static),
                Route("/console/sign-in", self._signing.form, methods=["GET"]),
                Route("/console/sign-in", self._unseen(self._signing.enter), methods=["POST"]),
                Route("/console/sign-in/provider", self._unseen(self._signing.ask_provider), methods=["GET"]),
                Route(CALLBACK, self._unseen(self._signing.return_from_provider), methods=["GET"]),
                Route("/console/sign-out", self._changes(self._sign_out), methods=["POST"]),
                Route("/console", self._shows(self._overview)),
                Route(case, self._shows(cases.show)),
                Route(f"{case}/drift", self._shows(drift.show)),
                Route(f"{case}/data", self._shows(data.listed)),
                Route(f"{case}/data/{{digest}}", self._shows(data.show)),
                Route(f"{case}/data/{{digest}}/profile/{{source}}", self._shows(data.profile)),
                Route(f"{case}/rollout", self._changes(cases.roll), methods=["POST"]),
                Route(f"{case}/alarms/silence", self._changes(cases.silence), methods=["POST"]),
                Route(version, self._shows(versions.show)),
                Route(f"{version}/decision", self._changes(versions.decide), methods=["POST"]),
                Route("/console/predictions", self._shows(PredictionPages(settings, server, threads).show)),
                Route("/console/rules", self._shows(rules.show)),
                Route("/console/rules/decision", self._changes(rules.decide), methods=["POST"]),
                Route("/console/keys", self._shows(keys.show)),
                Route("/console/keys/create", self._changes(keys.create), methods=["POST"]),
                Route("/console/keys/rotate", self._changes(keys.rotate), methods=["POST"]),
                Route("/console/keys/revoke", self._changes(keys.revoke), methods=["POST"]),
                Route("/console/subscriptions", self._shows(subscriptions.show)),
                Route("/console/subscriptions/create", self._changes(subscriptions.create), methods=["POST"]),
                Route("/console/subscriptions/change", self._changes(subscriptions.change), methods=["POST"]),
                Route("/console/audit", self._shows(audit.show)),
                Route("/console/audit/verification", self._changes(audit.verify), methods=["POST"]),
            ],
            exception_handlers={404: self._nothing_here, 405: self._nothing_here},
        )

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """Every page and form that there is."""
        return self._app.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = list(message["headers"])
                said = {name.decode() for name, _ in given}
                given += [(name.encode(), value.encode()) for name, value in HEADERS.items() if name not in said]
                message = {**message, "headers": given}
            await send(message)

        # Wherever it is mounted, paths are whole: links and cookies name them so.
        await self._app({**scope, "root_path": "", "path": scope["path"].rstrip("/")}, receive, send_safely)

    def _shows(self, show: Show) -> Callable[[Request], Awaitable[Response]]:
        """A page for who is signed in; others are led to where they sign in, and back."""

        async def answer(request: Request) -> Response:
            session = self._signing.session(request)
            if session is None:
                return self._signing.redirect(request)
            viewer = Viewer(session.principal, session.form_token, datetime.now(UTC))
            return await self._kept(show(request, viewer), viewer, SHOWN_WITHIN_S)

        return answer

    def _changes(self, change: Change) -> Callable[[Request], Awaitable[Response]]:
        """What a form does, if it is of a page of the session that it comes with."""

        async def answer(request: Request) -> Response:
            session, form = self._signing.session(request), dict[str, str]()
            viewer = Viewer(session.principal, session.form_token, datetime.now(UTC)) if session else None

            async def changed() -> Response:
                expect_same_site(request)
                form.update(await read_form(request))
                if viewer is None:
                    raise signed_out()
                expect_form_token(form, viewer.form_token)
                return await change(request, viewer, form)

            return await self._kept(changed(), viewer, form=form)

        return answer

    def _unseen(self, change: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return await self._kept(change(request), None)

        return answer

    async def _overview(self, request: Request, viewer: Viewer) -> Response:
        def made() -> Response:
            values = overview(self._store, self._standings, self._budgets, self._alarms, viewer)
            return page("overview", viewer, **values)

        return await in_thread(self._threads, made)

    async def _sign_out(self, request: Request, viewer: Viewer, form: Mapping[str, str]) -> Response:
        return await self._signing.leave(request)

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            return await self._nothing_here(request, None)
        forever = {"cache-control": "public, max-age=31536000, immutable"}  # its address changes with its bytes
        return Response(static(name), media_type=STATIC[name], headers=forever)

    async def _nothing_here(self, request: Request, error: Exception | None) -> Response:
        status = getattr(error, "status_code", 404)
        return page_of_refusal(Refused(status, "There is no such page."), None)

    async def _kept(
        self,
        work: Awaitable[Response],
        viewer: Viewer | None,
        within_s: float = WITHIN_S,
        form: Mapping[str, str] | None = None,
    ) -> Response:
        """The answer, or a page with what is against it, and with the words of the form."""
        try:
            return await asyncio.wait_for(work, within_s)
        except Refused as error:
            refusal = error
        except TimeoutError:
            refusal = Refused(504, _LATE)
        except MlopsRayError as error:
            refusal = Refused(*self._server.tell(error))
            if refusal.status >= 500:
                _logger.warning("A page of the console was not given", exc_info=error)
        except Exception as error:
            _logger.error("A page of the console failed", exc_info=error)
            refusal = Refused(500, _FAILED)
        return page_of_refusal(refusal, viewer, form)
