"""What the audit log says about alarms and retrainings, as the policy wants to know it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlops_ray.governance.events import Event
from mlops_ray.governance.retrainings import CHAMPIONS, DECIDED, FINISHED
from mlops_ray.retraining.policy import OpenAlarm, PastRetraining


@dataclass(frozen=True)
class Running:
    """A retraining that has not ended. as_of: the governor's time when it was decided; since: by the clock on the wall,
    which differs where time is simulated."""

    id: str
    as_of: datetime
    since: datetime


@dataclass(frozen=True)
class History:
    """last: the payload of the last decision; None before any. losses: see `policy.State`."""

    alarms: tuple[OpenAlarm, ...] = ()
    past: tuple[PastRetraining, ...] = ()
    losses: int = 0
    last: Mapping[str, Any] | None = None
    running: Running | None = None


def read_history(events: Iterable[Event], now: datetime) -> History:
    """Fold the events in their order. `now` says which silences are over. Alarms are about a version: only those about
    the champion count."""
    alarms: dict[str, OpenAlarm] = {}
    silenced: dict[str, datetime] = {}
    past: dict[str, PastRetraining] = {}
    orders: dict[str, Running] = {}
    versions: dict[str, int] = {}
    losses, last, champion = 0, None, None
    for event in events:
        payload = event.payload
        if event.type in ("alarm.raised", "alarm.worsened") and event.severity != "info":
            alarms[event.subject] = OpenAlarm(payload["alarm"], payload["question"], event.reason)
            versions[event.subject] = payload["version"]
        elif event.type == "alarm.resolved":
            alarms.pop(event.subject, None)
        elif event.type == "alarm.silenced":
            silenced[event.subject] = _moment(payload["until"])
        elif event.type == DECIDED:
            last = payload
            if order := payload.get("order"):
                as_of = _moment(order["as_of"])
                orders[order["id"]] = Running(order["id"], as_of, event.time)
                past[order["id"]] = PastRetraining(order["id"], as_of)
        elif event.type == FINISHED:
            past[payload["id"]] = _ended(past[payload["id"]], payload)
            losses = 0 if payload["outcome"] == "better" and payload.get("admissible", True) else losses + 1
        elif event.type in CHAMPIONS and _champion(event.before) != _champion(event.after):
            losses, champion = 0, _champion(event.after)
    heard = tuple(
        alarm
        for subject, alarm in alarms.items()
        if silenced.get(subject, now) <= now and champion is not None and versions[subject] == champion["version"]
    )
    running = next((orders[one.id] for one in past.values() if one.outcome is None), None)
    return History(heard, tuple(past.values()), losses, last, running)


def _champion(live: Any) -> Any:
    return live and live.get("champion")


def _ended(begun: PastRetraining, payload: Mapping[str, Any]) -> PastRetraining:
    return PastRetraining(
        begun.id, begun.decided, _moment(payload["at"]), payload["outcome"], float(payload.get("cpu_hours") or 0.0)
    )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
