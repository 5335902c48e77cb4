"""An object store: what reading and writing a small object costs, beside boto3 with a client that is made once.

The store is moto in a process of its own, which takes milliseconds for each request and both alike; what it does not
take is CPU of this process. Runs are in turns, and credentials are in the environment, as most have them.
"""

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import boto3

from mlops_ray.artifacts import Artifacts

OBJECTS, TURNS = 100, 7
CONTENT = b'{"rows": 1}' * 100
START_S = 30.0


def figures() -> Iterator[tuple[str, float, str]]:
    os.environ |= {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark"}  # pragma: allowlist secret
    with _store() as port:
        url = f"http://127.0.0.1:{port}"
        client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
        client.create_bucket(Bucket="lake")
        artifacts = Artifacts(f"s3://lake?region=us-east-1&endpoint_override={url}")
        for what, ours, theirs in (
            (
                "write",
                lambda name: artifacts.create_bytes(CONTENT, "ours", name),
                lambda name: client.put_object(Bucket="lake", Key=f"theirs/{name}", Body=CONTENT, IfNoneMatch="*"),
            ),
            (
                "read",
                lambda name: artifacts.read_bytes("ours", name),
                lambda name: client.get_object(Bucket="lake", Key=f"theirs/{name}")["Body"].read(),
            ),
        ):
            turns = [(_cost_ms(ours, turn), _cost_ms(theirs, turn)) for turn in range(TURNS)]
            for name, which in (("cpu", 0), ("wall", 1)):
                ratios = sorted(our[which] / their[which] for our, their in turns)
                yield f"{what}_{name}_ms", statistics.median(our[which] for our, _ in turns), f"ms, {len(CONTENT)} B"
                yield f"{what}_{name}_vs_boto3", statistics.median(ratios), f"x, {ratios[0]:.2f} to {ratios[-1]:.2f}"


def _cost_ms(work: Callable[[str], object], turn: int) -> tuple[float, float]:
    """CPU and wall time of each of many objects."""
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    for number in range(OBJECTS):
        work(f"{turn}/{number}.json")
    each = 1000 / OBJECTS
    return each * (time.process_time() - cpu_s), each * (time.perf_counter() - wall_s)


@contextmanager
def _store() -> Iterator[int]:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), timeout=1)):
                break
            time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait()
