"""Death of a parent: what it has started ends with it, however it dies."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def ending_with_parent() -> Callable[[], None] | None:
    """For `preexec_fn` of a process: it gets SIGTERM when the thread that started it ends (prctl(2)). What is needed is
    loaded now, as little may be done behind a fork. None where there is no such call, as on macOS."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def end_with_it() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before it was asked about
            os.kill(os.getpid(), signal.SIGTERM)

    return end_with_it
