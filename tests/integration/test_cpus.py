"""A step never asks for CPUs that others hold for ever, and says what it waits for (F13)."""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle

from mlops_ray.code_version import CodeVersion
from mlops_ray.config import Settings
from mlops_ray.errors import DataError
from mlops_ray.governance.declared_resources import Resources
from mlops_ray.pipeline.cpus import free_cpus, node_cpus
from mlops_ray.pipeline.steps.step import StepWaits, Where
from mlops_ray.pipeline.task import in_task

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not find the folder of tests
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


class Replica:
    def ready(self) -> bool:
        return True


def hold(name: str) -> Any:
    """A CPU, as a replica that serves holds it."""
    actor = ray.remote(num_cpus=1)(Replica).options(name=name).remote()
    ray.get(actor.ready.remote())
    return actor


def threads() -> dict[str, Any]:
    return {"threads": int(os.environ["OMP_NUM_THREADS"])}


def broken() -> dict[str, Any]:
    raise DataError("the data is broken")


def where(told: list[Any], tmp_path: Path) -> Where:
    return Where(Settings(state=str(tmp_path), data="/data"), "key", told.append, {}, CodeVersion("c", False))


def test_it_takes_what_is_free_and_waits_only_where_nothing_is(cluster: None, tmp_path: Path) -> None:
    told: list[Any] = []
    given = where(told, tmp_path)
    assert (node_cpus(), free_cpus()) == (2, 2)
    assert in_task(given, "evaluate", threads, cpus=None) == {"threads": 2}
    first = hold("first_replica")
    assert free_cpus() == 1
    assert in_task(given, "evaluate", threads, cpus=None) == {"threads": 1}
    assert told == []
    second = hold("second_replica")

    def notify(event: Any) -> None:
        told.append(event)
        ray.kill(second)

    waiting = Where(given.settings, "key", notify, {}, given.code)
    assert in_task(waiting, "register", threads) == {"threads": 1}
    (event,) = told
    assert isinstance(event, StepWaits)
    assert event.step == "register"
    assert "waits for 1 of the cluster's CPUs" in event.why
    assert "first_replica" in event.why
    assert "second_replica" in event.why
    ray.kill(first)


def test_the_threads_of_a_fit_are_apart_from_its_cpus(cluster: None, tmp_path: Path) -> None:
    """A recorded number of threads can be had on fewer CPUs, so that the same digits come out."""
    held = hold("a_replica")
    assert in_task(where([], tmp_path), "evaluate", threads, cpus=None, threads=3) == {"threads": 3}
    ray.kill(held)


def test_an_error_of_ours_comes_back_as_it_was_raised(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the data is broken"):
        in_task(where([], tmp_path), "ingest", broken)


def resources() -> dict[str, Any]:
    return {"given": dict(ray.get_runtime_context().get_assigned_resources()), **threads()}


def test_what_is_declared_counts_more_than_the_code_and_waits_for_nobody(cluster: None, tmp_path: Path) -> None:
    asked: list[tuple[float, int]] = []
    declared = Resources(1.5, 300)
    given = replace(where([], tmp_path), resources=declared, asked=lambda cpus, memory: asked.append((cpus, memory)))
    found = in_task(given, "evaluate", resources, cpus=None)
    assert found == {"given": {"CPU": 1.5, "memory": 300 << 20}, "threads": 2}
    greedy = replace(given, resources=Resources(64.0, 1 << 30))
    assert in_task(greedy, "register", resources)["given"]["CPU"] == 2
    held = hold("held_beside")
    assert in_task(given, "register", resources)["given"]["CPU"] == 1
    ray.kill(held)
    assert asked[0] == (1.5, 300 << 20)
    assert asked[2] == (1, 300 << 20)
