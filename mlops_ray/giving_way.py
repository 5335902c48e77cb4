"""Giving way: the processes of a run leave CPU and memory to those that serve on the same machine.

Linux alone knows all of it; elsewhere a process is only nice. Nothing here raises: who may not give way works as ever.
"""

import os
from contextlib import suppress
from pathlib import Path

_NICEST = 19
# Workers begin with half of it where Ray has the environment of `serving.environment`, and replicas stay there.
_KILLED_FIRST = 1000


def be_nice(process: str = "/proc/self") -> None:
    """From now on the calling thread, and what it starts, has the least claim on a CPU and on disks, and its process is
    the first that the kernel kills when memory is short. process: its folder below /proc."""
    with suppress(OSError):
        os.nice(_NICEST)
    with suppress(OSError):
        Path(process, "oom_score_adj").write_text(str(_KILLED_FIRST))


def give_way() -> None:
    """As `be_nice`, and only while nobody else wants the CPU: a replica that wakes up does not wait for the slice of
    who is at work.

    For workers, and not for who holds a lock in the control store. The threads with which a worker talks to its Ray are
    there already and keep their priority: one that answers late is taken for dead.
    """
    be_nice()
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


HOOK = f"{__name__}.{give_way.__name__}"
"""For `worker_process_setup_hook` of Ray's runtime environments: each worker gives way before its first task."""
