"""Callers that send half a head, or half a body, and wait: the others notice nothing."""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from mlops_ray.serving.environment import CLIENT_TIMEOUT_S
from tests.chaos.test_serving import MODEL, PORT, VECTOR, Server, serving
from tests.pipeline_run import ROOT

HALF_HEADS, STALLED_BODIES, GOOD_PER_S = 4_200, 300, 50
SLOW_CALLERS = ROOT / "tests" / "chaos" / "slow_callers.py"
SECONDS = 15.0  # from all being connected until long after the last was closed


@dataclass
class Good:
    statuses: Counter[object] = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)

    def p99_ms(self) -> float:
        return 1000 * float(np.percentile(self.took_s, 99))


async def ask_well(server: Server, seconds: float) -> Good:
    """Good requests at a fixed rate, each on a connection of its own, as those of many callers are."""
    seen, connector = Good(), aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(connector=connector, headers=server.headers, timeout=timeout) as client:

        async def ask() -> None:
            began_s = time.monotonic()
            try:
                async with client.post(f"{MODEL}/predict", json={"features": VECTOR}) as response:
                    await response.read()
                    seen.statuses[response.status] += 1
            except (aiohttp.ClientError, TimeoutError) as error:
                seen.statuses[type(error).__name__] += 1
            seen.took_s.append(time.monotonic() - began_s)

        tasks, due_s = [], time.monotonic()
        for _ in range(int(GOOD_PER_S * seconds)):
            tasks.append(asyncio.create_task(ask()))
            due_s += 1 / GOOD_PER_S
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        await asyncio.gather(*tasks)
    return seen


@contextmanager
def slow_callers(port: int, key: str) -> Iterator["subprocess.Popen[str]"]:
    """In a process of their own that gives way to all others: on real networks they are other machines."""
    arguments = [str(port), str(HALF_HEADS), str(STALLED_BODIES), key]
    process = subprocess.Popen([sys.executable, str(SLOW_CALLERS), *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process
    finally:
        process.kill()
        process.wait()


def front_end_cpu_s(server: Server) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in server.haproxies())


@pytest.mark.timeout(300)
def test_slow_heads_and_bodies_cost_the_others_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        asyncio.run(ask_well(server, 3))
        calm = asyncio.run(ask_well(server, SECONDS))
        before_s = front_end_cpu_s(server)
        with slow_callers(PORT, server.key) as process:
            beside = asyncio.run(ask_well(server, SECONDS))
            assert process.stdout is not None
            assert process.stdout.readline() == "connected\n"
            kept_s = json.loads(process.stdout.readline())
        spent_s = front_end_cpu_s(server) - before_s
    print(
        f"p99 {calm.p99_ms():.1f} ms alone, {beside.p99_ms():.1f} ms beside {len(kept_s):,} slow connections, which "
        f"were kept {np.median(kept_s):.1f} s (at most {max(kept_s):.1f}); the front end took {spent_s:.2f} s of CPU; "
        f"statuses {dict(beside.statuses)}"
    )
    assert set(calm.statuses) == set(beside.statuses) == {200}
    assert beside.p99_ms() <= 2 * calm.p99_ms()
    assert np.median(kept_s) <= CLIENT_TIMEOUT_S + 1
    assert max(kept_s) <= CLIENT_TIMEOUT_S + 3
