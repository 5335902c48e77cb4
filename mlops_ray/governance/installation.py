"""The installation that a control store is of: told from copies of it that went another way."""

from sqlalchemy import select

from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.tables import events

RESTORED = "backup.restored"


def installation_of(store: ControlStore) -> str:
    """The id of the event with which it began: its restore, if it is a restored one, or the first of all; empty while
    there is none. Of any schema; a restore of an older one is no event, so that is not told from what it is a copy of.
    """
    begun = select(events.c.id).order_by(events.c.seq)
    restored = select(events.c.id).where(events.c.type == RESTORED).order_by(events.c.seq.desc())
    with store.reading() as connection:
        found = [connection.execute(query.limit(1)).scalar() for query in (restored, begun)]
    return found[0] or found[1] or ""
