"""The example model, a replica on each host of a Ray: python two_hosts_example.py PORT GCS_ADDRESS STATE STORE WAL."""

import sys
import time
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


def main(port: int, address: str, state: str, store: str, wal: str) -> None:
    settings = Settings(
        state=state, data=state, http_host="0.0.0.0", http_port=port, control_store=store, ledger_wal=wal,
        ledger_rotate_s=5,
    )  # fmt: skip
    digests = seal_all(state)
    control = open_store(settings)
    set_champion(control, SYSTEM, NAME, VersionRef(7, digests[7]), "the example")
    key = create_key(control, SYSTEM, "tests", ["predict", "operate"])
    ray.init(address=address, log_to_driver=False)
    serve.start(proxy_location="EveryNode", http_options={"host": "0.0.0.0", "port": port})
    app = endpoint_application(
        EndpointArgs(model=NAME, min_replicas=2, max_replicas=2),
        settings,
        ExampleRegistry(state, digests),
        open_reader=lambda settings, service: example_reader(),
    )
    local.start(settings, {NAME: app})
    Path(state, "key").write_text(key.secret)
    print("serving", flush=True)
    time.sleep(3600)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:6])
