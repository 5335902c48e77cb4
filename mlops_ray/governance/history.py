"""History: which version served what, from when to when, read from the events."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import nlargest
from typing import Any, Literal

from sqlalchemy import Connection, select

from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Event, read, read_events
from mlops_ray.governance.tables import endpoints, events
from mlops_ray.governance.versions import VersionRef

Part = Literal["champion", "canary", "shadow", "loading"]
# The types of events whose `after` is the state of an endpoint (governance.live).
CHANGES = (
    "champion.set",
    "rollout.started",
    "rollout.step",
    "rollout.paused",
    "rollout.resumed",
    "rollout.promoted",
    "rollout.rolled_back",
    "rollout.failed",
    "break_glass",
)
_PAGE = 1000


@dataclass(frozen=True)
class Deployment:
    """One version in one part, from one change to the next; `until` is None while it is in force.

    part: champion and canary answer requests, shadow sees copies of them, loading sees none yet. share: of the
    requests. event, actor, reason: of the change that began it.
    """

    version: int
    digest: str
    part: Part
    share: float
    since: datetime
    until: datetime | None
    rollout: str | None
    event: str
    actor: str
    reason: str

    def held(self, moment: datetime) -> bool:
        return self.since <= moment and (self.until is None or moment < self.until)


def changes(store: ControlStore, use_case: str, after_seq: int = 0) -> list[Event]:
    """Every change of what an endpoint serves behind event `after_seq`, in order."""
    found: list[Event] = []
    while True:
        page = read_events(store, found[-1].seq if found else after_seq, use_case, CHANGES, limit=_PAGE)
        found += page
        if len(page) < _PAGE:
            return [event for event in found if _tells(event)]


def recent_changes(store: ControlStore, use_case: str, limit: int) -> list[Event]:
    """The last `limit` of `changes`, in order. They are few among many events, and the index of types tells which."""
    numbers = select(events.c.seq).where(events.c.use_case == use_case, events.c.type.in_(CHANGES))
    with store.reading() as connection:
        last = nlargest(limit, connection.execute(numbers).scalars())
        found = read(connection, select(events).where(events.c.seq.in_(last)).order_by(events.c.seq))
        return [event for event in found if _tells(event)]


def _tells(event: Event) -> bool:
    """Whether it says what the endpoint serves afterwards."""
    return isinstance(event.after, Mapping) and "champion" in event.after


def last_change(connection: Connection, use_case: str, types: Sequence[str] = CHANGES) -> Event | None:
    """The newest change of what an endpoint serves, as the caller's transaction sees it."""
    of_it = events.c.use_case == use_case, events.c.type.in_(types)
    return next(read(connection, select(events).where(*of_it).order_by(events.c.seq.desc()).limit(1)), None)


def champions(connection: Connection, use_case: str) -> Iterator[VersionRef]:
    """Every version that was champion, the latest first and each once, as the caller's transaction sees it."""
    query = (
        select(events).where(events.c.use_case == use_case, events.c.type.in_(CHANGES)).order_by(events.c.seq.desc())
    )
    seen = set()
    for event in read(connection, query):
        champion = event.after.get("champion") if isinstance(event.after, Mapping) else None
        if champion and (ref := VersionRef(champion["version"], champion["digest"])) not in seen:
            seen.add(ref)
            yield ref


def deployments(changed: Iterable[Event]) -> tuple[Deployment, ...]:
    """What `changes` say of each version, by its beginning."""
    running: dict[tuple[Any, ...], tuple[int, Event]] = {}
    ended: list[tuple[int, Deployment]] = []
    count = 0
    for event in changed:
        now = list(_parts(event.after))
        for key in [key for key in running if key not in now]:
            number, began = running.pop(key)
            ended.append((number, _deployment(key, began, event.time)))
        for key in now:
            if key not in running:
                running[key] = (count, event)
                count += 1
    ended += [(number, _deployment(key, began, None)) for key, (number, began) in running.items()]
    return tuple(one for _, one in sorted(ended, key=lambda pair: pair[0]))


def use_cases(store: ControlStore) -> list[str]:
    """All that ever had a champion."""
    with store.reading() as connection:
        return list(connection.execute(select(endpoints.c.use_case).order_by(endpoints.c.use_case)).scalars())


def _parts(state: Mapping[str, Any]) -> Iterator[tuple[int, str, Part, float, str | None]]:
    """(version, digest, part, share, rollout) of each version that the state gives one."""
    rollout, champion = state.get("rollout"), state.get("champion")
    step = rollout and rollout.get("step")
    if champion:
        canary = step["share"] if step and step["route"] == "canary" else 0.0
        yield champion["version"], champion["digest"], "champion", round(1 - canary, 9), None
    if rollout:
        part: Part = step["route"] if step else "loading"
        yield rollout["version"], rollout["digest"], part, step["share"] if step else 0.0, rollout["id"]


def _deployment(key: tuple[Any, ...], began: Event, until: datetime | None) -> Deployment:
    version, digest, part, share, rollout = key
    return Deployment(version, digest, part, share, began.time, until, rollout, began.type, began.actor, began.reason)
