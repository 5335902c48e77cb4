"""Answers leave in one piece, and whole, whatever they look like."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mlops_ray.serving.middleware import Edge

HEADERS = [(b"content-type", b"text/plain")]


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
