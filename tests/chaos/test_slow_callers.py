"""Callers that send half a head, or half a body, and wait: the others notice nothing."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from mlops_ray.serving.environment import CLIENT_TIMEOUT_S
from tests.chaos.test_serving import MODEL, PORT, VECTOR, Server, serving

HALF_HEADS, STALLED_BODIES, GOOD_PER_S = 4_200, 300, 50
HEAD = "POST /v2/models/departures/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


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


async def send_half(text: str) -> float:
    """How long the front end kept a connection on which half a request was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    began_s = time.monotonic()
    writer.write(text.encode())
    try:
        await writer.drain()
        while await asyncio.wait_for(reader.read(1000), 30):
            pass
    except OSError:
        pass
    writer.close()
    return time.monotonic() - began_s


async def beside_slow_callers(server: Server) -> tuple[Good, Good, list[float]]:
    calm = await ask_well(server, 10)
    half_head = f"{HEAD}Authoriz"
    large = f"{HEAD}Authorization: Bearer {server.key}\r\nContent-Length: 100000\r\n\r\n"
    halves = [half_head] * HALF_HEADS
    # Half of the bodies are larger than what HAProxy waits for: those reach a replica.
    halves += [large + "{" * (50_000 if number % 2 else 100) for number in range(STALLED_BODIES)]
    slow = [asyncio.create_task(send_half(text)) for text in halves]
    await asyncio.sleep(1)
    beside = await ask_well(server, 15)
    return calm, beside, await asyncio.gather(*slow)


@pytest.mark.timeout(300)
def test_slow_heads_and_bodies_cost_the_others_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        calm, beside, kept_s = asyncio.run(beside_slow_callers(server))
    print(
        f"p99 {calm.p99_ms():.1f} ms alone, {beside.p99_ms():.1f} ms beside {len(kept_s):,} slow connections, which "
        f"were kept {np.median(kept_s):.1f} s (at most {max(kept_s):.1f}); statuses {dict(beside.statuses)}"
    )
    assert set(calm.statuses) == set(beside.statuses) == {200}
    assert beside.p99_ms() <= 2 * calm.p99_ms()
    assert np.median(kept_s) <= CLIENT_TIMEOUT_S + 1
    assert max(kept_s) <= CLIENT_TIMEOUT_S + 3
