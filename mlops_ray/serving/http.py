"""HTTP as our routes speak it: JSON answers, one form of error, limits on body and time. Plain ASGI, for speed."""

import logging
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
from starlette.types import Receive, Scope, Send

from mlops_ray.errors import MlopsRayError
from mlops_ray.governance.principals import Principal, Role
from mlops_ray.serving.counters import Counts
from mlops_ray.serving.deadlines import Deadlines
from mlops_ray.serving.failures import FAILED, FAILURES, cause_of, status_of, told
from mlops_ray.serving.http_error import HttpError as HttpError
from mlops_ray.serving.request_id import HEADER, new_id, request_id_of
from mlops_ray.serving.slots import MAX_BODIES_BYTES, Room, Slots
from mlops_ray.serving.tracing import tell

MAX_BODY_BYTES, MAX_ORDER_BYTES = 10_000_000, 64_000  # of rows; and of all else, which the audit log keeps
DEADLINE_S = 10.0
MAX_AT_WORK = 4_000  # requests with rows in a replica; who of them may ask a model is for `Slots` to say
# In an ASGI scope: when the request's first byte came, by `time.perf_counter`; its id; whether that is the caller's.
STARTED, REQUEST_ID, NAMED = "mlops_ray.started_s", "mlops_ray.request_id", "mlops_ray.named"
LOG_LINES_PER_S = 5  # of one status: a flood of bad credentials is no flood of lines
MAX_QUOTED = 2_000  # characters of an error
HUNG_UP = 499  # how callers are counted that went away before their body was complete, as nginx has it
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii"})
_SENDS_ROWS = frozenset[Role | None]({"predict", "label"})

_logger = logging.getLogger(__name__)
_encode = msgspec.json.encode


class _HungUp(Exception):
    """The caller went away before the body was complete; nobody waits for an answer."""


