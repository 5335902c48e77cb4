"""100 endpoints of 100 features on one host, in the processes that share them: memory and CPU of each.

    python benchmarks/drift/watchers.py FOLDER [ENDPOINTS]            starts the processes, and prints one JSON line
    python benchmarks/drift/watchers.py FOLDER ENDPOINTS PLACE        is one of them

Each endpoint answers 100 requests a second; a minute of that is there when they begin. Each has a reference of its own.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from hour import NAME, TICK_S, Replicas
from ledger_to_windows import watched
from memory import peak_mb

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.monitoring.drift_watch import DriftWatch
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.version_watch import Watched
from mlops_ray.monitoring.watch_state import read_state
from mlops_ray.monitoring.watcher import Watcher, assign

FEATURES, PER_S, TICKS, POOL = 100, 100, 3, "pool"


def settings_of(folder: str) -> Settings:
    return Settings(state=folder, data=folder)


def write(folder: str, endpoints: int) -> int:
    """The ledgers of all endpoints; returns how many different answers each has."""
    columns, artifacts = [f"x{at}" for at in range(FEATURES)], Artifacts(settings_of(folder).artifacts)
    open_store(settings_of(folder))
    for name, content in watched(columns).reference.to_files().items():
        (Path(folder) / name).write_bytes(content)
    for number in range(endpoints):
        name = f"{NAME}-{number}"
        replicas = Replicas(artifacts, columns, PER_S, name, replicas=2)
        for tick in range(TICKS):
            replicas.write(tick, FEATURES)
        assign(artifacts, name, POOL)
    return replicas.rows * 2 * TICKS - replicas.repeated


def watch(folder: str, place: int) -> None:
    settings, files = settings_of(folder), {path.name: path.read_bytes() for path in Path(folder).glob("reference.*")}
    artifacts = Artifacts(settings.artifacts)

    def open_watch(use_case: str, store: ControlStore) -> DriftWatch:
        own = Watched("7", Reference.from_files(files))
        return DriftWatch(artifacts, use_case, lambda version: own, lambda change: None)

    before, cpu = peak_mb(), time.process_time()
    watcher = Watcher(settings, POOL, place, open_watch)
    watcher.look()
    while watcher.turn():
        continue
    cpu, idle = time.process_time() - cpu, time.process_time()
    watcher.turn()
    idle = time.process_time() - idle
    print(json.dumps({
        "endpoints": len(watcher.watched), "cpu_s": cpu, "idle_turn_s": idle, "peak_mb": peak_mb(), "mb_before": before,
    }))  # fmt: skip


def main(folder: str, endpoints: int) -> None:
    answers, artifacts = write(folder, endpoints), Artifacts(settings_of(folder).artifacts)
    places = range(settings_of(folder).drift_watchers)
    command = [sys.executable, __file__, folder, str(endpoints)]
    started = [subprocess.Popen([*command, str(place)], stdout=subprocess.PIPE, text=True) for place in places]
    found = [json.loads(process.communicate()[0]) for process in started]
    for number in range(endpoints):
        assert read_state(artifacts, f"{NAME}-{number}").rows["7"] == answers, number
    print(json.dumps({
        "processes": len(found), "endpoints": sum(one["endpoints"] for one in found),
        "mb": sum(one["peak_mb"] for one in found), "cores": sum(one["cpu_s"] for one in found) / (TICKS * TICK_S),
        "idle_turn_s": sum(one["idle_turn_s"] for one in found),
    }))  # fmt: skip


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    if len(sys.argv) > 3:
        watch(sys.argv[1], int(sys.argv[3]))
    else:
        main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100)
