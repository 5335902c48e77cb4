"""Five times the capacity: who is answered is answered in time, and the rest is told to come back."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from tests.chaos.test_serving import KEY, MODEL, Server, serving


@dataclass
class Seen:
    statuses: Counter[Any] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)


@pytest.mark.timeout(600)
def test_five_times_the_capacity_gets_only_answers_and_429(tmp_path: Path) -> None:
    """A look-up of 20 ms, one at a time in each of two replicas: 100 requests/s are all there is."""
    with serving(tmp_path, "0.02", "2") as server:
        calm = asyncio.run(ask_at_fixed_rate(server, per_s=80, seconds=20))
        replicas = server.processes("ServeReplica:departures")
        before = sum(process.memory_info().rss for process in replicas)
        heavy = asyncio.run(ask_at_fixed_rate(server, per_s=500, seconds=60))
        after = sum(process.memory_info().rss for process in replicas)
        time.sleep(10)
        again = asyncio.run(ask_at_fixed_rate(server, per_s=80, seconds=10))
    p99 = {
        name: float(np.percentile(x.latencies_s, 99))
        for name, x in (("calm", calm), ("heavy", heavy), ("again", again))
    }
    print("p99 in s:", json.dumps(p99), "heavy:", dict(heavy.statuses), f"memory {after / before - 1:+.1%}")
    assert set(heavy.statuses) == {200, 429}
    for easy in (calm, again):
        assert set(easy.statuses) <= {200, 429}
        assert easy.statuses[429] <= 0.01 * easy.statuses.total()
    assert p99["heavy"] <= 3 * p99["calm"]
    assert p99["again"] <= 1.5 * p99["calm"]
    assert after <= 1.1 * before


async def ask_at_fixed_rate(server: Server, per_s: float, seconds: float) -> Seen:
    """Requests at a fixed rate whatever the answers. aiohttp, because httpx looks at every connection for each."""
    seen = Seen()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=server.headers) as client:

        async def ask() -> None:
            started = time.monotonic()
            async with client.post(f"{MODEL}/predict", json={"keys": KEY}) as response:
                await response.read()
            seen.statuses[response.status] += 1
            if response.status == 200:
                seen.latencies_s.append(time.monotonic() - started)
            else:
                assert response.headers["retry-after"]

        tasks, due = [], time.monotonic()
        for _ in range(int(per_s * seconds)):
            tasks.append(asyncio.create_task(ask()))
            due += 1 / per_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*tasks)
    return seen
