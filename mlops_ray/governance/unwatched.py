"""An endpoint that is not watched any more, until a person acts."""

from sqlalchemy import select

from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, record
from mlops_ray.governance.tables import events

UNWATCHED = "monitoring.stopped"


def report_unwatched(store: ControlStore, use_case: str, reason: str) -> bool:
    """Record that an endpoint is not watched and why, unless that was the last that was said; whether it was new."""
    with store.transaction() as connection:
        same = (events.c.type == UNWATCHED) & (events.c.use_case == use_case)
        last = connection.execute(select(events.c.reason).where(same).order_by(events.c.seq.desc()).limit(1)).scalar()
        if last == reason:
            return False
        record(connection, UNWATCHED, SYSTEM, f"monitoring {use_case}", use_case=use_case, reason=reason)
    return True
