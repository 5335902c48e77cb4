"""CPU seconds of a retraining, as its processes used them: each writes down its own while it lives.

A retraining is many processes on many nodes: its driver, and the workers of its Ray tasks, trials and data stages, each
with the children that a library starts. What is reserved for them says little of what they use, and one that is killed
can report nothing at its end. So each has a thread that writes, below the artifact root, how much it has used
until then, and whoever asks adds up: what attempts that died had used is among it.
"""

import json
import os
import resource
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

from mlops_ray.cost.processes import TAG

if TYPE_CHECKING:
    from mlops_ray.artifacts import Artifacts

FOLDER = "retraining_cpu"
# Where a worker finds whose CPU seconds it uses; set by `metered`, before the worker starts.
VARIABLE = "RETRAINING_CPU_RECORDS"
_THREAD = "cpu meter"
_SOONEST_S, _LATEST_S = 0.5, 5.0
# A pause grows with the age of the process, so that one that is killed has lost about a tenth of what it used.
_PAUSE_SHARE = 0.1
_LEAST_CPU_S = 0.05
# Children of a driver that started a Ray of its own: their children are workers, which count themselves.
_RAY_ITSELF = {"raylet", "gcs_server"}


class CpuMeter:
    """Writes down the CPU seconds of this process and its children: user and system, from the beginning of the process.

    artifacts, use_case, id: of the retraining, which has this process to itself.
    """

    def __init__(self, artifacts: "Artifacts", use_case: str, id: str):
        self._artifacts, self._place = artifacts, (FOLDER, use_case, id)
        self._process = psutil.Process()
        self._began = self._process.create_time()
        self._name = f"{socket.gethostname()}-{self._process.pid}-{int(self._began * 1000)}.json"
        self._cpu_s, self._written_s = 0.0, 0.0
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to write, in a thread, unless this process has one that does."""
        if not any(thread.name == _THREAD for thread in threading.enumerate()):
            threading.Thread(target=self._follow, name=_THREAD, daemon=True).start()

    def write(self) -> None:
        """Write what was used until now. What storage does not take is written the next time."""
        with self._lock:
            self._cpu_s = max(self._cpu_s, self._used_s())  # a child that nobody waits for takes its own along
            if self._cpu_s - self._written_s >= _LEAST_CPU_S:
                with suppress(OSError):
                    self._artifacts.write_json({"cpu_s": round(self._cpu_s, 3)}, *self._place, self._name)
                    self._written_s = self._cpu_s

    def _follow(self) -> None:
        while True:
            age_s = time.time() - self._began
            time.sleep(min(_LATEST_S, max(_SOONEST_S, _PAUSE_SHARE * age_s)))
            self.write()

    def _used_s(self) -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        times = self._process.cpu_times()
        used_s: float = times.user + times.system + ended.ru_utime + ended.ru_stime
        return used_s + sum(_with_children_s(child) for child in self._process.children())


def _with_children_s(process: psutil.Process) -> float:
    """Of a living child, with those of its own that live or that it has waited for."""
    try:
        if process.name() in _RAY_ITSELF:
            return 0.0
        times = process.cpu_times()
        used_s: float = times.user + times.system + times.children_user + times.children_system
        return used_s + sum(_with_children_s(child) for child in process.children())
    except psutil.Error:  # it has ended meanwhile, and counts among those that were waited for
        return 0.0


def cpu_seconds(artifacts: "Artifacts", use_case: str, id: str) -> float:
    """What all processes of a retraining have used, attempts that died among them; 0 where none has written yet."""
    place = FOLDER, use_case, id
    found = [artifacts.read_json(*place, entry.name) for entry in artifacts.entries(*place) if _is_record(entry.name)]
    return float(sum(one["cpu_s"] for one in found if one is not None))


def metered(root: str, use_case: str, id: str) -> dict[str, str]:
    """The environment variables by which `start_in_worker` knows what a worker works for. root: of the artifacts."""
    return {VARIABLE: json.dumps([root, use_case, id]), TAG: id}


def start_in_worker() -> None:
    """Ray's `worker_process_setup_hook`: begins in each worker before its first task. Without the variable, nothing."""
    if VARIABLE in os.environ:
        from mlops_ray.artifacts import Artifacts

        root, use_case, id = json.loads(os.environ[VARIABLE])
        CpuMeter(Artifacts(root), use_case, id).start()


HOOK = f"{__name__}.{start_in_worker.__name__}"


def _is_record(name: str) -> bool:
    return name.endswith(".json")  # the others are being written
