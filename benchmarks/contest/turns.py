"""Turns: with and without something, in the same processes, in turns so short that the machine is the same in both.

Which turn it is, both sides read from the machine's clock: with, without, without, with, so that what drifts slowly
falls on both alike.
"""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from contest.load import Target

ORDER = (True, False, False, True)
EDGE_S = 0.03  # at both ends of a turn nothing is counted: requests on their way, and what follows an answer
_HEAD_ENDS, _LENGTH = b"\r\n\r\n", b"content-length:"


@dataclass(frozen=True)
class Answered:
    """One request: when it was sent, in seconds since 1970, and how long its answer took."""

    sent_s: float
    took_s: float


def is_on(moment_s: float, turn_s: float) -> bool:
    return ORDER[int(moment_s / turn_s) % len(ORDER)]


def blocks(found: Sequence[Answered], turn_s: float, turns: int) -> list[tuple[list[float], list[float]]]:
    """The times with it and without it, of each stretch of so many turns that is whole."""
    stretches: dict[int, tuple[list[float], list[float]]] = {}
    for one in found:
        if EDGE_S <= one.sent_s % turn_s <= turn_s - EDGE_S:
            both = stretches.setdefault(int(one.sent_s / turn_s) // turns, ([], []))
            both[0 if is_on(one.sent_s, turn_s) else 1].append(one.took_s)
    whole = [stretches[number] for number in sorted(stretches)[1:-1]]
    return [both for both in whole if all(both)]  # the machine may stand still for a whole turn


def ask(target: Target, clients: int, requests_per_s: float, seconds: float) -> list[Answered]:
    """So many connections, each of which asks, waits for the answer and pauses as `rows.lua` has it. Any answer but a
    200, and a connection that breaks, ends the benchmark."""
    return asyncio.run(_ask(target, clients, requests_per_s, seconds))


async def _ask(target: Target, clients: int, requests_per_s: float, seconds: float) -> list[Answered]:
    loop, url = asyncio.get_running_loop(), urlsplit(target.url)
    head = f"POST {url.path} HTTP/1.1\r\nhost: {url.netloc}\r\ncontent-type: application/json\r\n"
    head += f"authorization: {target.authorization}\r\n" if target.authorization else ""
    bodies = target.rows.read_bytes().splitlines()
    requests = [f"{head}content-length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
    found: list[Answered] = []
    over = loop.create_future()
    connections = []
    for number in range(clients):
        mine = requests[number::clients]
        _, connection = await loop.create_connection(
            lambda mine=mine: _Connection(mine, clients / requests_per_s, found, over), url.hostname, url.port
        )
        connections.append(connection)
        connection.pause()
    loop.call_later(seconds, lambda: over.done() or over.set_result(None))
    try:
        await over
    finally:
        for connection in connections:
            connection.end()
    return found


class _Connection(asyncio.Protocol):
    def __init__(self, requests: Sequence[bytes], pause_s: float, found: list[Answered], over: asyncio.Future[None]):
        self._requests, self._pause_s, self._found, self._over = requests, pause_s, found, over
        self._next, self._sent_s, self._began_s, self._received = 0, 0.0, 0.0, b""
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def pause(self) -> None:
        asyncio.get_running_loop().call_later(random.expovariate(1 / self._pause_s), self._send)

    def end(self) -> None:
        self._ended = True
        self._transport.abort()

    def _send(self) -> None:
        if self._ended:
            return
        self._sent_s, self._began_s = time.time(), time.perf_counter()
        self._transport.write(self._requests[self._next % len(self._requests)])
        self._next += 1

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(_HEAD_ENDS)
        if not end or len(body) < int(head.lower().partition(_LENGTH)[2].split(b"\r\n")[0]):
            return
        took_s = time.perf_counter() - self._began_s
        self._received = b""
        if b" 200 " not in head[:16]:
            self._fail(f"{head[:60]!r} {json.dumps(body[:200].decode(errors='replace'))}")
            return
        self._found.append(Answered(self._sent_s, took_s))
        self.pause()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._ended:
            self._fail(f"A connection broke: {error}")

    def _fail(self, what: str) -> None:
        if not self._over.done():
            self._over.set_exception(SystemExit(f"{what} A measurement needs every answer."))
