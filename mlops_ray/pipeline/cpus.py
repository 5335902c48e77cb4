"""CPUs: how many a step can have now, and who holds the others."""

import os
import sys
import time
from collections import Counter

_SETTLE_S = 3.0


def node_cpus() -> int:
    """The CPUs of the largest node, so that a fit can use all of one machine."""
    import ray

    return int(max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]))


def free_memory() -> int:
    """Bytes that a task can ask for now, on the node with most."""
    import ray

    nodes = ray._private.state.available_resources_per_node().values()
    return int(max((node.get("memory", 0) for node in nodes), default=0))


def memory_given() -> int:
    """Bytes that this task may take: what it asked for, or else what Ray has of the largest node; outside Ray what this
    machine has."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    context, asked = ray.get_runtime_context(), None
    if context.worker.mode == ray.WORKER_MODE:
        asked = context.get_assigned_resources().get("memory")
    return int(asked or max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0))


def free_cpus(enough: int | None = None) -> int:
    """The CPUs that are free on one node, the one with most.

    Those that the step before held come back within a moment, for which it waits unless there are `enough`; None for
    all of a node.
    """
    ends = time.monotonic() + _SETTLE_S
    while (free := _most_free()) < (enough or node_cpus()) and time.monotonic() < ends:
        time.sleep(0.1)
    return free


def holders() -> str:
    """Who holds CPUs in this cluster, such as "ServeReplica (2 of them), DriftActor": the actors that live."""
    import ray

    living = (actor for actor in ray._private.state.actors().values() if actor["State"] == "ALIVE")
    names = Counter(str(actor.get("Name") or actor["ActorClassName"]).split("#")[0] for actor in living)
    return ", ".join(name if count == 1 else f"{name} ({count} of them)" for name, count in names.items())


def _most_free() -> int:
    import ray

    nodes = ray._private.state.available_resources_per_node().values()
    return int(max((node.get("CPU", 0) for node in nodes), default=0))
