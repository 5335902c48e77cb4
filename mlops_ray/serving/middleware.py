"""What Serve wraps around every application, found through RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""

import asyncio
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ray.serve.context import _RequestContext, _serve_request_context
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from mlops_ray.serving import tracing
from mlops_ray.serving.environment import WAITED_HEADER
from mlops_ray.serving.http import DEADLINE_S, NAMED, REQUEST_ID, STARTED
from mlops_ray.serving.request_id import HEADER, canonical, new_id

_SERVE_TIMEOUT_HEADERS = {b"x-request-timeout-seconds", b"x-request-disconnect-disabled"}
_UNWATCHED = (b"x-request-disconnect-disabled", b"?1")
WAITED = WAITED_HEADER.encode()
_NOT_PASSED_ON = {HEADER, WAITED, *_SERVE_TIMEOUT_HEADERS}

_Message = MutableMapping[str, Any]


class Edge:
    """ASGI middleware around Serve's own: every request has a valid id, and the answer repeats it exactly once, or the
    one that the application gave the request. Here the deadline begins, before Serve may let a request wait.

    Where this process is a replica that HAProxy asks, what is for its application (`answer_here`) goes there at once:
    what Serve does around each request costs as much as the answer. The replica tells Serve how many it has at work,
    and when it ends its server waits for them.

    All else goes by Serve, which would make ids without time (UUIDv4) and take any text. It also lets callers lengthen
    its timeouts by headers; those do not get past here. And it watches each connection in a task of its own, which
    costs a fifth of the replica's time: a request whose caller hangs up is over within our deadline anyway, so nobody
    watches.

    The head of an answer waits for the first part of its body: uvicorn writes each as soon as it has it, and each write
    wakes the proxy. As one, two replicas behind HAProxy on two cores answer a tenth more requests/s.
    """

    here: ClassVar["Here | None"] = None

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        scope[STARTED] = time.perf_counter() - _waited_s(headers.get(WAITED, b""))
        given_id = canonical(headers.get(HEADER, b""))
        scope[NAMED] = given_id is not None
        scope[REQUEST_ID] = given_id or new_id()
        whole = _WithHead(send)
        here = self.here
        if here is not None and here.takes(scope["path"]):
            await here.answer(scope, receive, whole.send)
        else:
            await self._app(_for_serve(scope), receive, _with_one_id(whole.send, scope[REQUEST_ID].encode()))


@dataclass(frozen=True)
class Here:
    """The application of this process, and where and under which name Serve has put it."""

    prefix: str
    name: str
    app: ASGIApp

    def takes(self, path: str) -> bool:
        return path == self.prefix or path.startswith(f"{self.prefix}/")

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        # For lines of the log, and for what the application asks of other deployments.
        asked = _RequestContext(route=self.prefix, request_id=scope[REQUEST_ID], app_name=self.name)
        _serve_request_context.set(asked)
        scope["root_path"] = self.prefix
        await self.app(scope, receive, send)


def answer_here(prefix: str, name: str, app: ASGIApp) -> None:
    """Let `Edge` in this process give requests below `prefix` to `app`, the application `name`, without Serve.

    Not where requests are traced: a span of each is Serve's.
    """
    Edge.here = None if tracing.ON else Here(prefix, name, app)


def _for_serve(scope: Scope) -> Scope:
    kept = [(name, value) for name, value in scope["headers"] if name not in _NOT_PASSED_ON]
    scope["headers"] = [*kept, (HEADER, scope[REQUEST_ID].encode()), _UNWATCHED]
    return scope


def _with_one_id(send: Send, request_id: bytes) -> Send:
    """Serve adds the id that it was given to an answer that may have one of its own, which counts."""

    async def send_with_id(message: _Message) -> None:
        if message["type"] == "http.response.start":
            others = [(name, value) for name, value in message["headers"] if name.lower() != HEADER]
            given = [value for name, value in message["headers"] if name.lower() == HEADER and value != request_id]
            message = {**message, "headers": [*others, (HEADER, given[0] if given else request_id)]}
        await send(message)

    return send_with_id


def _waited_s(header: bytes) -> float:
    """A caller that sends the header itself, past HAProxy, can only shorten its own time."""
    return min(int(header) / 1000, DEADLINE_S) if header.isdigit() and len(header) < 10 else 0.0


class _WithHead:
    """Sends the head of an answer with the first part of its body."""

    __slots__ = ("_head", "_send")

    def __init__(self, send: Send):
        self._send = send
        self._head: _Message | None = None

    async def send(self, message: _Message) -> None:
        if message["type"] == "http.response.start":
            self._head = message
        elif self._head is None:
            await self._send(message)
        else:
            head, self._head = self._head, None
            await self._send_both(head, message)

    async def _send_both(self, head: _Message, message: _Message) -> None:
        """Lets uvicorn write once. Of any other server nothing is known, and nothing is changed."""
        cycle = getattr(self._send, "__self__", None)
        if not isinstance(cycle, RequestResponseCycle):
            await self._send(head)
            await self._send(message)
            return
        transport = cycle.transport
        joined = _Joined(transport)
        cycle.transport = joined  # type: ignore[assignment]
        try:
            await self._send(head)
            await self._send(message)
        finally:
            cycle.transport = transport
            joined.flush()


class _Joined:
    """Stands for a transport while uvicorn writes the head of an answer and what follows."""

    __slots__ = ("_parts", "_transport")

    def __init__(self, transport: asyncio.Transport):
        self._transport = transport
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._parts.append(data)

    def flush(self) -> None:
        self._transport.write(b"".join(self._parts))
        self._parts.clear()

    def close(self) -> None:
        self.flush()
        self._transport.close()


def middlewares() -> list[Middleware]:
    return [Middleware(Edge)]
