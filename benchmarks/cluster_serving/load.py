"""Asks an endpoint at a steady rate; how long each answer took from the moment at which it should have been asked."""

import asyncio
import json
import time
from dataclasses import dataclass

VECTOR = {"origin": "JFK", "distance": 500.0, "carrier": "AA", "hour": 8.0, "recent_delay": 30.0}


@dataclass(frozen=True)
class Asked:
    """latencies_ms: of what was answered with 200. failed: everything else."""

    latencies_ms: list[float]
    failed: int
    requests_per_s: float

    def percentile(self, share: float) -> float:
        return sorted(self.latencies_ms)[int(share * (len(self.latencies_ms) - 1))]


def ask(port: int, name: str, key: str, seconds: float, rate: float | None, clients: int = 16) -> Asked:
    """rate: requests a second, None for as many as are answered."""
    return asyncio.run(_ask(port, _request(name, key), seconds, rate, clients))


def _request(name: str, key: str) -> bytes:
    body = json.dumps({"features": VECTOR})
    head = f"POST /v2/models/{name}/predict HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


async def _ask(port: int, request: bytes, seconds: float, rate: float | None, clients: int) -> Asked:
    begin, found, failed, number = time.perf_counter(), list[float](), 0, 0

    async def client() -> None:
        nonlocal failed, number
        connection = None
        while True:
            due, number = begin + number / rate if rate else time.perf_counter(), number + 1
            if due >= begin + seconds:
                return
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            try:
                connection = connection or await asyncio.open_connection("127.0.0.1", port)
                is_good = await asyncio.wait_for(_exchange(*connection, request), 10)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                connection, is_good = None, False
            if is_good:
                found.append(1000 * (time.perf_counter() - due))
            else:
                failed += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return Asked(found, failed, len(found) / (time.perf_counter() - begin))


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))
    return head.startswith(b"HTTP/1.1 200")
