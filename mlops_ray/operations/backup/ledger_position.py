"""Ledger position: until when all that was answered lies on shared storage, where a backup takes it from."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlops_ray.config import Settings
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.replicas import Replica, heard
from mlops_ray.predictions.collect import lag_of


@dataclass(frozen=True)
class LedgerPosition:
    """until: each prediction acknowledged before is in the ledger's segments or table. on_nodes: by node since when
    what it answered is not, where it has any."""

    until: datetime
    on_nodes: Mapping[str, datetime]


def ledger_position(settings: Settings, store: ControlStore, use_case: str) -> LedgerPosition:
    """Where the ledger of a use case stands now, by the database's clock, as far as a node's own agrees with it.

    Of each disk the replica counts that was heard of last: it speaks of all that lies there. One that left in good
    order took everything along; one that fell silent may have answered until it did.
    """
    said = heard(store, use_case)
    of_disk: dict[str, Replica] = {}
    for replica in said.replicas:
        disk = replica.unmoved.disk or replica.node
        known = of_disk.get(disk)
        if replica.seen_at and (known is None or known.seen_at is None or replica.seen_at > known.seen_at):
            of_disk[disk] = replica
    at_work = [one for one in of_disk.values() if one.left_at is None]
    until = [one.seen_at - timedelta(seconds=one.unmoved.seconds) for one in at_work if one.seen_at]
    nodes = {
        one.node: one.seen_at - timedelta(seconds=one.unmoved.seconds)
        for one in at_work
        if one.seen_at and one.unmoved.seconds
    }
    here = lag_of(Path(settings.ledger_wal) / use_case, datetime.now(UTC))
    if here.files:
        until.append(said.now - timedelta(seconds=here.oldest_age_s))
        nodes = nodes or {"this one": until[-1]}
    return LedgerPosition(min([said.now, *until]), nodes)
