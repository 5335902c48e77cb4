"""Overdue: what an installation promises to do by itself, and by how much it is behind, as metrics for alerts."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from ray.util.metrics import Gauge

from mlops_ray.config import Settings
from mlops_ray.cost.spending import month_name, spent_in
from mlops_ray.governance.budgets import budgets_of_month
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import newest_events, read_events
from mlops_ray.governance.notifications import undelivered
from mlops_ray.governance.schedule_runs import running
from mlops_ray.governance.schedules import list_schedules
from mlops_ray.governance.usage import month_of, now
from mlops_ray.use_case.schedule import due_moments

LOOK_S = 60.0
# By name: what it is, and its tags.
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "control_store_away_seconds": ("Seconds since the control store was last read for these metrics", ()),
    "schedule_overdue_seconds": ("Seconds since a run fell due that is not begun, and for no other", ("use_case",)),
    "backup_age_seconds": ("Seconds since the last backup, without any since the first event", ()),
    "budget_spent_ratio": ("Of the budget of this month, the part that is spent", ("use_case",)),
    "undelivered_events": ("Events that a subscription wants and was not sent", ()),
    "undelivered_oldest_seconds": ("Seconds since the oldest of these events", ()),
    "audit_failed": ("1 if a check within the last day found that the audit log was changed, else 0", ()),
}
Behind = dict[tuple[str, str], float]
"""Values by the gauge's name and the use case, "" where it has none."""
_BACKED_UP, _CHANGED = "backup.created", "audit.failed"
_CHECKED_WITHIN = timedelta(hours=26)  # the dispatcher checks once a day, and says it anew


class Overdue:
    """Shows what `overdue` finds. What is no longer there goes back to 0; while the store is away all else stays."""

    def __init__(self, settings: Settings, store: ControlStore, clock: Callable[[], float] = time.monotonic):
        self._settings, self._store, self._clock = settings, store, clock
        self._gauges = {name: Gauge(f"mlops_ray_{name}", text, tags) for name, (text, tags) in GAUGES.items()}
        self._shown: Behind = {}
        self._read_s = clock()

    def look(self) -> None:
        """Raises UnavailableError if the control store does not answer."""
        try:
            found = overdue(self._settings, self._store)
            self._read_s = self._clock()
            self._show(dict.fromkeys(self._shown, 0.0) | found)
            self._shown = found
        finally:
            self._show({("control_store_away_seconds", ""): self._clock() - self._read_s})

    def _show(self, values: Behind) -> None:
        for (name, use_case), value in values.items():
            self._gauges[name].set(value, {"use_case": use_case} if use_case else {})


def overdue(settings: Settings, store: ControlStore) -> Behind:
    """By the database's clock. Raises UnavailableError if it does not answer."""
    moment = now(store)
    waiting = undelivered(store)
    failed = newest_events(store, types=[_CHANGED], limit=1)
    found: Behind = {
        ("undelivered_events", ""): float(waiting.events),
        ("undelivered_oldest_seconds", ""): _since(waiting.oldest, moment),
        ("audit_failed", ""): float(bool(failed) and moment - failed[0].time < _CHECKED_WITHIN),
    }
    if settings.backups:
        last = newest_events(store, types=[_BACKED_UP], limit=1) or read_events(store, limit=1)
        found["backup_age_seconds", ""] = _since(last[0].time if last else None, moment)
    for use_case, due in _due(store, moment):
        known = found.get(("schedule_overdue_seconds", use_case), 0.0)
        found["schedule_overdue_seconds", use_case] = max(known, _since(due, moment))
    for use_case, budget in budgets_of_month(store, month_name(moment)).items():
        spent = spent_in(store, use_case, month_of(moment)).amounts.get(budget.currency, 0.0)
        found["budget_spent_ratio", use_case] = spent / budget.amount if budget.amount else 1.0
    return found


def _due(store: ControlStore, moment: datetime) -> Iterator[tuple[str, datetime]]:
    """When what nobody has begun fell due: what no scheduler has decided on, which all do within seconds, and what it
    has decided to start and could not. What waits for another run of its schedule is not late."""
    for one in list_schedules(store):
        yield one.use_case, next(due_moments(one.cron, one.time_zone, one.decided_until), moment)
    for run in running(store):
        if run.started_at is None:
            yield run.use_case, run.recorded_at


def _since(past: datetime | None, moment: datetime) -> float:
    return max(0.0, (moment - past).total_seconds()) if past is not None else 0.0
