"""One machine, one replica: what a caller waits for when a process is killed, and that nothing outlives its command."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from mlops_ray.errors import ConfigurationError
from mlops_ray.serving.environment import expect_free_port
from tests.chaos.test_serving import MODEL, PORT, URL, VECTOR, Server
from tests.pipeline_run import ROOT, kill_group

STAY = ROOT / "tests" / "chaos" / "stay_example.py"


@contextmanager
def staying(state: Path) -> Iterator[tuple[Server, "subprocess.Popen[str]"]]:
    mark = str(time.time_ns())
    driver = subprocess.Popen(
        [sys.executable, str(STAY), str(PORT), str(state)],
        env={**os.environ, "MLOPS_RAY_TEST": mark, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline().strip() == URL
        yield Server(state, (state / "admin_key").read_text().strip(), mark), driver
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGINT)
            try:
                driver.wait(60)
            except subprocess.TimeoutExpired:
                kill_group(driver)


def outage_s(server: Server, seconds: float) -> tuple[float, set[object]]:
    """How long after now an answer was still not 200, of requests each 0.2 s; and what was answered instead."""
    began_s, last_s, seen = time.monotonic(), 0.0, set[object]()
    while time.monotonic() < began_s + seconds:
        try:
            answer = httpx.post(f"{MODEL}/predict", json={"features": VECTOR}, headers=server.headers, timeout=3)
            status: object = answer.status_code
        except httpx.TransportError as error:
            status = type(error).__name__
        if status != 200:
            last_s = time.monotonic() - began_s
            seen.add(status)
        time.sleep(0.2)
    return last_s, seen


@pytest.mark.timeout(400)
def test_kills_are_over_in_15_s_and_nothing_outlives_ray(tmp_path: Path) -> None:
    with staying(tmp_path) as (server, driver):
        (replica,) = server.processes("ServeReplica:departures")
        replica.kill()
        after_replica_s, seen = outage_s(server, 40)
        print(f"the only replica killed: {after_replica_s:.1f} s, {seen}")
        for proxy in server.haproxies():
            proxy.kill()
        after_proxy_s, seen_of_proxy = outage_s(server, 30)
        print(f"HAProxy killed: {after_proxy_s:.1f} s, {seen_of_proxy}")
        (gcs,) = server.processes("gcs_server")
        gcs.kill()
        began_s = time.monotonic()
        assert driver.wait(40) == 1
        assert driver.stderr is not None
        said = driver.stderr.read()
        print(f"gcs_server killed: the command ended after {time.monotonic() - began_s:.1f} s: {said[-300:]}")
        expect_nothing_left(server)
    assert "error: Ray has ended: its gcs_server is gone" in said
    assert 404 not in seen | seen_of_proxy
    assert after_replica_s < 15
    assert after_proxy_s < 15


@pytest.mark.timeout(200)
def test_a_command_that_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    with staying(tmp_path) as (server, driver):
        driver.kill()
        expect_nothing_left(server)


def expect_nothing_left(server: Server) -> None:
    for _ in range(300):
        left = [f"process {process.pid}" for process in server.processes("")]
        try:
            expect_free_port("127.0.0.1", PORT)
            if not left:
                return
        except ConfigurationError:
            left.append("the port")
        time.sleep(0.1)
    raise AssertionError(f"left after 30 s: {left}")
