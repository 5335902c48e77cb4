"""Replicas come with the load and go with it, within their bounds, and nobody notices."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.test_overload import ask_at_fixed_rate
from tests.chaos.test_serving import VECTOR, Server, load, raw, serving

MAX_REPLICAS = 2


@pytest.mark.timeout(300)
def test_replicas_follow_the_load_within_their_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up of 160 ms, eight at a time: a replica answers 50 requests/s, and 80 are asked. CPUs are there for 4."""
    monkeypatch.setenv("EXAMPLE_SCALES", "1")
    with serving(tmp_path, "0.16", "8") as server:
        assert replicas(server) == 1
        with watched(server) as counts:
            heavy = asyncio.run(ask_at_fixed_rate(server, per_s=80, seconds=40))
        assert max(counts) == MAX_REPLICAS
        assert set(heavy.statuses) <= {200, 429}
        with load(raw(server, {"features": VECTOR}), per_s=10) as light:
            wait_for_one(server)
        assert set(light.statuses) == {200}


def replicas(server: Server) -> int:
    return len(server.processes("ServeReplica:departures:endpoint"))


@contextmanager
def watched(server: Server) -> Iterator[list[int]]:
    counts, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            counts.append(replicas(server))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield counts
    finally:
        done.set()
        watcher.join()


def wait_for_one(server: Server) -> None:
    deadline = time.monotonic() + 90
    while replicas(server) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.5)
