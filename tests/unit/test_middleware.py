"""Answers leave in one piece, and whole, whatever they look like."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest
import uvicorn
from ray.serve._private.logging_utils import ServeContextFilter
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mlops_ray.serving import tracing
from mlops_ray.serving.http import NAMED, REQUEST_ID
from mlops_ray.serving.middleware import Edge, answer_here

HEADERS = [(b"content-type", b"text/plain")]
HEAD: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": [*HEADERS, (b"content-length", b"5")]}
BODY = {"type": "http.response.body", "body": b"hello"}


class Recorder:
    """A transport that keeps what it is given to write."""

    def __init__(self, transport: Any, writes: list[bytes]):
        self._transport, self._writes = transport, writes

    def write(self, data: bytes) -> None:
        self._writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@contextmanager
def served(app: Any) -> Iterator[tuple[str, list[bytes]]]:
    """`app` behind a real uvicorn: its address, and what it writes to its connections."""
    writes: list[bytes] = []

    class Protocol(HttpToolsProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(Recorder(transport, writes))  # type: ignore[arg-type]

    server = uvicorn.Server(uvicorn.Config(app, port=0, http=Protocol, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=asyncio.run, args=(server.serve(),))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", writes
    finally:
        server.should_exit = True
        thread.join()


def answering(*messages: dict[str, Any]) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


def test_head_and_body_are_one_write() -> None:
    head = {"type": "http.response.start", "status": 200, "headers": [*HEADERS, (b"content-length", b"5")]}
    with served(Edge(answering(head, {"type": "http.response.body", "body": b"hello"}))) as (url, writes):
        with httpx.Client() as client:
            assert [client.get(url).text for _ in range(3)] == ["hello"] * 3
        assert len(writes) == 3
        assert all(b"\r\n\r\nhello" in write for write in writes)


def test_a_stream_begins_with_its_first_part() -> None:
    parts = [{"type": "http.response.body", "body": part, "more_body": part != b"c"} for part in (b"a", b"b", b"c")]
    head = {"type": "http.response.start", "status": 200, "headers": HEADERS}
    with served(Edge(answering(head, *parts))) as (url, writes):
        assert httpx.get(url).text == "abc"
        assert b"\r\n\r\n1\r\na\r\n" in writes[0]
        assert len(writes) == 3


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_connection_that_is_closed_gets_its_whole_answer_first(method: str) -> None:
    head = {"type": "http.response.start", "status": 200, "headers": [*HEADERS, (b"content-length", b"5")]}
    with served(Edge(answering(head, {"type": "http.response.body", "body": b"hello"}))) as (url, _):
        answer = httpx.request(method, url, headers={"connection": "close"})
        assert answer.text == ("" if method == "HEAD" else "hello")
        assert answer.headers["content-length"] == "5"


def test_an_application_that_fails_before_its_body_is_a_500() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        raise ValueError("too late for a status, had the head been sent")

    with served(Edge(app)) as (url, _):
        assert httpx.get(url).status_code == 500


@pytest.fixture
def answered_here() -> Iterator[list[Scope]]:
    """What an application at `/v2/models/flights` is asked without Serve."""
    asked: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope)
        await answering({**HEAD, "headers": [(b"x-request-id", b"named by the body")]}, BODY)(scope, receive, send)

    answer_here("/v2/models/flights", "flights", app)
    yield asked
    Edge.here = None


async def serves(scope: Scope, receive: Receive, send: Send) -> None:
    """Stands for Serve's own part: it answers that it was asked."""
    await answering({**HEAD, "status": 299}, BODY)(scope, receive, send)


@pytest.mark.parametrize(
    ("path", "is_ours"),
    [
        ("/v2/models/flights", True),
        ("/v2/models/flights/predict", True),
        ("/v2/models/flights2/predict", False),
        ("/v2/models", False),
        ("/-/healthz", False),
        ("/-/routes", False),
        ("/x/v2/models/flights", False),
    ],
)
def test_what_is_for_the_application_of_a_replica_goes_there_and_all_else_to_serve(
    answered_here: list[Scope], path: str, is_ours: bool
) -> None:
    scope: Scope = {"type": "http", "path": path, "root_path": "", "headers": [(b"x-request-id", b"no uuid")]}
    (head, _) = asyncio.run(messages_of(Edge(serves), scope))
    assert head["status"] == (200 if is_ours else 299)
    assert len(answered_here) == is_ours
    ids = [value for name, value in head["headers"] if name == b"x-request-id"]
    assert ids == [b"named by the body" if is_ours else scope[REQUEST_ID].encode()]
    if is_ours:
        assert answered_here[0]["root_path"] == "/v2/models/flights"
        assert UUID(answered_here[0][REQUEST_ID]).version == 7
        assert not answered_here[0][NAMED]


def test_lines_of_the_log_name_the_request_that_is_answered_without_serve(answered_here: list[Scope]) -> None:
    scope: Scope = {"type": "http", "path": "/v2/models/flights/predict", "headers": []}
    record = logging.makeLogRecord({"msg": "asked"})
    filter_ = ServeContextFilter()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        filter_.filter(record)
        await answering(HEAD, BODY)(scope, receive, send)

    answer_here("/v2/models/flights", "flights", app)
    asyncio.run(messages_of(Edge(serves), scope))
    assert (record.__dict__["request_id"], record.__dict__["application"]) == (scope[REQUEST_ID], "flights")


def test_where_requests_are_traced_serve_is_asked_whose_spans_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "ON", True)
    answer_here("/v2/models/flights", "flights", answering(HEAD, BODY))
    scope: Scope = {"type": "http", "path": "/v2/models/flights/predict", "headers": []}
    assert asyncio.run(messages_of(Edge(serves), scope))[0]["status"] == 299


async def messages_of(app: Any, scope: Scope) -> list[Any]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent
