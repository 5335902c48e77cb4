"""HTTP as our routes speak it: JSON answers, one form of error, limits on body and time. Plain ASGI, for speed."""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
from starlette.types import Receive, Scope, Send

from mlops_ray.errors import MlopsRayError
from mlops_ray.governance.principals import Principal, Role
from mlops_ray.serving.deadlines import Deadlines
from mlops_ray.serving.failures import FAILED, cause_of, status_of, told
from mlops_ray.serving.request_id import request_id_of

MAX_BODY_BYTES = 10_000_000
DEADLINE_S = 10.0

_logger = logging.getLogger(__name__)
_encode = msgspec.json.encode


class HttpError(Exception):
    """An answer other than 200: `error` is a sentence for the caller, `field` says where in the request."""

    def __init__(self, status: int, error: str, field: str | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(status, error, field, headers)
        self.status, self.error, self.field, self.headers = status, error, field, headers or {}


@dataclass(slots=True)
class Request:
    """What a route is given. `path` is relative to the application's prefix; header names are lower case.

    started_s: when it came, on the clock of `time.perf_counter`. principal: who asks; None on public routes.
    version: the one of a model that the path names. awaits_body: whether it is the caller who keeps us waiting.
    """

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    request_id: str
    receive: Receive
    started_s: float
    principal: Principal | None = None
    version: str | None = None
    awaits_body: bool = False

    async def body(self) -> bytes:
        """The whole body. Raises HttpError 413 as soon as it is known to pass `MAX_BODY_BYTES`."""
        declared = self.headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
            raise _too_large(int(declared))
        chunks, size, more = [], 0, True
        self.awaits_body = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError("The caller hung up before the body was complete.")
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise _too_large(size)
            chunks.append(chunk)
            more = message.get("more_body", False)
        self.awaits_body = False
        return b"".join(chunks)

    def expect_content_type(self, *allowed: str) -> None:
        """Raise HttpError 415 unless the body is declared as one of `allowed`, in UTF-8 and not compressed.

        Without `allowed` it may be declared as anything, or not at all.
        """
        given = self.headers.get(b"content-type", b"").decode("latin-1").lower()
        kind, _, parameters = given.partition(";")
        charset = parameters.strip().removeprefix("charset=").strip('"') if "charset=" in parameters else ""
        if (allowed and kind.strip() not in allowed) or charset not in ("", "utf-8"):
            what = " or ".join(allowed) or "UTF-8"
            raise HttpError(415, f"Content-Type {given!r} is not understood. Send {what}.", "content-type")
        coding = self.headers.get(b"content-encoding", b"identity").decode("latin-1").lower()
        if coding != "identity":
            raise HttpError(
                415, f"Content-Encoding {coding!r} is not understood. Send the body as it is.", "content-encoding"
            )


@dataclass(frozen=True)
class Response:
    """`body` is sent as it is when it is bytes, else as JSON."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})


_OF_A_VERSION = re.compile(r"/versions/([^/]+)(/.*)?")

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    """What answers, and for whom: callers with `role`, None for every known caller; `public` for anyone at all."""

    handler: Handler
    role: Role | None
    public: bool = False


class Admission(Protocol):
    """Who may pass; see `serving.auth.Guard`."""

    def admit(self, headers: Mapping[bytes, bytes], role: Role | None) -> Principal: ...


class Routes:
    """An ASGI application: exact paths below its prefix, each with the route of every method it knows. Where a path
    says `/versions/{version}`, any version may stand.

    Who is not known learns nothing, not even which paths there are.
    """

    def __init__(
        self,
        routes: Mapping[str, Mapping[str, Route]],
        admission: Admission,
        deadline_s: float = DEADLINE_S,
        not_found: Handler | None = None,
    ):
        """not_found: answers a known caller on other paths, in place of a 404 that names those there are."""
        self.routes, self._not_found = routes, not_found
        self._admission = admission
        self._deadlines = Deadlines(deadline_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _refuse_other_protocols(scope, receive, send)
            return
        started_s = time.perf_counter()
        headers = dict(scope["headers"])
        path = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")
        request = Request(scope["method"], path, headers, request_id_of(headers), receive, started_s)
        try:
            response = await self._deadlines.keep(self._handler(request)(request))
        except Exception as error:
            response = _error_response(error, request, self._deadlines.deadline_s)
        await _send(response, send)

    def _handler(self, request: Request) -> Handler:
        methods = self.routes.get(request.path, {})
        if (not methods or "{" in request.path) and (versioned := _OF_A_VERSION.fullmatch(request.path)):
            request.version = versioned[1]
            methods = self.routes.get(f"/versions/{{version}}{versioned[2] or ''}", {})
        route = methods.get(request.method)
        if route is not None and route.public:
            return route.handler
        request.principal = self._admission.admit(request.headers, route.role if route else None)
        if route is not None:
            return route.handler
        if not methods and self._not_found is not None:
            return self._not_found
        if not methods:
            known = ", ".join(path or "/" for path in self.routes)
            raise HttpError(404, f"There is nothing at {request.path!r} of this application; it has {known}.")
        allowed = ", ".join(methods)
        raise HttpError(405, f"Method {request.method} is not allowed here; use {allowed}.", headers={"allow": allowed})


def _too_large(size: int) -> HttpError:
    return HttpError(
        413, f"The body has {size:,} bytes or more; the limit is {MAX_BODY_BYTES:,}. Send fewer rows.", "body"
    )


def _error_response(error: Exception, request: Request, deadline_s: float) -> Response:
    where: str | None = None
    headers: Mapping[str, str] = {}
    error = cause_of(error)
    if isinstance(error, HttpError):
        status, text, where, headers = error.status, error.error, error.field, error.headers
    elif isinstance(error, TimeoutError) and request.awaits_body:
        status, text, where = 408, f"The body did not arrive within {deadline_s:g} s.", "body"
    elif isinstance(error, TimeoutError):
        status, text = 504, f"No answer within {deadline_s:g} s. Ask again, or for fewer rows."
    elif isinstance(error, MlopsRayError):
        status, text = status_of(error), told(error)
        headers = {"retry-after": "1"} if status == 503 else {}
    else:
        status, text = 500, FAILED
    if status == 500:
        _logger.error("Request %s to %s failed", request.request_id, request.path, exc_info=error)
    elif status in (401, 403, 503, 504):
        caller = request.principal.id if request.principal else "unknown"
        said = error if isinstance(error, MlopsRayError) else text
        _logger.warning("Request %s of %s to %s: %d %s", request.request_id, caller, request.path, status, said)
    body = {"error": text, "field": where, "request_id": request.request_id}
    return Response(body, status, {"content-type": "application/json", **headers})


async def _send(response: Response, send: Send) -> None:
    body = response.body if isinstance(response.body, bytes) else _encode(response.body)
    headers = [(name.encode(), value.encode()) for name, value in response.headers.items()]
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse_other_protocols(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1003})
        return
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
