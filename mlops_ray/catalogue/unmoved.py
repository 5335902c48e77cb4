"""Unmoved answers: what lies on the disks of nodes, out of an erasure's reach until it is moved to the ledger."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from mlops_ray.config import Settings
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.replicas import heard
from mlops_ray.predictions.collect import lag_of


def unmoved_answers(settings: Settings, store: ControlStore, use_cases: Iterable[str]) -> tuple[str, ...]:
    """The nodes that have answers of the use cases which the ledger does not have yet, each in a sentence.

    They are what replicas said of themselves within the last second, and what replicas that are dead left on this node.
    """
    found = []
    for case in use_cases:
        nodes: dict[str, float] = {}
        for replica in heard(store, case).replicas:
            if replica.unmoved.seconds > 0:
                nodes[replica.node] = max(nodes.get(replica.node, 0.0), replica.unmoved.seconds)
        here = lag_of(Path(settings.ledger_wal) / case, datetime.now(UTC))
        if here.files and not nodes:
            nodes["this one"] = here.oldest_age_s
        found += [_sentence(case, node, seconds, settings.ledger_rotate_s) for node, seconds in sorted(nodes.items())]
    return tuple(found)


def _sentence(use_case: str, node: str, seconds: float, rotate_s: float) -> str:
    return (
        f"{use_case} on node {node}: answers of the last {seconds:.0f} s; a replica moves them after {rotate_s:g} s, "
        f"unless storage is away, and leaves out what was erased."
    )
