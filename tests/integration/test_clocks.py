"""`mlops-ray doctor` finds the node whose clock is off, and the server's clock it shares."""

import json
import os
import subprocess
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from mlops_ray.governance.control_store import ControlStore
from mlops_ray.operations.clocks import of_control_store, of_nodes
from tests.moved_clock import moved_clock
from tests.pipeline_run import command


def test_the_clock_of_a_database_is_compared(store: ControlStore) -> None:
    assert of_control_store(store).ahead_s == 0


def test_a_node_of_the_cluster_whose_clock_is_an_hour_ahead_is_an_error(tmp_path: Path) -> None:
    set_clock, variables = moved_clock(tmp_path)
    node = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node, env_vars={**os.environ, **variables})
        set_clock(3600)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        right, ahead = sorted(one.ahead_s for one in of_nodes())
        ray.shutdown()
        assert (right, round(ahead)) == (0, 3600)
        asked = command("doctor", "--json", "--state", f"{tmp_path}/state", "--data", str(tmp_path))
        environment = os.environ | {"RAY_ADDRESS": cluster.address}
        done = subprocess.run(asked, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 3, done.stdout + done.stderr
        found = {one["name"]: one for one in json.loads(done.stdout)}["clocks"]
        assert found["state"] == "error"
        assert "3600 s ahead" in found["sentence"]
    finally:
        ray.shutdown()
        cluster.shutdown()
