"""Retrainings in the audit log: what the governor knows, and what it decides, in one transaction.

The log is the governor's only memory. So a governor that died, or a second one, knows what was decided, and of any
number that decide at the same time the first is heard: the others find its decision when they look again.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Select, select

from mlops_ray.errors import ConflictError, ForbiddenError
from mlops_ray.governance.alarms import RAISED, RESOLVED, SILENCED, WORSENED
from mlops_ray.governance.approvals import ask
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor, Event, Severity, read, record
from mlops_ray.governance.tables import events

DECIDED, FINISHED = "retraining.decided", "retraining.finished"
CHAMPIONS = ("champion.set", "rollout.promoted", "rollout.rolled_back")


@dataclass(frozen=True)
class Entry:
    """What to record. offer: the version whose approval is asked for with it."""

    type: str
    subject: str
    reason: str
    payload: dict[str, Any] = field(default_factory=dict)
    severity: Severity | None = None
    offer: int | None = None


Decide = Callable[[Sequence[Event]], Entry | None]


def history(store: ControlStore, use_case: str) -> list[Event]:
    """All events of alarms, retrainings and champions of `use_case`, in their order."""
    with store.reading() as connection:
        return list(read(connection, _query(use_case)))


def record_next(store: ControlStore, actor: Actor, use_case: str, decide: Decide) -> Event | None:
    """Record what `decide` makes of the history, if anything. It may be called twice: only the last call counts.

    The first call holds no lock, so that a governor which has nothing to say keeps nobody from writing.
    """
    if decide(history(store, use_case)) is None:
        return None
    with store.transaction() as connection:
        entry = decide(list(read(connection, _query(use_case))))
        if entry is None:
            return None
        if entry.offer is not None:
            _offer(connection, actor, use_case, entry.offer, entry.reason)
        return record(
            connection,
            entry.type,
            actor,
            entry.subject,
            use_case,
            payload=entry.payload,
            reason=entry.reason,
            severity=entry.severity,
        )


def _offer(connection: Connection, actor: Actor, use_case: str, version: int, reason: str) -> None:
    with suppress(ConflictError, ForbiddenError):  # somebody has asked for it already, or retired it
        ask(connection, actor, use_case, version, reason)


def _query(use_case: str) -> Select[Any]:
    types = (DECIDED, FINISHED, RAISED, WORSENED, RESOLVED, SILENCED, *CHAMPIONS)
    return select(events).where(events.c.use_case == use_case, events.c.type.in_(types)).order_by(events.c.seq)
