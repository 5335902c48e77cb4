"""Signing in and out: a key, a token, or what the provider says becomes a cookie that says nothing by itself."""

import logging
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from mlops_ray.console.forms import expect_same_site, local_path, read_form
from mlops_ray.console.page import Refused, page
from mlops_ray.console.provider import BEGUN_FOR_S, CALLBACK, Provider
from mlops_ray.console.server import Server
from mlops_ray.console.sessions import LONGEST_S, Session, Sessions
from mlops_ray.errors import ConfigurationError, ForbiddenError, UnavailableError
from mlops_ray.governance.principals import Principal

PATH = "/console/sign-in"
REFRESH = "x-console-refresh"  # of what a page asks by itself
_SESSION, _BEGUN = "mlops_ray", "mlops_ray_begun"
_logger = logging.getLogger(__name__)


class SignIn:
    """server: which says whose a key is. provider: None where people have keys alone."""

    def __init__(self, server: Server, sessions: Sessions, provider: Provider | None = None):
        self._server, self._sessions, self._provider = server, sessions, provider

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
        return self._form(to, why)

    def _form(self, to: str, why: str, status: int = 403) -> Response:
        provider = self._provider.host if self._provider else ""
        return page("sign_in", None, status if why else 200, next=to, error=why, provider=provider)

    async def enter(self, request: Request) -> Response:
        """Begin a session under a token that nobody knew before, whatever cookie came along."""
        expect_same_site(request)
        form = await read_form(request)
        to = local_path(form.get("next", ""))
        try:
            principal = self._server.admit(form.get("key", "").strip())
        except ForbiddenError as error:
            return self._form(to, str(error))
        return self._entered(request, principal, to)

    async def ask_provider(self, request: Request) -> Response:
        """To the provider, and back with what it says. A link leads here: `form-action` keeps forms from elsewhere."""
        to = local_path(request.query_params.get("next", ""))
        if self._provider is None:
            raise Refused(404, "There is no such page.")
        try:
            begun = await self._provider.begin(to)
        except (UnavailableError, ConfigurationError) as error:
            return self._without_provider(to, error)
        answer = RedirectResponse(begun.url, 303)
        secure, path = self._secure(request), self._path(request)
        # Lax: it is the provider's page that leads back here.
        name = self._cookie(request, _BEGUN)
        answer.set_cookie(name, begun.cookie, BEGUN_FOR_S, path=path, secure=secure, httponly=True, samesite="lax")
        return answer

    async def return_from_provider(self, request: Request) -> Response:
        """Once: whatever comes of it, the browser has to begin again afterwards."""
        if self._provider is None:
            raise Refused(404, "There is no such page.")
        name = self._cookie(request, _BEGUN)
        try:
            found = await self._provider.finish(request.cookies.get(name, ""), request.url.query)
            principal = self._server.admit_identity(found.id_token, found.client_id, found.nonce)
            answer = self._entered(request, principal, local_path(found.to))
        except ForbiddenError as error:
            answer = self._form("/console", str(error))
        except (UnavailableError, ConfigurationError) as error:
            answer = self._without_provider("/console", error)
        answer.delete_cookie(name, path=self._path(request), secure=self._secure(request), httponly=True)
        return answer

    def _without_provider(self, to: str, error: Exception) -> Response:
        _logger.warning("Nobody can sign in at the provider", exc_info=error)
        return self._form(to, "Your provider cannot be asked now; the server's log says why. Try again.", 503)

    def _entered(self, request: Request, principal: Principal, to: str) -> Response:
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

    def _cookie(self, request: Request, name: str = _SESSION) -> str:
        """With `__Host-` no neighbour of the domain can set it (RFC 6265bis, section 4.1.3.2)."""
        return f"__Host-{name}" if self._secure(request) else name

    def _path(self, request: Request) -> str:
        """`__Host-` wants all paths; else only where it is read."""
        return "/" if self._secure(request) else CALLBACK


def signed_out() -> Refused:
    return Refused(401, "You are not signed in any more, so nothing was done. Sign in, and send it again.")
