"""Work: what this process uses, with those that it starts, from one moment on.

For who does one thing after another in one process, such as the trials that a worker is given.
"""

import os
import time

from mlops_ray.cost.account import Account
from mlops_ray.cost.processes import reset_peak, with_children
from mlops_ray.cost.usage import Usage


class Work:
    """Begins when it is made. asked_cpus, asked_bytes: what was asked for it."""

    def __init__(self, asked_cpus: float = 0.0, asked_bytes: int = 0) -> None:
        self._pid, self._account = os.getpid(), Account()
        self._asked_cpus, self._asked_bytes = asked_cpus, asked_bytes
        reset_peak(self._pid)
        self._account.look("", with_children(self._pid))
        self._at_s, self._last, self._used = time.monotonic(), self._account.total(), Usage()

    def used(self) -> Usage:
        """Up to now. Memory in between is taken to be as it is now."""
        self.more()
        return self._used

    def more(self) -> Usage:
        """Since `more` or `used` was asked for last."""
        self._account.look("", with_children(self._pid))
        at_s, total = time.monotonic(), self._account.total()
        wall_s, cpu_s = at_s - self._at_s, max(0.0, total.cpu_s - self._last.cpu_s)
        found = Usage(
            wall_s=wall_s,
            cpu_s=cpu_s,
            byte_s=total.memory_bytes * wall_s,
            peak_bytes=total.process_peak_bytes,
            process_peak_bytes=total.process_peak_bytes,
            read_bytes=max(0, total.read_bytes - self._last.read_bytes),
            written_bytes=max(0, total.written_bytes - self._last.written_bytes),
            asked_cpus=self._asked_cpus,
            asked_bytes=self._asked_bytes,
        )
        self._at_s, self._last, self._used = at_s, total, self._used + found
        return found
