"""The search of `work.py` on Ray's AutoscalingCluster: hosts come for it and go afterwards: python autoscaling.py
FOLDER.

Ray's own class runs `ray stop --force`, which ends every Ray that it sees. So this starts itself anew where it sees no
process but its own, and no network but its own (`unshare`). Prints one JSON object.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import AutoscalingCluster
from work import searched

# One stays, as in cluster.yaml: a search refuses what no node has that is there.
LEAST, MOST, IDLE_MINUTES, WAIT_S = 1, 3, 0.15, 90.0
ALONE = ["unshare", "--mount", "--pid", "--net", "--fork", "--mount-proc", "--kill-child"]
INSIDE = 'ip link set lo up && mount -t tmpfs tmpfs /tmp/ray && exec "$@"'


class Cluster(AutoscalingCluster):
    """With the file that Ray's wheel lacks."""

    def _generate_config(
        self, head_resources: Any, worker_node_types: Any, autoscaler_v2: bool = False, **rest: Any
    ) -> Any:
        head = {"resources": head_resources, "node_config": {}, "max_workers": 0}
        # All have one address, by which the autoscaler would take the others for dead.
        provider = {"type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True}
        return {
            "cluster_name": "hosts", "max_workers": MOST, "provider": provider, "auth": {},
            "head_node_type": "ray.head.default", "upscaling_speed": 100, "idle_timeout_minutes": IDLE_MINUTES,
            "available_node_types": {**worker_node_types, "ray.head.default": head},
            **{f"{who}setup_commands": [] for who in ("", "head_", "worker_")}, "initialization_commands": [],
            "file_mounts": {}, "cluster_synced_files": [], "rsync_exclude": [], "rsync_filter": [],
            "head_start_ray_commands": [], "worker_start_ray_commands": [],
        }  # fmt: skip


def hosts() -> int:
    """That can take work: the head cannot."""
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())


def main(folder: Path) -> dict[str, float]:
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    workers = {"host": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": LEAST, "max_workers": MOST}}
    cluster = Cluster({"CPU": 0}, workers)
    cluster.start(override_env={"RAY_AUTH_MODE": "disabled"})
    try:
        path = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
        ray.init(address="auto", log_to_driver=False, runtime_env=path)
        deadline_s = time.monotonic() + WAIT_S
        while hosts() < LEAST and time.monotonic() < deadline_s:
            time.sleep(0.5)
        seen, ending = [hosts()], threading.Event()

        def follow() -> None:
            while not ending.wait(0.5):
                seen.append(hosts())

        thread = threading.Thread(target=follow)
        thread.start()
        began_s = time.monotonic()
        found = searched(folder / "search", MOST, 4, 1.5)
        ended_s = time.monotonic()
        while hosts() > LEAST and time.monotonic() - ended_s < WAIT_S:
            time.sleep(0.5)
        ending.set()
        thread.join()
        down_s = time.monotonic() - ended_s
        return {"before": seen[0], "most": max(seen), "after": hosts(), "down_s": down_s, "took_s": ended_s - began_s,
                "slept_s": found["slept_s"]}  # fmt: skip
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    if os.getpid() > 10:  # not in a namespace of its own
        Path("/tmp/ray").mkdir(exist_ok=True)
        again = [*ALONE, "sh", "-c", INSIDE, "sh", sys.executable, *sys.argv]
        raise SystemExit(subprocess.run(again, check=False).returncode)
    print(json.dumps(main(Path(sys.argv[1]))))
