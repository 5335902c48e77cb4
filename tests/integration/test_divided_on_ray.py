"""Feature views computed by tasks on several nodes have the rows that they have in one process, whoever dies."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from mlops_ray.features import divide_by_key, spread, stretches, transform
from mlops_ray.use_case import DividedView
from tests.unit.test_divided_views import CASE, VIEWS, Setting, ranks, write_days

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
KEYED = replace(CASE, feature_views={**VIEWS, "ranks": DividedView(ranks, by=("ship",))})


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
    for _ in range(3):
        found.add_node(num_cpus=1, object_store_memory=100 << 20)
    ray.init(address=found.address, runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}})
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture
def setting(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    """Everything is a task, however little it reads."""
    found = Setting(tmp_path, monkeypatch)
    write_days(found.data, 0, 40)
    monkeypatch.undo()
    monkeypatch.setattr(stretches, "PART_ROWS", 150)
    for module in (spread, transform, divide_by_key):
        monkeypatch.setattr(module, "HERE_BYTES", -1)
    monkeypatch.setattr(transform, "AT_ONCE_BYTES", -1)
    monkeypatch.setattr(spread.spread, "__defaults__", (100 << 20,))
    return found


@pytest.mark.timeout(200)
def test_four_nodes_give_what_one_process_gives(setting: Setting) -> None:
    found = setting.rows(KEYED)
    assert len(found["port_3d"].parts) > 5
    whole = setting.rows(KEYED, divided=False)
    assert {name: one.digest for name, one in found.items()} == {name: one.digest for name, one in whole.items()}


@pytest.mark.timeout(200)
def test_workers_that_are_killed_change_nothing(setting: Setting) -> None:
    killed: list[int] = []
    stop = threading.Event()

    def kill() -> None:
        """A worker of each kind of task, in the middle of it."""
        while not stop.is_set():
            for worker in workers():
                if len(killed) < 3 and worker not in killed:  # as often as Ray runs a task again
                    os.kill(worker, signal.SIGKILL)
                    killed.append(worker)
                    break
            time.sleep(0.5)

    case = replace(
        KEYED, feature_views={**KEYED.feature_views, "busy": DividedView(slow_busy, looks_back=timedelta(2))}
    )
    hunter = threading.Thread(target=kill)
    hunter.start()
    try:
        found = setting.rows(case)
    finally:
        stop.set()
        hunter.join()
    assert killed
    whole = setting.rows(KEYED, divided=False)
    assert {name: one.digest for name, one in found.items()} == {name: one.digest for name, one in whole.items()}


def slow_busy(tables: Any) -> Any:
    from tests.unit.test_divided_views import busy

    time.sleep(0.2)
    return busy(tables)


def workers() -> list[int]:
    """The processes of this cluster in which tasks run."""
    from ray.util.state import list_tasks

    running = list_tasks(filters=[("state", "=", "RUNNING")], detail=True)
    return [int(task.worker_pid) for task in running if task.worker_pid]
