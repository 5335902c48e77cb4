"""Clocks: by how much those of other machines surely differ from this one's, however long they took to answer."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from mlops_ray.errors import UnavailableError
from mlops_ray.governance.control_store import ControlStore, database_now

_NODES_WITHIN_S = 30.0


@dataclass(frozen=True)
class Clock:
    """Of another machine. ahead_s: of this one's, negative where it is behind; the nearest to 0 that is possible."""

    whose: str
    ahead_s: float


def of_control_store(store: ControlStore) -> Clock:
    """Raises UnavailableError if it cannot be read."""

    def asked() -> float:
        with store.reading() as connection:
            return database_now(connection).timestamp()

    asked()  # connects, which takes longer than to ask
    return _compared("the control store", asked)


def of_server(url: str, whose: str) -> Clock | None:
    """Of an HTTP server, by the head of its answer, whatever it answers; None if it says no time, or is several."""
    import httpx

    def asked() -> float:
        head = httpx.head(url, timeout=3, trust_env=False).headers
        return parsedate_to_datetime(head["date"]).timestamp()

    try:
        return _compared(whose, asked, whole_seconds=1.0)
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError):
        return None


def of_nodes() -> list[Clock]:
    """Of each node of the Ray that this process is connected to. Raises UnavailableError, naming those that say nothing
    within half a minute."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    @ray.remote(num_cpus=0)
    class Node:
        def time(self) -> float:
            return time.time()

    alive = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    actors: dict[str, Any] = {
        name: Node.options(scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False)).remote()  # type: ignore[attr-defined]
        for name in alive
    }
    starting = {actor.time.remote(): name for name, actor in actors.items()}
    _, silent = ray.wait(list(starting), num_returns=len(starting), timeout=_NODES_WITHIN_S)
    if silent:
        names = ", ".join(sorted(alive[starting[one]] for one in silent))
        raise UnavailableError(
            f"The nodes {names} of Ray start no worker within {_NODES_WITHIN_S:g} s. Look into their raylets' logs, or "
            f"take them away."
        )
    return [
        _compared(f"node {alive[name]}", lambda actor=actor: ray.get(actor.time.remote()))  # type: ignore[misc]
        for name, actor in actors.items()
    ]


def _compared(whose: str, asked: Callable[[], float], whole_seconds: float = 0.0) -> Clock:
    """whole_seconds: by how much the other's time may be later than it says."""
    before = time.time()
    theirs = asked()
    after = time.time()
    if theirs > after:
        return Clock(whose, theirs - after)
    return Clock(whose, min(0.0, theirs + whole_seconds - before))
