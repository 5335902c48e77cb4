"""Stall: a run that makes no progress is stopped, so that nothing waits for it for ever."""

import sys
import time
from collections.abc import Callable
from typing import Any

from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, record

STALLED = "run.stalled"
_HOUR_S = 3600


class Stall:
    """Progress is a step that begins or ends, or a trial that says something: one that computes without end makes none.

    limit_s: how long there may be none; 0 for ever. clock: in seconds, of which those in which the machine slept do not
    count.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic):
        self._limit_s, self._clock = limit_s, clock
        self._since_s, self._last = clock(), "it began"

    def progressed(self, what: str) -> None:
        """what: in a sentence after "since"."""
        self._since_s, self._last = self._clock(), what

    @property
    def waited(self) -> float:
        """The share of the limit that is over; 0 without one."""
        return (self._clock() - self._since_s) / self._limit_s if self._limit_s else 0.0

    def decide(self) -> str | None:
        """Why the run has to stop, None if it has not."""
        idle_s = self._clock() - self._since_s
        if not self._limit_s or idle_s < self._limit_s:
            return None
        return (
            f"There was no progress for {idle_s / _HOUR_S:.1f} hours, since {self._last} (limit "
            f"{self._limit_s / _HOUR_S:g}). What has ended is kept, and the same again goes on from there. Its log "
            f"says what it waited for; raise the setting stall_limit_s if its steps need longer."
        )


class StallMetric:
    """`Stall.waited` of the runs of a use case, in Ray's own Prometheus endpoint, as soon as there is a Ray."""

    def __init__(self, use_case: str):
        self._use_case = use_case
        self._gauge: Any = None

    def show(self, waited: float) -> None:
        if "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
            return
        if self._gauge is None:
            self._gauge = stall_gauge()
        self._gauge.set(waited, {"use_case": self._use_case})


def stall_gauge() -> Any:
    from ray.util.metrics import Gauge

    text = "Share of its limit for which a run has made no progress"
    return Gauge("mlops_ray_run_stalled_ratio", text, ("use_case",))


def say_stalled(store: ControlStore, use_case: str, run: str, why: str, limit_s: float) -> None:
    """Record that a run was stopped for it."""
    payload: dict[str, Any] = {"run": run, "limit_s": limit_s}
    with store.transaction() as connection:
        record(connection, STALLED, SYSTEM, f"run {use_case}", use_case, payload=payload, reason=why)
