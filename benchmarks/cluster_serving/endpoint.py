"""An endpoint with one replica on a Ray that runs already: python endpoint.py ADDRESS STATE PORT."""

import sys
from pathlib import Path

import ray
from ray import serve

from mlops_ray.config import Settings
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.keys import create_key
from mlops_ray.governance.live import VersionRef
from mlops_ray.serving import local
from mlops_ray.serving.app import EndpointArgs, endpoint_application
from mlops_ray.testing.example_model import example_reader
from tests.integration.serve_example import NAME, ExampleRegistry, seal_all


def main(address: str, state: str, port: int) -> None:
    settings = Settings(state=state, data=state, http_port=port, serving_cpus=1)
    digests, store = seal_all(state), open_store(settings)
    set_champion(store, SYSTEM, NAME, VersionRef(7, digests[7]), "the example")
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    app = endpoint_application(
        EndpointArgs(model=NAME, max_replicas=1),
        settings,
        ExampleRegistry(state, digests),
        open_reader=lambda settings, service: example_reader(),
    )
    local.start(settings, {NAME: app})
    Path(state, "key").write_text(create_key(store, SYSTEM, "load", ["predict"]).secret)
    print("serving", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
