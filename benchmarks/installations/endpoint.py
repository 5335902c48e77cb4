"""Serve the example model with the packages of this interpreter, and print what that took as JSON.

Run as a file by the Python of an environment in which the wheel is installed: it needs nothing beside.
"""

import json
import os
import sys
import time
from pathlib import Path

import psutil


def main(state: Path, port: int) -> None:
    from mlops_ray.client import Client
    from mlops_ray.config import Settings
    from mlops_ray.operations.local_ray import ray_for
    from mlops_ray.testing.example_endpoint import NAME, example_endpoint
    from mlops_ray.testing.example_model import example_answer, example_reader

    row = {"origin": "JFK", "distance": 500.0, "carrier": "AA", "hour": 8.0, "recent_delay": 12.5}
    with example_endpoint(state) as example:
        key = example.key
    settings = Settings(state=str(state), data=str(state), http_port=port, num_cpus=2)
    with ray_for(settings, serving=True):
        from mlops_ray.serving.app import EndpointArgs, endpoint_application
        from mlops_ray.serving.local import start

        url = start(settings, {})  # the proxy and the server's own replica
        begun_s = time.perf_counter()
        start(settings, {NAME: endpoint_application(EndpointArgs(model=NAME), settings, open_reader=example_reader)})
        took_s = time.perf_counter() - begun_s
        with Client(url, api_key=key, deadline_s=15) as client:
            answer = client.predict(NAME, features=row).predictions[0].probability
        replicas = [one for one in psutil.process_iter(["cmdline"]) if is_replica(one, NAME)]
        memory = sum(one.memory_full_info().uss for one in replicas) / max(1, len(replicas)) / 2**20
    right = answer is not None and abs(answer - example_answer(row)) < 1e-6
    print(json.dumps({"replica_start_s": took_s, "replica_mb": memory, "right": right}))


def is_replica(process: psutil.Process, name: str) -> bool:
    title = " ".join(process.info["cmdline"] or [])
    return title.startswith(f"ray::ServeReplica:{name}:") and process.uids().real == os.getuid()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
