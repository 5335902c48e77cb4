"""A driver that serves the example model with two replicas until it is interrupted: what `make up` does, small."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mlops_ray.serving.environment import serve_environment

os.environ.update(serve_environment() | {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1"})

import ray

from mlops_ray.config import Settings
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.live import VersionRef, set_champion
from mlops_ray.governance.principals import development_key
from mlops_ray.serving import local
from mlops_ray.serving.app import EndpointArgs, endpoint_application
from mlops_ray.testing.example_model import example_reader, seal_example

NAME = "departures"


@dataclass(frozen=True)
class ExampleRegistry:
    state: str
    digests: dict[int, str]

    def find(self, name: str, version: int) -> VersionRef:
        return VersionRef(version, self.digests[version])

    def fetch(self, name: str, version: VersionRef, folder: Path) -> Path:
        return Path(self.state) / "sealed" / str(version.version)

    def show_champion(self, name: str, version: int) -> None:
        pass


def main(port: int, state: str) -> None:
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=300_000_000,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    try:
        settings = Settings(state=state, data=state, http_port=port, ledger_rotate_s=5)
        store = open_store(settings)
        digests = {number: seal_example(Path(state) / "sealed" / str(number), salt=number) for number in range(7, 12)}
        set_champion(store, SYSTEM, NAME, VersionRef(7, digests[7]), "the example")
        development_key(store, settings)
        app = endpoint_application(
            EndpointArgs(model=NAME, min_replicas=2),
            settings,
            ExampleRegistry(state, digests),
            open_reader=example_reader,
        )
        print(local.start(settings, {NAME: app}), flush=True)
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    finally:
        local.stop()
        ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
