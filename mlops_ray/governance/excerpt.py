"""An excerpt of the audit log, with what proves each event of it to somebody who has not the others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import select

from mlops_ray.governance.anchors import Anchor, anchor_of
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.erasures import read_erasures
from mlops_ray.governance.events import Event, read
from mlops_ray.governance.merkle import paths
from mlops_ray.governance.tables import anchors, events


@dataclass(frozen=True)
class Excerpt:
    """proofs: by an event's number, what is beside it on the way to the anchor's root (`merkle.paths`); none of those
    behind the anchor. left: the hash of what is left of events that were erased and have no salts.
    """

    events: tuple[Event, ...]
    anchor: Anchor | None
    proofs: Mapping[str, list[tuple[str, str]]]
    left: Mapping[str, str]


def read_excerpt(store: ControlStore, belongs: Callable[[Event], bool]) -> Excerpt:
    """The events that belong, below the last anchor. Raises IntegrityError where an event cannot be read."""
    last = select(anchors).where(anchors.c.root.is_not(None)).order_by(anchors.c.seq.desc()).limit(1)
    with store.reading() as connection:
        row, left = connection.execute(last).first(), read_erasures(connection).left
        found, hashes = list[Event](), list[str]()
        for event in read(connection, select(events).order_by(events.c.seq).execution_options(yield_per=1000)):
            if row is not None and event.seq <= row.seq:
                hashes.append(event.hash)
            if belongs(event):
                found.append(event)
    below = [event.seq for event in found if event.seq <= len(hashes)]
    ways = paths(hashes, [seq - 1 for seq in below]) if below else {}
    proofs = {str(seq): ways[seq - 1] for seq in below}
    of_found = {str(event.seq): left[event.seq] for event in found if event.seq in left}
    return Excerpt(tuple(found), anchor_of(row) if row is not None else None, proofs, of_found)
