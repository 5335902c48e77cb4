"""The control store's clock as a process keeps it between two looks: the one that all nodes share, without a question
for each moment."""

import threading
import time

from mlops_ray.governance.control_store import ControlStore, database_now

LOOKS = 5  # at a time; of those the quickest says most
_LEAST_STEP_S = 2e-6  # what a float of this size can tell apart


class DatabaseClock:
    """Seconds since 1970 by the clock of the control store, for who calls it. Each is later than the one before.

    Whatever clock a node has, between two looks only the oscillator of its machine counts. Before the first look, and
    on SQLite, whose clock is the machine's own in whole milliseconds, it is this machine's clock. Safe for threads.
    """

    def __init__(self, store: ControlStore):
        self._store, self._ahead_s = store, time.time() - time.monotonic()
        self._last_s, self._lock = 0.0, threading.Lock()

    def look(self) -> None:
        """Set it by the database. Raises UnavailableError if that does not answer."""
        with self._store.reporting(write=False) as connection:
            if connection.dialect.name == "sqlite":
                self._ahead_s = time.time() - time.monotonic()
                return
            looks = []
            for _ in range(LOOKS):
                asked_s = time.monotonic()
                shown_s = database_now(connection).timestamp()
                took_s = time.monotonic() - asked_s
                looks.append((took_s, shown_s - asked_s - took_s / 2))
        self._ahead_s = min(looks)[1]

    def __call__(self) -> float:
        with self._lock:
            self._last_s = max(time.monotonic() + self._ahead_s, self._last_s + _LEAST_STEP_S)
            return self._last_s
