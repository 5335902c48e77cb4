"""A driver that serves the example model with two replicas until it is interrupted: what `make up` does, small."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mlops_ray.serving.environment import serve_environment

os.environ.update(serve_environment() | {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1"})

import ray

from mlops_ray.config import Settings
from mlops_ray.features.online.row import OnlineRow
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.keys import create_key
from mlops_ray.governance.live import VersionRef
from mlops_ray.registry.model_signature import sign
from mlops_ray.serving import local
from mlops_ray.serving.app import EndpointArgs, endpoint_application
from mlops_ray.serving.model_deployment import ModelArgs
from mlops_ray.testing.example_model import RecentDelays, example_reader, seal_example
from mlops_ray.testing.signing_keys import with_signing_keys

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


class SlowReader(RecentDelays):
    """An online store that takes its time."""

    waits = True

    def __init__(self, seconds: float):
        super().__init__(example_reader().values)
        self._seconds = seconds

    def find(self, rows: Sequence[Mapping[str, object]], moments: Sequence[datetime]) -> list[OnlineRow]:
        time.sleep(self._seconds)
        return super().find(rows, moments)


def seal_all(state: str) -> dict[int, str]:
    """Versions 7 to 11 are good, 20 is damaged, 21 raises for distances above 9,000."""
    folder = Path(state) / "sealed"
    digests = {number: seal_example(folder / str(number), salt=number) for number in [*range(7, 12), 20]}
    digests[21] = seal_example(folder / "21", salt=21, fails_above=9_000)
    damaged = folder / "20" / "model.onnx"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    return digests


def sign_some(settings: Settings) -> tuple[Settings, dict[int, str]]:
    """Version 31 has no signature, 32 one by somebody else, 33 a good one."""
    folder = Path(settings.state) / "sealed"
    digests = {number: seal_example(folder / str(number), salt=number) for number in (31, 32, 33)}
    sign(with_signing_keys(settings, Path(settings.state) / "somebody_else"), folder / "32")
    settings = with_signing_keys(settings, Path(settings.state) / "keys")
    sign(settings, folder / "33")
    return settings, digests


def main(port: int, state: str, store_s: float = 0.0, max_ongoing: int = 64) -> None:
    ray.init(
        address="local",
        num_cpus=4 if "EXAMPLE_SCALES" in os.environ else 2,
        object_store_memory=300_000_000,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    apart, scales = "EXAMPLE_MODEL_APART" in os.environ, "EXAMPLE_SCALES" in os.environ
    try:
        host = os.environ.get("EXAMPLE_HOST", "127.0.0.1")
        settings = Settings(state=state, data=state, http_host=host, http_port=port, ledger_rotate_s=5)
        store = open_store(settings)
        settings, signed = sign_some(settings)
        given = os.environ.get("EXAMPLE_SEALED")  # by who started this, as a model of another task
        digests = ({7: given} if given else seal_all(state)) | signed
        Path(state, "digests.json").write_text(json.dumps(digests))
        set_champion(store, SYSTEM, NAME, VersionRef(7, digests[7]), "the example")
        key = Path(state, "admin_key")
        if not key.exists():  # as after a restart
            key.write_text(create_key(store, SYSTEM, "example", ["admin"]).secret)
        app = endpoint_application(
            EndpointArgs(
                model=NAME,
                min_replicas=1 if apart or scales else 2,
                upscale_delay_s=2,
                downscale_delay_s=5,
                model_deployment=ModelArgs(num_cpus=1) if apart else None,
                max_ongoing_requests=max_ongoing,
                max_queued_requests=max(1, max_ongoing // 2),
            ),
            settings,
            ExampleRegistry(state, digests),
            open_reader=lambda settings, service: SlowReader(store_s) if store_s else example_reader(),
        )
        url = local.start(settings, {NAME: app})
        node = ray.nodes()[0]
        Path(state, "metrics_url").write_text(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}")
        print(url, flush=True)
        asked = Path(state, "replace_replicas_unheard")
        while True:
            time.sleep(1)
            if asked.exists():
                from deaf_front_end import replace_replicas_unheard  # found where this is the script

                replace_replicas_unheard(NAME)
                asked.unlink()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    finally:
        local.stop()
        ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], *(float(value) for value in sys.argv[3:4]), *map(int, sys.argv[4:5]))
