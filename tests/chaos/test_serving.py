"""Serving while parts of it are killed, damaged or overloaded: what a caller notices, and what the ledger has."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import psutil
import pytest

from mlops_ray.client import Client
from mlops_ray.config import Settings
from mlops_ray.predictions.reader import Ledger
from mlops_ray.serving.environment import haproxy_folder
from tests.pipeline_run import ROOT, kill_group
from tests.raw_ledger import raw_rows

EXAMPLE = ROOT / "tests" / "integration" / "serve_example.py"
PORT = 18_200
URL = f"http://127.0.0.1:{PORT}"
MODEL = f"{URL}/v2/models/departures"
VECTOR = {"origin": "JFK", "distance": 500.0, "carrier": "AA", "hour": 8.0, "recent_delay": 30.0}
KEY = {"carrier": "AA", "origin": "JFK", "departure": "2013-10-01T12:00:00Z", "distance": 1.0}


@dataclass
class Server:
    state: Path
    key: str
    mark: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def processes(self, name: str) -> list[psutil.Process]:
        """Processes of this server whose command line has `name`, told by a variable that they inherited."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("MLOPS_RAY_TEST") == self.mark
                if mine and name in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def haproxies(self) -> list[psutil.Process]:
        return self.processes(f"-f {haproxy_folder()}")

    def operate(self, path: str, body: Any) -> Any:
        response = httpx.post(f"{MODEL}/rollout{path}", json=body, headers=self.headers, timeout=20)
        assert response.status_code == 200, response.text
        return response.json()

    def recorded(self) -> list[str]:
        """The request ids of all rows of the ledger's segments, as they were written."""
        rows = raw_rows(Settings(state=str(self.state), data=str(self.state)), "departures")
        return rows["request_id"].to_list()

    def start(self, version: int, steps: list[Any]) -> Any:
        revision = httpx.get(f"{MODEL}/rollout", headers=self.headers, timeout=20).json()["revision"]
        return self.operate("", {"version": version, "plan": {"steps": steps}, "revision": revision})


