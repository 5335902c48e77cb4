"""What Serve wraps around every application, found through RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""

import asyncio
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from mlops_ray.serving.environment import WAITED_HEADER
from mlops_ray.serving.http import DEADLINE_S, NAMED, REQUEST_ID, STARTED
from mlops_ray.serving.request_id import HEADER, canonical, new_id

_SERVE_TIMEOUT_HEADERS = {b"x-request-timeout-seconds", b"x-request-disconnect-disabled"}
_UNWATCHED = (b"x-request-disconnect-disabled", b"?1")
WAITED = WAITED_HEADER.encode()
_NOT_PASSED_ON = {HEADER, WAITED, *_SERVE_TIMEOUT_HEADERS}


class Edge:
    """ASGI middleware around Serve's own: every request has a valid id, and the answer repeats it exactly once, or the
    one that the application gave the request.

    Serve would make ids without time (UUIDv4) and take any text. It also lets callers lengthen its timeouts by
    headers; those do not get past here. And it watches each connection in a task of its own, which costs a fifth of
    the replica's time: a request whose caller hangs up is over within our deadline anyway, so nobody watches.
    Here the deadline begins, before Serve may let a request wait.

    The head of an answer waits for the first part of its body: uvicorn writes each as soon as it has it, and each write
    wakes the proxy. As one, two replicas behind HAProxy on two cores answer a tenth more requests/s.
    """

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
        request_id = scope[REQUEST_ID].encode()
        kept = [(name, value) for name, value in scope["headers"] if name not in _NOT_PASSED_ON]
        scope["headers"] = [*kept, (HEADER, request_id), _UNWATCHED]
        head: MutableMapping[str, Any] | None = None

        async def send_with_id(message: MutableMapping[str, Any]) -> None:
            nonlocal head
            if message["type"] == "http.response.start":
                others = [(name, value) for name, value in message["headers"] if name.lower() != HEADER]
                given = [value for name, value in message["headers"] if name.lower() == HEADER and value != request_id]
                head = {**message, "headers": [*others, (HEADER, given[0] if given else request_id)]}
            elif head is None:
                await send(message)
            else:
                start, head = head, None
                with _one_write(send):
                    await send(start)
                    await send(message)

        await self._app(scope, receive, send_with_id)


def _waited_s(header: bytes) -> float:
    """A caller that sends the header itself, past HAProxy, can only shorten its own time."""
    return min(int(header) / 1000, DEADLINE_S) if header.isdigit() and len(header) < 10 else 0.0


class _Joined:
    """Stands for a transport while uvicorn writes the head of an answer and what follows."""

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


@contextmanager
def _one_write(send: Send) -> Iterator[None]:
    """Let uvicorn write once, at the end. Of any other server nothing is known, and nothing is changed."""
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle):
        yield
        return
    transport = cycle.transport
    joined = _Joined(transport)
    cycle.transport = joined  # type: ignore[assignment]
    try:
        yield
    finally:
        cycle.transport = transport
        joined.flush()


def middlewares() -> list[Middleware]:
    return [Middleware(Edge)]
