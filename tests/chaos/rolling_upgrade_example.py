"""The example model with two replicas on a Ray that runs: python rolling_upgrade_example.py ADDRESS STATE PORT.

What is imported is the release that the environment names; it upgrades the control store before it deploys.
"""

import json
import os
import sys
from pathlib import Path

import ray

from mlops_ray.config import Settings
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM, Actor
from mlops_ray.governance.keys import create_key
from mlops_ray.governance.live import VersionRef, live
from mlops_ray.operations.upgrade import upgrade
from mlops_ray.serving import local
from mlops_ray.serving.app import EndpointArgs, endpoint_application
from mlops_ray.testing.example_model import example_reader
from tests.integration.serve_example import NAME, ExampleRegistry, seal_all


def main(address: str, state: str, port: int) -> None:
    settings = Settings(state=state, data=state, http_port=port, ledger_rotate_s=5)
    upgrade(settings, lambda _: Actor("root", ("admin",), id="root"))
    store = open_store(settings)
    kept = Path(state, "digests.json")
    if not kept.exists():
        kept.write_text(json.dumps(seal_all(state)))
    digests = {int(version): digest for version, digest in json.loads(kept.read_text()).items()}
    if live(store, NAME).champion is None:
        set_champion(store, SYSTEM, NAME, VersionRef(7, digests[7]), "the example")
        Path(state, "key").write_text(create_key(store, SYSTEM, "tests", ["predict"]).secret)
    ray.init(
        address=address,
        runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}},
        log_to_driver=False,
    )
    app = endpoint_application(
        EndpointArgs(model=NAME, min_replicas=2, max_replicas=2),
        settings,
        ExampleRegistry(state, digests),
        open_reader=lambda settings, service: example_reader(),
    )
    local.start(settings, {NAME: app})
    print("serving", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
