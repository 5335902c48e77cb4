"""Slots: what each trial holds of the cluster, and how many run at a time."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

import ray

from mlops_ray.errors import ConfigurationError
from mlops_ray.training.turns import trials_at_once
from mlops_ray.use_case import Resources, Search

logger = logging.getLogger(__name__)
_GB = 1_000_000_000


class Slots:
    """What is free is looked at again before each trial: the step before may hold its CPUs for a moment longer."""

    def __init__(self, search: Search, candidates: Iterable[str], trials: int) -> None:
        """Raises ConfigurationError if no node has what a candidate asks for, for which Ray would wait for ever."""
        names = list(candidates)
        self.at_once = trials_at_once(trials, len(names))
        threads = threads_per_trial(self.at_once)
        asked = {name: search.resources_of(name) for name in names}
        self.wants: Mapping[str, Resources] = {
            name: replace(wanted, cpus=wanted.cpus or threads) for name, wanted in asked.items()
        }
        for name, wanted in self.wants.items():
            _expect_a_node(name, wanted)
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
        wants = [self.wants[name] for name in candidates]
        return {"CPU": sum(one.cpus or 1 for one in wants), "GPU": sum(one.gpus for one in wants)}


def threads_per_trial(trials: int) -> int:
    """Share the cluster's free CPUs among the trials: a trial on one core beside another beats two cores one by one.

    Where others hold some, as replicas do, it takes at most half a machine: waiting for all of it would never end.
    """
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    free = int(ray.available_resources().get("CPU", 0))
    return max(1, min(free // trials, max(nodes) if free >= sum(nodes) else max(nodes) // 2))


def _expect_a_node(candidate: str, wanted: Resources) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needs = {"CPU": wanted.cpus or 1, "GPU": wanted.gpus, "memory": (wanted.memory_gb or 0) * _GB}
    if any(all(node.get(name, 0) >= need for name, need in needs.items()) for node in nodes):
        return
    largest = {name: max(node.get(name, 0) for node in nodes) for name in needs}
    raise ConfigurationError(
        f"A trial of {candidate} asks for {_words(needs)}, and no node of this cluster has that together (at most "
        f"{_words(largest)}). Start such a node, or ask for less in Search(resources=...)."
    )


def _words(amounts: Mapping[str, float]) -> str:
    return f"{amounts['CPU']:g} CPUs, {amounts['GPU']:g} GPUs and {amounts['memory'] / _GB:.1f} GB of memory"