@dataclass(slots=True)
class Request:
    """What a route is given. `path` is relative to the application's prefix; header names are lower case; `query` is
    what stands behind the path's question mark.

    started_s: when its first byte came, on the clock of `time.perf_counter`. principal: who asks; None on public
    routes. version: the one of a model that the path names. awaits_body: whether it is the caller who keeps us waiting.
    content: the body, once it is there. max_body_bytes: of a body. named: whether the id is the caller's, who can send
    it again.
    """

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    request_id: str
    receive: Receive
    started_s: float
    query: bytes = b""
    principal: Principal | None = None
    version: str | None = None
    awaits_body: bool = False
    content: bytes | None = None
    max_body_bytes: int = MAX_ORDER_BYTES
    named: bool = False

    async def body(self) -> bytes:
        """The whole body. Raises HttpError 413 as soon as it is known to pass `max_body_bytes`."""
        if self.content is None:
            self.content = await self._received(lambda size: None)
        return self.content

    async def receive_into(self, room: Room, caller: str) -> int:
        """Receive the body into `room`; gives the bytes that it takes there, none if it raises what `body` raises."""
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            room.take(caller, size)
            taken += size

        try:
            self.content = await self._received(take)
        except BaseException:
            room.give_back(caller, taken)
            raise
        return taken

    async def _received(self, take: Callable[[int], None]) -> bytes:
        length = self.headers.get(b"content-length", b"")
        declared = int(length[:19]) if length.isdigit() else 0  # Python reads no number of 4,301 digits
        if declared > self.max_body_bytes:
            raise self.too_large(declared)
        chunks, size, more = [], 0, True
        self.awaits_body = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise _HungUp
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self.max_body_bytes:
                raise self.too_large(size)
            take(len(chunk))
            chunks.append(chunk)
            more = message.get("more_body", False)
        self.awaits_body = False
        return b"".join(chunks)

    def too_large(self, size: int) -> HttpError:
        """What refuses a body of so many bytes."""
        less = "fewer rows" if self.max_body_bytes == MAX_BODY_BYTES else "less"
        text = f"The body has {size:,} bytes or more; the limit is {self.max_body_bytes:,}. Send {less}."
        return HttpError(413, text, "body")

    def expect_content_type(self, *allowed: str) -> None:
        """Raise HttpError 415 unless the body is declared as one of `allowed`, in UTF-8 and not compressed.

        Without `allowed` it may be declared as anything, or not at all.
        """
        given = self.headers.get(b"content-type", b"").decode("latin-1").lower()
        kind, _, parameters = given.partition(";")
        if (allowed and kind.strip() not in allowed) or not _CHARSETS.issuperset(_charsets(parameters)):
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

    Who is not known learns nothing, not even which paths there are. A request with rows takes one of `slots` once its
    caller is known and its body is there, so that neither bad credentials nor slow lines keep others waiting. Others,
    which ask what is live or change it, are few and short, and wait for nobody.

    answers: how many there were of each status, and how long they took from a request's first byte.
    """

    def __init__(
        self,
        routes: Mapping[str, Mapping[str, Route]],
        admission: Admission,
        deadline_s: float = DEADLINE_S,
        slots: Slots | None = None,
        not_found: Handler | None = None,
    ):
        """not_found: answers a known caller on other paths, in place of a 404 that names those there are."""
        self.routes, self._not_found = routes, not_found
        self.answers: defaultdict[int, Counts] = defaultdict(Counts)
        self._admission = admission
        self._deadlines = Deadlines(deadline_s)
        self._slots = slots or Slots()
        self._requests = Room(MAX_AT_WORK, "requests with rows at work here")
        self._bodies = Room(MAX_BODIES_BYTES, "bytes of bodies here")
        self._refusals = _Refusals()

    @property
    def at_work(self) -> int:
        """Requests that came and are not answered."""
        return len(self._deadlines)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _refuse_other_protocols(scope, receive, send)
            return
        now_s = time.perf_counter()
        started_s = scope.get(STARTED, now_s)
        headers = dict(scope["headers"])
        if len(headers) < len(scope["headers"]) and _several_credentials(scope["headers"]):
            headers[b"authorization"] = b""  # a proxy before us may have judged the other one
        path = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")
        request_id = scope.get(REQUEST_ID) or request_id_of(headers)
        query = scope.get("query_string", b"")
        named = scope.get(NAMED, HEADER in headers)
        request = Request(scope["method"], path, headers, request_id, receive, started_s, query, named=named)
        try:
            if now_s - started_s >= self._deadlines.deadline_s:
                raise TimeoutError
            response = await self._deadlines.keep(self._answer(request), now_s - started_s)
            body = _body_of(response)
        except _HungUp:
            self.answers[HUNG_UP].answered(time.perf_counter() - started_s)
            return
        except FAILURES as error:
            response = self._error_response(error, request)
            body = _body_of(response)
        self.answers[response.status].answered(time.perf_counter() - started_s)
        tell(request_id=request.request_id, principal=request.principal.id if request.principal else "unknown")
        await _send(response, body, send, request.request_id)  # which the body may have named

    async def ask(
        self, principal: Principal, use_case: str | None, method: str, path: str, body: Any = None
    ) -> Response:
        """What a route answers somebody who was admitted already, as its caller over HTTP would be answered; a body
        goes as JSON. use_case: of the application's routes, None for those of the platform."""
        path, _, query = path.partition("?")
        content, kind = _encode({} if body is None else body), {b"content-type": b"application/json"}
        request = Request(
            method, path, kind, new_id(), _no_more, time.perf_counter(), query.encode(), principal, content=content
        )
        try:
            if len(content) > request.max_body_bytes:
                raise request.too_large(len(content))
            route = self.routes[path][method]
            if route.role is not None and not principal.may(route.role, use_case, datetime.now(UTC)):
                where = f" on {use_case}" if use_case else ""
                raise HttpError(403, f"This credential does not carry the role {route.role!r}{where}.", "authorization")
            return await self._deadlines.keep(route.handler(request), 0.0)
        except FAILURES as error:
            return self._error_response(error, request)

    async def _answer(self, request: Request) -> Response:
        route = self._route(request)
        if request.principal is None or route.role not in _SENDS_ROWS or request.method == "GET":
            return await route.handler(request)
        caller = request.principal.id
        self._requests.take(caller, 1)
        try:
            return await self._answer_rows(request, route.handler, caller)
        finally:
            self._requests.give_back(caller, 1)

    async def _answer_rows(self, request: Request, handler: Handler, caller: str) -> Response:
        request.max_body_bytes = MAX_BODY_BYTES
        size = await request.receive_into(self._bodies, caller)
        try:
            await self._slots.take(caller)
            try:
                return await handler(request)
            finally:
                self._slots.give_back(caller)
        finally:
            self._bodies.give_back(caller, size)

    def _route(self, request: Request) -> Route:
        methods = self.routes.get(request.path, {})
        if (not methods or "{" in request.path) and (versioned := _OF_A_VERSION.fullmatch(request.path)):
            request.version = versioned[1]
            methods = self.routes.get(f"/versions/{{version}}{versioned[2] or ''}", {})
        route = methods.get(request.method)
        if route is not None and route.public:
            return route
        request.principal = self._admission.admit(request.headers, route.role if route else None)
        if route is not None:
            return route
        if not methods and self._not_found is not None:
            return Route(self._not_found, None)
        if not methods:
            known = ", ".join(path or "/" for path in self.routes)
            raise HttpError(404, f"There is nothing at {request.path!r} of this application; it has {known}.")
        allowed = ", ".join(methods)
        raise HttpError(405, f"Method {request.method} is not allowed here; use {allowed}.", headers={"allow": allowed})

    def _named(self, path: str) -> str:
        """A path as a log may hold it: one of ours. Another is the caller's text, and may be a secret gone astray."""
        versioned = _OF_A_VERSION.fullmatch(path)
        known = f"/versions/{{version}}{versioned[2] or ''}" if versioned else path
        return next((one for one in (path, known) if one in self.routes), "a path that is none of ours")

    def _error_response(self, error: BaseException, request: Request) -> Response:
        where: str | None = None
        headers: Mapping[str, str] = {}
        deadline_s, error = self._deadlines.deadline_s, cause_of(error)
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
            _logger.error("Request %s to %s failed", request.request_id, self._named(request.path), exc_info=error)
        elif status in (401, 403, 503, 504):
            said = str(error) if isinstance(error, MlopsRayError) else text
            self._refusals.log(request, self._named(request.path), status, said)
        body = {"error": _cut(text), "field": where and _cut(where), "request_id": request.request_id}
        return Response(body, status, {"content-type": "application/json", **headers})


