"""Decisions: how often gates were judged on the same days of a test period.

Whoever tries often enough on the same rows finds a version that passes by luck (Dwork et al., "The reusable holdout",
Science 349, 2015). Nothing forbids it; it is counted, and said wherever the result is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Event, read_events

KEY = "test_period"
_DECISIONS = ("version.registered", "version.measured")
_PAGE = 1000


@dataclass(frozen=True)
class Period:
    """From `start` up to, and not with, `end`."""

    start: datetime
    end: datetime

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> "Period | None":
        """What `value`, a payload or an evaluation, says under KEY; None where it says nothing."""
        found = value.get(KEY)
        if not isinstance(found, Mapping):
            return None
        return cls(datetime.fromisoformat(found["start"]), datetime.fromisoformat(found["end"]))

    def overlaps(self, other: "Period") -> bool:
        return self.start < other.end and other.start < self.end


def decisions_on(store: ControlStore, use_case: str, period: Period) -> list[Event]:
    """Every time that gates were judged on a test period that has time in common with `period`, the earliest first."""
    found: list[Event] = []
    after = 0
    while page := read_events(store, after, use_case, _DECISIONS, limit=_PAGE):
        found += [event for event in page if (of := Period.of(event.payload)) and of.overlaps(period)]
        after = page[-1].seq
    return found
