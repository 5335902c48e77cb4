"""Callers that send half a request and wait, from a process of their own: python slow_callers.py PORT HEADS BODIES KEY.

Prints a line when all are connected, and one with the seconds that each connection was kept.
"""

import asyncio
import json
import os
import sys
import time

HEAD = "POST /v2/models/departures/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
PER_S = 2_000


async def send_half(port: int, text: str) -> float:
    """How long a connection was kept on which half a request was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
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


async def main(port: int, heads: int, bodies: int, key: str) -> None:
    halves = [f"{HEAD}Authoriz"] * heads
    large = f"{HEAD}Authorization: Bearer {key}\r\nContent-Length: 100000\r\n\r\n"
    # Half of the bodies are larger than what HAProxy waits for: those reach a replica.
    halves += [large + "{" * (50_000 if number % 2 else 100) for number in range(bodies)]
    slow, due_s = [], time.monotonic()
    for text in halves:
        slow.append(asyncio.create_task(send_half(port, text)))
        due_s += 1 / PER_S
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
    print("connected", flush=True)
    print(json.dumps(await asyncio.gather(*slow)), flush=True)


if __name__ == "__main__":
    os.nice(19)
    asyncio.run(main(*map(int, sys.argv[1:4]), sys.argv[4]))