async def _no_more() -> MutableMapping[str, Any]:
    return {"type": "http.disconnect"}


def _charsets(parameters: str) -> Iterator[str]:
    """What the parameters of a Content-Type say of it: `; charset="utf-8"; x=y`."""
    for name, _, value in (one.partition("=") for one in parameters.split(";")):
        if name.strip() == "charset":
            yield value.strip().strip('"')


def _several_credentials(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return sum(name == b"authorization" for name, _ in headers) > 1


def _cut(text: str) -> str:
    """What quotes the caller is no longer than somebody reads."""
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"


class _Refusals:
    """Lines about refused requests, few of each status in a second; the next line says how many were left out."""

    def __init__(self) -> None:
        self._said: dict[int, tuple[int, int]] = {}

    def log(self, request: Request, path: str, status: int, text: str) -> None:
        now_s = int(time.monotonic())
        second, count = self._said.get(status, (now_s, 0))
        left_out = max(0, count - LOG_LINES_PER_S) if second != now_s else 0
        count = count if second == now_s else 0
        self._said[status] = (now_s, count + 1)
        if count >= LOG_LINES_PER_S:
            return
        caller = request.principal.id if request.principal else "unknown"
        more = f" ({left_out} like it were not logged)" if left_out else ""
        _logger.warning("Request %s of %s to %.200s: %d %s%s", request.request_id, caller, path, status, text, more)


def _body_of(response: Response) -> bytes:
    return response.body if isinstance(response.body, bytes) else _encode(response.body)


async def _send(response: Response, body: bytes, send: Send, request_id: str) -> None:
    headers = [(name.encode(), value.encode()) for name, value in response.headers.items()]
    headers.extend(((b"content-length", b"%d" % len(body)), (HEADER, request_id.encode())))
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
