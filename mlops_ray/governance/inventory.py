"""The inventory: every use case that the control store knows, and how it stands."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from mlops_ray.governance.alarms import alarms_of
from mlops_ray.governance.approvals import list_approvals
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.live import live
from mlops_ray.governance.tables import endpoints, versions
from mlops_ray.governance.versions import list_versions


@dataclass(frozen=True)
class Entry:
    """live_version, live_since: of the champion, None where nothing is live. approval: the state of the newest request
    about it, "" where nobody asked. open_alarms: about any version."""

    use_case: str
    live_version: int | None
    live_since: datetime | None
    approval: str
    newest_version: int | None
    registered_at: datetime | None
    open_alarms: int


def inventory(store: ControlStore, now: datetime) -> list[Entry]:
    """All use cases with a version that was registered or is live, by name."""
    known = select(versions.c.use_case).union(select(endpoints.c.use_case))
    with store.reading() as connection:
        names = sorted(connection.execute(known).scalars())
    return [_entry(store, name, now) for name in names]


def _entry(store: ControlStore, use_case: str, now: datetime) -> Entry:
    state, registered = live(store, use_case), list_versions(store, use_case)
    champion, newest = state.champion, registered[-1] if registered else None
    asked = (one.state for one in list_approvals(store, use_case) if one.ref == champion)
    return Entry(
        use_case,
        champion.version if champion else None,
        state.champion_since,
        next(asked, ""),
        newest.version if newest else None,
        newest.registered_at if newest else None,
        sum(one.is_open(now) for one in alarms_of(store, use_case)),
    )
