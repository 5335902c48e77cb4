"""A node that ends when its machine's clock was set back, so that its unit starts it again.

Ray's own timers wait by the wall clock until the time comes that was there already: for as long, a raylet tells nobody
what has become free on it, no replica or task is placed there any more, and workers do not notice that it is gone.
"""

import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence

BACK_S = 10.0
"""A clock that is set back by less was corrected by a daemon, and Ray waits for so long."""
SET_BACK = os.EX_TEMPFAIL
_LOOK_MS = 1000

_logger = logging.getLogger(__name__)


def run_while_time_goes_on(command: Sequence[str]) -> int:
    """Run a command, such as `ray start --block`, and hand SIGTERM on to it. Its exit status as a shell has it, or
    SET_BACK."""
    process = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the command, too
    latest = _wall_ahead()
    while not _ended(process):
        now = _wall_ahead()
        if latest - now > BACK_S:
            _logger.error(
                "The clock was set back by %.0f s. Ray's timers would wait for that time, so this node ends and has to "
                "be started again.",
                latest - now,
            )
            process.terminate()
            process.wait()
            return SET_BACK
        latest = now
    status = process.wait()
    return status if status >= 0 else 128 - status


def _wall_ahead() -> float:
    """Seconds by which the wall clock is ahead of the one that nobody sets."""
    return time.time() - time.monotonic()


def _ended(process: "subprocess.Popen[bytes]") -> bool:
    """Within a second."""
    if process.poll() is not None:
        return True
    file = os.pidfd_open(process.pid)
    try:
        ready = select.poll()
        ready.register(file, select.POLLIN)
        return bool(ready.poll(_LOOK_MS))
    finally:
        os.close(file)
