"""Ledger position: until when all that was answered lies on shared storage, where a backup takes it from."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlops_ray.config import Settings
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.replicas import Replica, heard
from mlops_ray.predictions.collect import lag_of


def complete_until(settings: Settings, store: ControlStore, use_case: str) -> datetime:
    """Each prediction acknowledged before this moment is in the ledger's segments or table now.

    Of each disk the replica counts that was heard of last: it speaks of all that lies there. One that left in good
    order took everything along; one that fell silent may have answered until it did. By the database's clock, as far as
    a node's own agrees with it.
    """
    said = heard(store, use_case)
    of_disk: dict[str, Replica] = {}
    for replica in said.replicas:
        disk = replica.unmoved.disk or replica.node
        known = of_disk.get(disk)
        if replica.seen_at and (known is None or known.seen_at is None or replica.seen_at > known.seen_at):
            of_disk[disk] = replica
    moments = [
        last.seen_at - timedelta(seconds=last.unmoved.seconds)
        for last in of_disk.values()
        if last.seen_at is not None and last.left_at is None
    ]
    here = lag_of(Path(settings.ledger_wal) / use_case, datetime.now(UTC))
    if here.files:
        moments.append(said.now - timedelta(seconds=here.oldest_age_s))
    return min([said.now, *moments])
