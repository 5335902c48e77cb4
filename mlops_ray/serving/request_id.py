"""The id of a request: the caller's, so that a retry keeps it, or a new UUIDv7, whose time finds its records."""

import re
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from mlops_ray.predictions.ids import uuid7_at

HEADER = b"x-request-id"
_UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SERVE_TIMEOUT_HEADERS = {b"x-request-timeout-seconds", b"x-request-disconnect-disabled"}
_UNWATCHED = (b"x-request-disconnect-disabled", b"?1")


def request_id_of(headers: Mapping[bytes, bytes]) -> str:
    """The id in `headers` if it is a UUID, in its canonical form; a new UUIDv7 otherwise."""
    given = headers.get(HEADER, b"").lower()
    return given.decode() if _UUID.fullmatch(given) else uuid7_at(time.time_ns() // 1_000_000)


class RequestId:
    """ASGI middleware around Serve's own: every request has a valid id, and the answer repeats it exactly once.

    Serve would make ids without time (UUIDv4) and take any text. It also lets callers lengthen its timeouts by
    headers; those do not get past here. And it watches each connection in a task of its own, which costs a fifth of
    the replica's time: a request whose caller hangs up is over within our deadline anyway, so nobody watches.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(dict(scope["headers"])).encode()
        kept = [(name, value) for name, value in scope["headers"] if name != HEADER]
        kept = [(name, value) for name, value in kept if name not in _SERVE_TIMEOUT_HEADERS]
        scope["headers"] = [*kept, (HEADER, request_id), _UNWATCHED]

        async def send_with_id(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                others = [(name, value) for name, value in message["headers"] if name.lower() != HEADER]
                message["headers"] = [*others, (HEADER, request_id)]
            await send(message)

        await self._app(scope, receive, send_with_id)


def middlewares() -> list[Middleware]:
    """What Serve wraps around every application, found through RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    return [Middleware(RequestId)]
