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
    """Counted when the search begins; nodes that come later count too."""

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
        self._free, self._total = ray.available_resources(), ray.cluster_resources()

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
        now = ray.cluster_resources()
        beside = [self.wants[name] for name in (*running, candidate)]
        taken = {"CPU": sum(one.cpus or 1 for one in beside), "GPU": sum(one.gpus for one in beside)}
        free = {name: self._free.get(name, 0) + now.get(name, 0) - self._total.get(name, 0) for name in taken}
        if all(taken[name] <= free[name] for name in taken):
            return True
        return taken["CPU"] - (beside[-1].cpus or 1) <= free["CPU"] and self.at_once >= 2 * len(running)


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
