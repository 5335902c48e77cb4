"""Which feature views are stale: an event when one becomes so, and when it is fresh again."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, record
from mlops_ray.governance.tables import events

STALE, FRESH = "feature.stale", "feature.fresh"


def report_freshness(
    store: ControlStore, use_case: str, view: str, stale: bool, reason: str, payload: Mapping[str, Any]
) -> bool:
    """Record that a view is stale, or fresh again, unless the last event about it says so; whether it was recorded."""
    subject = f"features {use_case}/{view}"
    with store.reading() as connection:
        if _is_told(connection, subject) == stale:
            return False
    with store.transaction() as connection:
        if _is_told(connection, subject) == stale:  # another replica was first
            return False
        type_ = STALE if stale else FRESH
        record(connection, type_, SYSTEM, subject, use_case, payload=payload, reason=reason)
    return True


def _is_told(connection: Connection, subject: str) -> bool:
    """Whether the last that was said of a view is that it is stale."""
    about = (events.c.subject == subject) & events.c.type.in_((STALE, FRESH))
    last = connection.execute(select(events.c.type).where(about).order_by(events.c.seq.desc()).limit(1)).scalar()
    return bool(last == STALE)
