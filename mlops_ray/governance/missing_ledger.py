"""Missing ledger: answers that lay on a node's disk, and not yet on shared storage, when the node fell silent."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select

from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, record
from mlops_ray.governance.replicas import Heard, Replica, heard
from mlops_ray.governance.tables import events, replicas

MISSING = "ledger.missing"
SILENT = timedelta(minutes=1)  # a process that dies is replaced sooner, and its successor moves what it left


@dataclass(frozen=True)
class Missing:
    """What was answered from `since` on; of the disk nothing was heard after `last_heard`. By the database's clock."""

    disk: str
    node: str
    since: datetime
    last_heard: datetime


def missing(said: Heard) -> list[Missing]:
    """The disks on which no replica works any more, unless the last one left in good order: it took all with it."""
    of_disk: dict[str, Replica] = {}
    for replica in said.replicas:
        disk, known = replica.unmoved.disk, of_disk.get(replica.unmoved.disk)
        if disk and replica.seen_at and (known is None or known.seen_at is None or replica.seen_at > known.seen_at):
            of_disk[disk] = replica
    found = []
    for disk, last in of_disk.items():
        if last.seen_at is not None and last.left_at is None and said.now - last.seen_at > SILENT:
            since = last.seen_at - timedelta(seconds=last.unmoved.seconds)
            found.append(Missing(disk, last.node, since, last.seen_at))
    return found


def report_missing(store: ControlStore, use_case: str) -> Sequence[Missing]:
    """Record an event `ledger.missing` for each disk that is missing, unless that is known; returns the new ones."""
    found = [one for one in missing(heard(store, use_case)) if not _works(store, one)]
    return [one for one in found if _record_once(store, use_case, one)]


def _works(store: ControlStore, found: Missing) -> bool:
    """Whether a replica of any use case has spoken of the disk since: each moves what lies there of all of them."""
    with store.reporting(write=False) as connection:
        since = (replicas.c.disk == found.disk) & (replicas.c.seen_at > found.last_heard)
        return connection.execute(select(replicas.c.id).where(since).limit(1)).first() is not None


def _record_once(store: ControlStore, use_case: str, found: Missing) -> bool:
    subject = f"ledger {use_case} on disk {found.disk}"
    since, last_heard = (moment.isoformat(timespec="milliseconds") for moment in (found.since, found.last_heard))
    payload = {"disk": found.disk, "node": found.node, "since": since, "last_heard": last_heard}
    with store.transaction() as connection:
        same = (events.c.type == MISSING) & (events.c.subject == subject)
        told = connection.execute(select(events.c.payload).where(same)).scalars()
        if any(one["last_heard"] == last_heard for one in told):
            return False
        reason = (
            f"Node {found.node} was last heard of at {last_heard}. What it answered from {since} on is not on shared "
            f"storage. If its disk (ledger_wal) comes back, start a replica there: it moves what it finds. Else it is "
            f"lost."
        )
        record(connection, MISSING, SYSTEM, subject, use_case=use_case, payload=payload, reason=reason)
    return True
