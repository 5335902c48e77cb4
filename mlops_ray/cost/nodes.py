"""Nodes: readers of a run's processes on the other machines of a Ray cluster, one actor on each."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mlops_ray.cost.processes import Process, RunProcesses

_LOOK_FOR_NODES_EVERY_S = 5.0
_ANSWERS_WITHIN_S = 2.0
# Where Ray runs already, its workers have used something that is not of this run: no reader may come too late for it.
_FIRST_ANSWERS_WITHIN_S = 10.0


class NodeReader:
    """Reads on its node. It takes no CPU from others, and ends with the run."""

    def __init__(self, run: str):
        self._processes = RunProcesses(run)

    def look(self) -> tuple[str, list[Process]]:
        return self._processes.place, self._processes.look()

    def reset_peaks(self) -> None:
        self._processes.reset_peaks()


class OtherNodes:
    """The nodes beside the driver's, as they come and go. Until Ray is initialised there are none.

    A node that does not answer in time is as it was; when Ray has given it up, what it had used counts as it was last
    seen.
    """

    def __init__(self, run: str):
        self._run, self._looked_s, self._wait_s = run, float("-inf"), _FIRST_ANSWERS_WITHIN_S
        self._readers: dict[str, Any] = {}
        self._places: dict[str, str] = {}

    def look(self, here: str) -> Mapping[str, Sequence[Process]]:
        """See `meter.Elsewhere`."""
        wait_s, self._wait_s = self._wait_s, _ANSWERS_WITHIN_S
        if "ray" not in sys.modules:  # it is imported when work is handed to it
            return {}
        import ray

        if not ray.is_initialized():
            return {}
        found: dict[str, Sequence[Process]] = {}
        if time.monotonic() - self._looked_s >= _LOOK_FOR_NODES_EVERY_S:
            self._looked_s = time.monotonic()
            for node in self._find():
                if place := self._places.pop(node, None):
                    found[place] = ()
        asked = {reader.look.remote(): node for node, reader in self._readers.items()}
        answers, _ = ray.wait(list(asked), num_returns=len(asked), timeout=wait_s) if asked else ([], [])
        for answer in answers:
            try:
                place, seen = ray.get(answer)
            except ray.exceptions.RayError:  # the node went away meanwhile
                continue
            if place != here:  # nodes that are simulated on one machine see what we see
                self._places[asked[answer]], found[place] = place, seen
        return found

    def reset_peaks(self) -> None:
        for reader in self._readers.values():
            reader.reset_peaks.remote()

    def _find(self) -> list[str]:
        """Give each node that has come its reader; returns those that have gone."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        mine = ray.get_runtime_context().get_node_id()
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]} - {mine}
        gone = [node for node in self._readers if node not in alive]
        for node in gone:
            del self._readers[node]
        for node in alive - self._readers.keys():
            options = {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
            self._readers[node] = ray.remote(**options)(NodeReader).remote(self._run)
        return gone
