"""`mlops-ray doctor` finds the node whose clock is off, and compares with the control store's."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from mlops_ray.governance.control_store import ControlStore
from mlops_ray.operations.clocks import of_control_store, of_nodes
from tests.moved_clock import moved_clock
from tests.pipeline_run import command


def test_the_clock_of_a_database_is_compared(store: ControlStore) -> None:
    assert of_control_store(store).ahead_s == pytest.approx(0, abs=0.01)  # SQLite shows milliseconds


def test_a_node_of_the_cluster_whose_clock_is_an_hour_ahead_is_an_error(tmp_path: Path) -> None:
    set_clock, variables = moved_clock(tmp_path)
    memory = 100_000_000
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": memory, "include_dashboard": False},
    )
    start = [Path(command()[0]).with_name("ray"), "start", f"--address={cluster.address}", "--num-cpus=1", "--block"]
    other = subprocess.Popen(
        [*start, f"--object-store-memory={memory}"], env=os.environ | variables, stdout=subprocess.DEVNULL
    )
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        while len(ray.nodes()) < 2:
            assert other.poll() is None
            time.sleep(0.2)
        set_clock(3600)
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
        other.terminate()
        other.wait(60)
        cluster.shutdown()
