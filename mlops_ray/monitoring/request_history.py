"""Requests over time: what replicas report of them since they began, as counts hour by hour.

Of what was refused there is no row in the ledger, and of what was repaired the row tells nothing: both are counted
where they happen. A replica reports its counts every few seconds with its last word among them; one that is killed
loses what it counted since its last report.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mlops_ray.governance.requests import Requests

HOUR = timedelta(hours=1)
# Two weeks of hours are less than 50 kB in each commit.
_HOURS = 14 * 24
# A replica that was cut off may come back, and what it had counted before counts once.
_REPLICAS = 200


@dataclass(frozen=True)
class RequestHour:
    start: datetime
    requests: Requests

    @property
    def end(self) -> datetime:
        return self.start + HOUR


@dataclass(frozen=True)
class RequestHistory:
    """hours: the last in which anything was reported, in order. seen: what each replica has reported so far."""

    hours: tuple[RequestHour, ...] = ()
    seen: Mapping[str, Requests] = field(default_factory=dict)

    def after(self, told: Mapping[str, Requests], now: datetime) -> "RequestHistory":
        """With what these replicas have counted since; it counts for the hour in which it was heard of."""
        new = Requests()
        for replica, counted in told.items():
            new += counted - self.seen.get(replica, Requests())
        if new == Requests():
            return self
        start = now.replace(minute=0, second=0, microsecond=0)
        known = {hour.start: hour.requests for hour in self.hours}
        known[start] = known.get(start, Requests()) + new
        hours = tuple(RequestHour(at, known[at]) for at in sorted(known)[-_HOURS:])
        others = [(replica, one) for replica, one in self.seen.items() if replica not in told]
        return RequestHistory(hours, dict([*others[-_REPLICAS:], *told.items()]))
