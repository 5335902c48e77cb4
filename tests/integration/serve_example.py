"""A driver that serves the example model with two replicas until it is interrupted: what `make up` does, small."""

import os
import sys
import tempfile
import time
from pathlib import Path

from mlops_ray.serving.environment import serve_environment

os.environ.update(serve_environment() | {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1"})

import ray

from mlops_ray.config import Settings
from mlops_ray.serving import local
from mlops_ray.serving.app import EndpointArgs, LiveModel, endpoint_application
from mlops_ray.testing.example_model import example_reader, seal_example


def main(port: int) -> None:
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=300_000_000,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    try:
        with tempfile.TemporaryDirectory() as state:
            folder = Path(state) / "sealed"
            live = LiveModel("7", seal_example(folder), folder)
            settings = Settings(state=state, data=state, http_port=port)
            args = EndpointArgs(model="departures", min_replicas=2)
            app = endpoint_application(args, settings, lambda settings, name, folder: live, example_reader)
            print(local.start(settings, {"departures": app}), flush=True)
            while True:
                time.sleep(1)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    finally:
        local.stop()
        ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
