"""HAProxy as our start script has it, before one endpoint: slow, hostile and dead callers and replicas, without Ray."""

import asyncio
import json
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from mlops_ray.errors import ConfigurationError
from mlops_ray.serving.environment import CLIENT_TIMEOUT_S, WAITED_HEADER, expect_free_port
from mlops_ray.testing.example_endpoint import ExampleEndpoint, example_endpoint
from tests.integration.front_end import PREFIX
from tests.integration.test_online_store import free_port, wait_for
from tests.pipeline_run import ROOT

VECTOR = {"origin": "JFK", "distance": 500.0, "carrier": "AA", "hour": 8.0, "recent_delay": 30.0}
HEAD = f"POST {PREFIX}/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@contextmanager
def running(app: Any) -> Iterator[int]:
    """`app` behind a real uvicorn; gives its port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def replica(app: Any) -> Any:
    """`app` below its prefix, as Serve has it in a replica."""

    async def with_health(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/-/healthz":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await Starlette(routes=[Mount(PREFIX, app)])(scope, receive, send)

    return with_health


def front_end_command(port: int, replica_port: int, folder: Path) -> list[str]:
    return [sys.executable, f"{ROOT}/tests/integration/front_end.py", str(port), str(replica_port), str(folder)]


@contextmanager
def front_end(replica_port: int, folder: Path) -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen(front_end_command(port, replica_port, folder), cwd=ROOT)
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleEndpoint]:
    with example_endpoint(tmp_path_factory.mktemp("state")) as example:
        yield example


@pytest.fixture(scope="module")
def url(example: ExampleEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(replica(example.app)) as port, front_end(port, tmp_path_factory.mktemp("haproxy")) as url:
        wait_until_served(url, example)
        yield url


def wait_until_served(url: str, example: ExampleEndpoint) -> None:
    for _ in range(100):
        if ask(url, example).status_code == 200:
            return
        time.sleep(0.1)


def ask(url: str, example: ExampleEndpoint, **headers: str) -> httpx.Response:
    given = {"authorization": f"Bearer {example.key}", **headers}
    return httpx.post(f"{url}{PREFIX}/predict", json={"features": VECTOR}, headers=given, timeout=20)


async def kept_for_s(port: int, text: str) -> tuple[float, bytes]:
    """How long a connection was kept on which half a request was sent, and what was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began_s, answer = time.monotonic(), b""
    writer.write(text.encode())
    try:
        while part := await asyncio.wait_for(reader.read(1000), 30):
            answer += part
    except OSError:
        pass
    writer.close()
    return time.monotonic() - began_s, answer


def test_slow_heads_and_bodies_are_closed_in_time_and_cost_the_others_nothing(
    url: str, example: ExampleEndpoint
) -> None:
    """More stalled bodies than there are slots, small ones and such as pass HAProxy's buffer, all with a valid key."""
    port = int(url.rpartition(":")[2])
    body = f"{HEAD}Authorization: Bearer {example.key}\r\nContent-Length: 100000\r\n\r\n{{"
    halves = [f"{HEAD}Author"] * 300 + [body] * 150 + [body + " " * 50_000] * 150

    async def all_at_once() -> tuple[list[tuple[float, bytes]], list[float]]:
        slow = [asyncio.create_task(kept_for_s(port, text)) for text in halves]
        await asyncio.sleep(1)
        took_s = []
        while time.monotonic() < began_s + 8:
            asked_s = time.monotonic()
            assert (await asyncio.to_thread(ask, url, example)).status_code == 200
            took_s.append(time.monotonic() - asked_s)
        return await asyncio.gather(*slow), took_s

    began_s = time.monotonic()
    kept, took_s = asyncio.run(all_at_once())
    assert max(seconds for seconds, _ in kept) < CLIENT_TIMEOUT_S + 3
    assert {answer[9:12] for _, answer in kept[:450]} == {b"408"}
    # Those are on their way to a replica: HAProxy ends them, or the replica does, whichever is first.
    assert {answer[9:12] for _, answer in kept[450:]} <= {b"400", b"408", b""}
    assert sorted(took_s)[len(took_s) * 9 // 10] < 0.5
    assert len(took_s) > 10


def test_the_time_that_a_body_took_to_arrive_counts(url: str, example: ExampleEndpoint) -> None:
    before = {status: counts.median_s() for status, counts in example.endpoint.app.answers.items()}
    counts = example.endpoint.app.answers[200]
    slow_before = sum(counts.latency[-12:])
    port = int(url.rpartition(":")[2])
    content = json.dumps({"features": VECTOR})

    async def slowly() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"{HEAD}Authorization: Bearer {example.key}\r\nConnection: close\r\nContent-Length: {len(content)}\r\n"
        for part in (head, "\r\n", content):
            writer.write(part.encode())
            await asyncio.sleep(1)
        return await reader.read()

    assert asyncio.run(slowly()).startswith(b"HTTP/1.1 200")
    assert sum(counts.latency[-12:]) == slow_before + 1, before  # an answer that took above a second
    late = ask(url, example, **{WAITED_HEADER: "9999999"})
    assert late.status_code == 200  # HAProxy says itself how long it waited


def test_a_replica_that_is_gone_is_a_503_that_says_when_to_ask_again(url: str, tmp_path: Path) -> None:
    with front_end(free_port(), tmp_path) as alone:
        for _ in range(100):
            answer = httpx.post(f"{alone}{PREFIX}/predict", json={})
            if answer.status_code == 503:
                break
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "Ask again" in answer.json()["error"]
        missing = httpx.get(f"{alone}/nothing")
        assert (missing.status_code, missing.json()["error"]) == (404, "There is no model at this path.")
        assert httpx.get(f"{alone}/-/healthz").status_code == 503


def test_before_the_routes_are_known_no_model_is_said_to_be_missing(tmp_path: Path) -> None:
    with front_end(0, tmp_path) as alone:
        answer = httpx.post(f"{alone}{PREFIX}/predict", json={})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.headers["content-type"] == "application/json"
        assert "Ask again" in answer.json()["error"]


def test_a_node_is_probed_without_a_credential_and_tells_nothing_else(url: str) -> None:
    assert httpx.get(f"{url}/-/healthz").status_code == 200
    routes = httpx.get(f"{url}/-/routes")
    assert (routes.status_code, PREFIX in routes.text) == (404, False)


def test_it_ends_with_whoever_started_it_however_that_ends(tmp_path: Path) -> None:
    port = free_port()
    command = shlex.join(front_end_command(port, 0, tmp_path))
    parent = subprocess.Popen(["sh", "-c", f"{command} & wait"], cwd=ROOT)
    wait_for(port)
    parent.kill()
    for _ in range(30):
        try:
            expect_free_port("127.0.0.1", port)
            break
        except ConfigurationError:
            time.sleep(0.1)
    expect_free_port("127.0.0.1", port)
    parent.wait()
