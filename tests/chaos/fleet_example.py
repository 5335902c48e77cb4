"""What runs on the fleet: the example model, a replica on each worker, and its governor: python -m
tests.chaos.fleet_example GCS_ADDRESS SETTINGS_FILE. It ends when all answers; what it has started stays."""

import sys
from pathlib import Path

import ray
from ray import serve

from mlops_ray.config import load_settings
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.keys import create_key
from mlops_ray.governance.live import VersionRef
from mlops_ray.retraining.governor_actor import start_governor
from mlops_ray.retraining.ray_launchers import ActorLauncher
from mlops_ray.serving import local
from mlops_ray.serving.app import EndpointArgs, endpoint_application
from mlops_ray.testing.example_model import example_reader
from tests.chaos.fleet_use_case import USE_CASE
from tests.integration.serve_example import NAME, ExampleRegistry, seal_all


def main(address: str, file: str) -> None:
    settings, folder = load_settings(file), Path(file).parent
    digests = seal_all(str(folder))
    control = open_store(settings)
    set_champion(control, SYSTEM, NAME, VersionRef(7, digests[7]), "the example")
    (folder / "key").write_text(create_key(control, SYSTEM, "tests", ["predict", "operate"]).secret)
    ray.init(address=address, log_to_driver=False)
    serve.start(proxy_location="EveryNode", http_options={"host": "0.0.0.0", "port": settings.http_port})
    app = endpoint_application(
        EndpointArgs(model=NAME, min_replicas=2, max_replicas=2),
        settings,
        ExampleRegistry(str(folder), digests),
        open_reader=lambda settings, service: example_reader(),
    )
    local.start(settings, {NAME: app})
    reference = str(Path(__file__).with_name("fleet_use_case.py"))
    launcher = ActorLauncher(NAME, settings, folder, reference)
    start_governor(USE_CASE, settings, folder, reference, every_s=3, launcher=launcher)
    ray.shutdown()
    print("serving", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