@contextmanager
def serving(state: Path, *arguments: str, script: Path = EXAMPLE) -> Iterator[Server]:
    mark = str(time.time_ns())
    driver = subprocess.Popen(
        [sys.executable, str(script), str(PORT), str(state), *arguments],
        env={**os.environ, "MLOPS_RAY_TEST": mark, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline().strip() == URL
        yield Server(state, (state / "admin_key").read_text().strip(), mark)
        os.killpg(driver.pid, signal.SIGINT)
        driver.wait(60)
    finally:
        if driver.poll() is None:
            kill_group(driver)


@dataclass
class Load:
    """What callers saw: statuses, and the ids of answered requests. `moments`: of each answer and its status."""

    statuses: Counter[Any] = field(default_factory=Counter)
    answered: list[str] = field(default_factory=list)
    moments: list[tuple[float, Any]] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)


@contextmanager
def load(ask: Callable[[Load], None], per_s: float, threads: int = 4) -> Iterator[Load]:
    """Call `ask` at a fixed rate, from some threads, until the block ends."""
    seen, done = Load(), threading.Event()

    def work() -> None:
        due = time.monotonic()
        while not done.is_set():
            ask(seen)
            due += threads / per_s
            time.sleep(max(0.0, due - time.monotonic()))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield seen
    finally:
        done.set()
        for worker in workers:
            worker.join()


def raw(server: Server, body: Any) -> Callable[[Load], None]:
    local = threading.local()

    def ask(seen: Load) -> None:
        if not hasattr(local, "client"):
            local.client = httpx.Client(headers=server.headers, timeout=10)
        try:
            response = local.client.post(f"{MODEL}/predict", json=body)
        except httpx.TransportError as error:
            seen.statuses[type(error).__name__] += 1
            seen.moments.append((time.monotonic(), type(error).__name__))
            return
        seen.statuses[response.status_code] += 1
        seen.moments.append((time.monotonic(), response.status_code))
        if response.status_code == 200:
            seen.answered.append(response.json()["request_id"])
            seen.versions[response.json()["version"]] += 1

    return ask


def wait_until(true: Callable[[], bool], timeout_s: float) -> float:
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < timeout_s
        time.sleep(0.1)
    return time.monotonic() - started


def expect_each_once(server: Server, answered: list[str], repeated: list[str]) -> None:
    """Every answer that a caller got was written to the ledger exactly once; one whose client may have asked again
    after its answer was lost, for each of its answers."""
    wanted = {*answered, *repeated}
    assert len(wanted) == len(answered) + len(repeated)
    wait_until(lambda: wanted <= set(server.recorded()), 60)
    kept = Counter(server.recorded())
    assert {kept[request_id] for request_id in answered} == {1}
    counted = Counter(
        Ledger(Settings(state=str(server.state), data=str(server.state)), "departures").frame()["request_id"]
    )
    assert {counted[request_id] for request_id in repeated} <= {1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("state")) as server:
        yield server


@pytest.mark.timeout(600)
def test_a_replica_killed_every_15_s_costs_at_most_what_was_in_flight(
    server: Server, record_property: Callable[[str, object], None]
) -> None:
    kills = 8
    answered_through_client: list[str] = []

    def through_client(seen: Load) -> None:
        with Client(URL, api_key=server.key) as client:
            answered_through_client.append(client.predict("departures", features=VECTOR).request_id)

    with load(raw(server, {"features": VECTOR}), 40) as seen, load(through_client, 10, threads=2):
        for _ in range(kills):
            time.sleep(15)
            server.processes("ServeReplica:departures")[0].kill()
        time.sleep(5)
    failures = sum(count for status, count in seen.statuses.items() if status != 200)
    record_property("failures", failures)
    print("replica kills:", dict(seen.statuses), "through the client:", len(answered_through_client))
    assert failures <= kills * 4  # no more than the raw callers that were waiting at a kill
    expect_each_once(server, seen.answered, answered_through_client)


@pytest.mark.timeout(300)
def test_a_damaged_version_sent_to_all_replicas_is_noticed_by_nobody(server: Server) -> None:
    with load(raw(server, {"features": VECTOR}), 50) as seen:
        server.start(20, [])
        time.sleep(8)
    shown = httpx.get(f"{MODEL}/rollout", headers=server.headers).json()
    assert (shown["champion"]["version"], shown["rollout"]) == (7, None)
    assert set(seen.statuses) == {200}
    assert set(seen.versions) == {"7"}


@pytest.mark.timeout(300)
def test_a_canary_that_raises_costs_nobody_anything_and_goes_back_by_rule(server: Server) -> None:
    step = {"route": "canary", "share": 0.5, "hold_s": 600}
    with load(raw(server, {"features": {**VECTOR, "distance": 9_500.0}}), 50) as seen:
        server.start(21, [step])
        time.sleep(1)
        took_s = wait_until(lambda: httpx.get(f"{MODEL}/rollout", headers=server.headers).json()["rollout"] is None, 30)
        time.sleep(2)
    print(f"a canary that raises was rolled back after {took_s + 1:.1f} s")
    assert set(seen.statuses) == {200}
    assert set(seen.versions) == {"7"}


NASTY = [
    None, True, -1, 0, 2**70, 1e400, 1e-400, -0.0, "", "x" * 100_000, "\x00", "\ud800", "NaN", [], {}, [[]], {"a": {}},
]  # fmt: skip
RAW = [
    b"", b"null", b"[]", b"{", b"\xff\xfe", b"[" * 1000, b"[" * 1000 + b"]" * 1000, b'{"keys":' * 1000, b"NaN",
    b'{"features": NaN}', b'{"features": {"distance": Infinity}}', b"\x00" * 100, b'{"keys": {}, "keys": {}}',
    b'"' + b"a" * 1_000_000 + b'"',
]  # fmt: skip
TYPES = ["application/json", "text/plain", "", "application/json; charset=utf-16", "application/octet-stream", "\xe9"]


def hostile(random: Random) -> tuple[str, bytes, str]:
    """A route, a body and a content type, most of them wrong."""
    path = random.choice(["predict", "predict", "predict", "infer", "rollout", "ready", "nothing"])
    if random.random() < 0.2:
        return path, random.choice(RAW), random.choice(TYPES)
    body: dict[str, Any] = random.choice(
        [{"features": dict(VECTOR)}, {"keys": dict(KEY)}, {"keys": [dict(KEY)] * 3}, {"inputs": [{"name": "origin"}]}]
    )
    inner: Any = next(iter(body.values()))
    for place in random.choices([body, inner if isinstance(inner, dict) else inner[0]], k=random.randrange(1, 3)):
        place[random.choice([*place, "more"])] = random.choice(NASTY)
    content = json.dumps(body).encode()
    if random.random() < 0.2:
        cut = random.randrange(len(content))
        content = content[:cut] + bytes([random.randrange(256)]) + content[cut + random.randrange(3) :]
    return path, content, random.choice(TYPES) if random.random() < 0.1 else "application/json"


@pytest.mark.timeout(600)
def test_ten_thousand_hostile_requests_bring_nothing_down(server: Server) -> None:
    replicas = {process.pid for process in server.processes("ServeReplica:departures")}
    random, statuses = Random(13), Counter[int]()

    def send(part: list[tuple[str, bytes, str]]) -> None:
        with httpx.Client(headers=server.headers, timeout=20) as client:
            for path, content, kind in part:
                headers = {"content-type": kind.encode("latin-1")}
                response = client.post(f"{MODEL}/{path}", content=content, headers=headers)
                statuses[response.status_code] += 1
                assert response.status_code < 500, (path, content[:200], response.text)

    requests = [hostile(random) for _ in range(10_000)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, [requests[part::4] for part in range(4)]))
    for _ in range(200):
        with socket.create_connection(("127.0.0.1", PORT)) as connection:
            connection.sendall(
                f"POST /v2/models/departures/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.key}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {random.randrange(1, 5000)}\r\n\r\n{{".encode()
            )
    print("hostile requests:", dict(statuses))
    assert httpx.post(f"{MODEL}/predict", json={"features": VECTOR}, headers=server.headers).status_code == 200
    assert {process.pid for process in server.processes("ServeReplica:departures")} == replicas


