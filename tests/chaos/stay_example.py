"""What `mlops-ray run --serve --stay` does at its end, with the example model: serve until Ctrl-C."""

import sys
from pathlib import Path

from mlops_ray.config import Settings
from mlops_ray.errors import MlopsRayError
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.keys import create_key
from mlops_ray.governance.live import VersionRef
from mlops_ray.operations.local_ray import ray_for, stay_while_ray_lives
from mlops_ray.registry.sealed_model import load
from mlops_ray.testing.example_model import example_reader, seal_example


def main(port: int, state: str) -> None:
    settings = Settings(state=state, data=state, http_port=port, num_cpus=2, object_store_mb=200)
    digest = seal_example(Path(state) / "sealed" / "7", salt=7)
    load(Path(state) / "sealed" / "7", digest)
    with ray_for(settings, serving=True):
        from mlops_ray.serving import local
        from mlops_ray.serving.app import EndpointArgs, endpoint_application
        from tests.integration.serve_example import NAME, ExampleRegistry

        store = open_store(settings)
        set_champion(store, SYSTEM, NAME, VersionRef(7, digest), "the example")
        Path(state, "admin_key").write_text(create_key(store, SYSTEM, "example", ["admin"]).secret)
        app = endpoint_application(
            EndpointArgs(model=NAME), settings, ExampleRegistry(state, {7: digest}), lambda *_: example_reader()
        )
        print(local.start(settings, {NAME: app}), flush=True)
        stay_while_ray_lives()


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), sys.argv[2])
    except MlopsRayError as error:
        sys.exit(f"error: {error}")
