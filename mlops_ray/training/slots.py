"""Slots: what each trial holds of the cluster, and how many run at a time."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray

from mlops_ray.errors import ConfigurationError
from mlops_ray.training.turns import trials_at_once
from mlops_ray.use_case import Candidate, Resources, Search

if TYPE_CHECKING:
    from mlops_ray.governance.declared_resources import Resources as Declared

logger = logging.getLogger(__name__)
_GB = 1_000_000_000


@dataclass(frozen=True)
class Held:
    """What a trial holds of a node. memory_bytes: 0 where Ray does not count it."""

    cpus: float
    gpus: float
    memory_bytes: int

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus))


class Slots:
    """What is free is looked at again before each trial: the step before may hold its CPUs for a moment longer."""

    def __init__(
        self, search: Search, candidates: Iterable[Candidate], trials: int, declared: "Declared | None" = None
    ) -> None:
        """declared: of each trial, in the place of what the search says.

        Raises ConfigurationError if no node has what a candidate asks for, for which Ray would wait for ever.
        """
        names = [candidate.name for candidate in candidates]
        self.at_once = trials_at_once(trials, len(names))
        threads = threads_per_trial(self.at_once)
        self.holds: Mapping[str, Held] = {name: _held(search.resources_of(name), threads, declared) for name in names}
        for name, held in self.holds.items():
            _expect_a_node(name, held)
        self._free = {"CPU": 0.0, "GPU": 0.0}

    def has_room(self, candidate: str, running: Iterable[str]) -> bool:
        """Whether a trial of the candidate is begun beside those of `running`, their candidates' names.

        Not before its turn: parameters that wait for a CPU have not seen the results that come meanwhile. But where a
        search could use twice as many CPUs as there are, one waits: it tells an autoscaling cluster to grow.
        """
        running = list(running)
        if not running:
            return True
        if len(running) >= self.at_once:
            return False
        held = self._amounts(running)
        now, there = ray.available_resources(), ray.cluster_resources()
        # What is free may be more than before, and never seems less: an idle worker of ours is counted as taken. A
        # trial that has not started yet is counted twice.
        free = {name: min(now.get(name, 0) + held[name], there.get(name, 0)) for name in held}
        self._free = {name: max(self._free[name], free[name]) for name in held}
        wanted = self._amounts([candidate])
        if all(held[name] + wanted[name] <= self._free[name] for name in held):
            return True
        return held["CPU"] <= self._free["CPU"] and self.at_once >= 2 * len(running)

    def _amounts(self, candidates: Iterable[str]) -> dict[str, float]:
        """What a trial of each of these holds together."""
        holds = [self.holds[name] for name in candidates]
        return {"CPU": sum(one.cpus for one in holds), "GPU": sum(one.gpus for one in holds)}


def threads_per_trial(trials: int) -> int:
    """Share the cluster's free CPUs among the trials: a trial on one core beside another beats two cores one by one.

    Where others hold some, as replicas do, it takes at most half a machine: waiting for all of it would never end.
    """
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    free = int(ray.available_resources().get("CPU", 0))
    return max(1, min(free // trials, max(nodes) if free >= sum(nodes) else max(nodes) // 2))


def _held(asked: Resources, threads: int, declared: "Declared | None") -> Held:
    """As the search asks, or as declared: of that no more than one node has free now. What others hold they may hold
    for ever."""
    cpus, memory_bytes = float(asked.cpus or threads), int((asked.memory_gb or 0) * _GB)
    if declared is not None:
        node = _freest_node(asked.gpus)
        if declared.cpus is not None:
            cpus = min(declared.cpus, max(1.0, node.get("CPU", 0.0)))
        if declared.memory_mb is not None:
            memory_bytes = min(declared.memory_mb << 20, int(node.get("memory", 0)))
    return Held(cpus, asked.gpus, memory_bytes)


def _freest_node(gpus: float) -> Mapping[str, float]:
    """What is free on the node with most free CPUs, of those with so many GPUs if there are any."""
    nodes = list(ray._private.state.available_resources_per_node().values())
    return max(nodes, key=lambda node: (node.get("GPU", 0) >= gpus, node.get("CPU", 0)), default={})


def _expect_a_node(candidate: str, wanted: Held) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needs = {"CPU": wanted.cpus, "GPU": wanted.gpus, "memory": wanted.memory_bytes}
    if any(all(node.get(name, 0) >= need for name, need in needs.items()) for node in nodes):
        return
    largest = {name: max(node.get(name, 0) for node in nodes) for name in needs}
    raise ConfigurationError(
        f"A trial of {candidate} asks for {_words(needs)}, and no node of this cluster has that together (at most "
        f"{_words(largest)}). Start such a node, or ask for less in Search(resources=...)."
    )


def _words(amounts: Mapping[str, float]) -> str:
    return f"{amounts['CPU']:g} CPUs, {amounts['GPU']:g} GPUs and {amounts['memory'] / _GB:.1f} GB of memory"