@pytest.mark.parametrize("name", ["ServeController", "haproxy"])
@pytest.mark.timeout(300)
def test_service_is_back_within_15_s_of_a_kill(server: Server, name: str) -> None:
    victims = server.processes(name) if name != "haproxy" else server.haproxies()
    assert victims
    with load(raw(server, {"features": VECTOR}), 20) as seen:
        time.sleep(1)
        killed = time.monotonic()
        for victim in victims:
            victim.kill()
        time.sleep(25)
    failed = [moment - killed for moment, status in seen.moments if status != 200]
    print(f"{name}: {len(failed)} failed, the last {max(failed, default=0):.1f} s after the kill")
    assert max(failed, default=0) < 15
    assert seen.moments[-1][1] == 200
    # One that was replaced may stay until idle connections to it are closed, but it takes no new ones.
    assert sum(map(listens, server.haproxies())) == 1


def listens(process: psutil.Process) -> bool:
    try:
        return any(one.status == psutil.CONN_LISTEN for one in process.net_connections("tcp"))
    except psutil.NoSuchProcess:
        return False


@pytest.mark.timeout(300)
def test_a_replica_that_hangs_is_replaced(server: Server) -> None:
    victim = server.processes("ServeReplica:departures")[0]
    victim.suspend()
    started = time.monotonic()
    try:
        wait_until(lambda: victim.pid not in {p.pid for p in server.processes("ServeReplica:departures")}, 120)
    finally:
        if victim.is_running():
            victim.kill()
    print(f"a replica that hangs was replaced after {time.monotonic() - started:.0f} s")
    wait_until(lambda: len(server.processes("ServeReplica:departures")) == 2, 60)
    with load(raw(server, {"features": VECTOR}), 20) as seen:
        time.sleep(3)
    assert set(seen.statuses) == {200}
