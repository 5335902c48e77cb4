"""Signing in and out: a key, or a token of the provider, becomes a cookie that says nothing by itself."""

import logging
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from mlops_ray.console.forms import expect_same_site, local_path, read_form
from mlops_ray.console.page import Refused, page
from mlops_ray.console.server import Server
from mlops_ray.console.sessions import LONGEST_S, Session, Sessions
from mlops_ray.errors import ForbiddenError

PATH = "/console/sign-in"
REFRESH = "x-console-refresh"  # of what a page asks by itself
_logger = logging.getLogger(__name__)


class SignIn:
    """server: which says whose a key is."""

    def __init__(self, server: Server, sessions: Sessions):
        self._server, self._sessions = server, sessions

    def session(self, request: Request) -> Session | None:
        """Whose request it is, with what their key may now; a key that has ended takes its session with it."""
        token = request.cookies.get(self._cookie(request), "")
        session = self._sessions.find(token, REFRESH not in request.headers) if token else None
        if session is None:
            return None
        try:
            session.principal = self._server.readmit(session.principal)
        except ForbiddenError:
            self._sessions.end(token)
            return None
        return session

    def redirect(self, request: Request) -> Response:
        """To the form, and from there back to the page that was asked for."""
        asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{PATH}?{urlencode({'next': local_path(asked)})}", 303)

    async def form(self, request: Request) -> Response:
        """Where the browser kept no cookie that we just gave it, it says so."""
        lost = "kept" in request.query_params and self.session(request) is None
        why = "Your browser kept no cookie. Open the console over https, and allow it cookies." if lost else ""
        to = local_path(request.query_params.get("next", ""))
        if "kept" in request.query_params and not lost:
            return RedirectResponse(to, 303)
        return page("sign_in", None, 403 if lost else 200, next=to, error=why)

    async def enter(self, request: Request) -> Response:
        """Begin a session under a token that nobody knew before, whatever cookie came along."""
        expect_same_site(request)
        form = await read_form(request)
        to = local_path(form.get("next", ""))
        try:
            principal = self._server.admit(form.get("key", "").strip())
        except ForbiddenError as error:
            return page("sign_in", None, 403, next=to, error=str(error))
        name = self._cookie(request)
        self._sessions.end(request.cookies.get(name, ""))
        _logger.info("%s signed in to the console with key or token %s", principal.name, principal.id)
        answer = RedirectResponse(f"{PATH}?{urlencode({'kept': 1, 'next': to})}", 303)
        # Lax: who follows a link from a message is signed in there.
        secure, token = self._secure(request), self._sessions.begin(principal)
        answer.set_cookie(name, token, int(LONGEST_S), path="/", secure=secure, httponly=True, samesite="lax")
        return answer

    async def leave(self, request: Request) -> Response:
        name = self._cookie(request)
        self._sessions.end(request.cookies.get(name, ""))
        answer = RedirectResponse(PATH, 303)
        answer.delete_cookie(name, path="/", secure=self._secure(request), httponly=True, samesite="lax")
        return answer

    def _secure(self, request: Request) -> bool:
        """Whether the browser is to send the cookie over https alone. On a machine that nobody else reaches there need
        not be any, and not every browser takes http from there for safe."""
        return self._server.public or request.headers.get("x-forwarded-proto") == "https"

    def _cookie(self, request: Request) -> str:
        """With `__Host-` no neighbour of the domain can set it (RFC 6265bis, section 4.1.3.2)."""
        return "__Host-mlops_ray" if self._secure(request) else "mlops_ray"


def signed_out() -> Refused:
    return Refused(401, "You are not signed in any more, so nothing was done. Sign in, and send it again.")
