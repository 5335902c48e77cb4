"""What a trial holds: an even share, what the search asks for, or what is declared, as far as others leave it."""

from collections.abc import Mapping
from types import SimpleNamespace

import pytest

from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.declared_resources import Resources as Declared
from mlops_ray.training import slots as slots_module
from mlops_ray.training.candidates import GradientBoosting, LogisticRegression
from mlops_ray.training.slots import Held, Slots
from mlops_ray.use_case import Resources, Search

TREES, LINES = GradientBoosting(), LogisticRegression()
Nodes = Mapping[str, Mapping[str, float]]


def cluster(monkeypatch: pytest.MonkeyPatch, there: Nodes, free: Nodes) -> None:
    """there, free: by the name of the node."""

    def together(nodes: Nodes) -> dict[str, float]:
        return {name: sum(node.get(name, 0) for node in nodes.values()) for name in ("CPU", "GPU", "memory")}

    fake = SimpleNamespace(
        nodes=lambda: [{"Alive": True, "Resources": node} for node in there.values()],
        available_resources=lambda: together(free),
        cluster_resources=lambda: together(there),
        _private=SimpleNamespace(state=SimpleNamespace(available_resources_per_node=lambda: free)),
    )
    monkeypatch.setattr(slots_module, "ray", fake)


def held(search: Search, declared: Declared | None = None) -> dict[str, Held]:
    return dict(Slots(search, (TREES, LINES), 8, declared).holds)


def test_what_is_declared_counts_more_than_what_the_search_says_and_leaves_its_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = {"a": {"CPU": 8.0, "GPU": 1.0, "memory": 8e9}}
    cluster(monkeypatch, nodes, nodes)
    search = Search(resources={TREES.name: Resources(cpus=4, gpus=0.5, memory_gb=2.0)})
    assert held(search) == {TREES.name: Held(4.0, 0.5, 2_000_000_000), LINES.name: Held(4.0, 0.0, 0)}
    assert held(search, Declared(cpus=1.5)) == {
        TREES.name: Held(1.5, 0.5, 2_000_000_000),
        LINES.name: Held(1.5, 0.0, 0),
    }
    assert held(search, Declared(memory_mb=512)) == {
        TREES.name: Held(4.0, 0.5, 512 << 20),
        LINES.name: Held(4.0, 0.0, 512 << 20),
    }
    assert held(search, Declared(cpus=0.3))[TREES.name].threads == 1


def test_of_what_is_declared_no_more_is_taken_than_one_node_has_free(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"a": {"CPU": 8.0, "memory": 8e9}, "b": {"CPU": 8.0, "memory": 8e9}}
    cluster(monkeypatch, there, {"a": {"CPU": 2.0, "memory": 8e9}, "b": {"CPU": 3.0, "memory": 1e9}})
    declared = Declared(cpus=6.0, memory_mb=4000)
    assert held(Search(), declared)[LINES.name] == Held(3.0, 0.0, 1_000_000_000)
    cluster(monkeypatch, there, {"a": {}, "b": {}})
    assert held(Search(), declared)[LINES.name] == Held(1.0, 0.0, 0), "it waits for one CPU and no more"


def test_a_trial_with_a_gpu_is_measured_by_the_nodes_that_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = {"big": {"CPU": 16.0, "memory": 8e9}, "gpu": {"CPU": 4.0, "GPU": 1.0, "memory": 8e9}}
    cluster(monkeypatch, nodes, nodes)
    found = held(Search(resources={TREES.name: Resources(gpus=1)}), Declared(cpus=8.0))
    assert (found[TREES.name].cpus, found[LINES.name].cpus) == (4.0, 8.0)


def test_what_no_node_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = {"a": {"CPU": 2.0, "memory": 8e9}}
    cluster(monkeypatch, nodes, nodes)
    with pytest.raises(ConfigurationError, match=r"asks for 4 CPUs.*no node of this cluster"):
        held(Search(resources=Resources(cpus=4)))
