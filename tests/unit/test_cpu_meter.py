"""CPU seconds of a retraining: what its processes used, not how long they lived; of those that were killed, too."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.retraining.cpu_meter import cpu_seconds, metered

BEGIN = "from mlops_ray.retraining.cpu_meter import start_in_worker; start_in_worker(); import subprocess, sys, time\n"
BURN = "ends = time.process_time() + 2\nwhile time.process_time() < ends: pass\n"
SPAWN = f"subprocess.run([sys.executable, '-c', 'import time\\n' + {BURN!r}])\n"
STAY = "print('done', flush=True); time.sleep(60)\n"


def used_s(folder: Path, code: str, retraining: str = "r1", wait_s: float = 1.5) -> float:
    """Run a process until it is done, give it a moment to write, and kill it."""
    before_s = cpu_seconds(Artifacts(str(folder)), "arrivals", retraining)
    environment = {**os.environ, **metered(str(folder), "arrivals", retraining)}
    with subprocess.Popen([sys.executable, "-c", BEGIN + code + STAY], stdout=subprocess.PIPE, env=environment) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == b"done\n"
        time.sleep(wait_s)
        one.send_signal(signal.SIGKILL)
    return cpu_seconds(Artifacts(str(folder)), "arrivals", retraining) - before_s


def test_a_killed_process_has_cost_what_it_used_and_one_that_slept_nothing_more(tmp_path: Path) -> None:
    start_s = used_s(tmp_path, "time.sleep(3)\n")
    assert start_s < 3.5, "what Python and the imports took; the time that it slept is no cost"
    burnt_s = used_s(tmp_path, BURN)
    assert 1.5 < burnt_s - start_s < 3.5


def test_children_count_while_they_live_and_after(tmp_path: Path) -> None:
    start_s = used_s(tmp_path, "", "r2")
    assert 1.5 < used_s(tmp_path, SPAWN, "r2") - start_s < 3.5
    living = SPAWN.replace("run(", "Popen(") + "time.sleep(4)\n"
    assert 1.5 < used_s(tmp_path, living, "r2") - start_s < 3.5


def test_each_retraining_has_its_own(tmp_path: Path) -> None:
    used_s(tmp_path, "", "r3")
    assert cpu_seconds(Artifacts(str(tmp_path)), "arrivals", "r4") == 0.0


def test_a_worker_of_something_else_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlops_ray.retraining.cpu_meter import VARIABLE, start_in_worker

    monkeypatch.delenv(VARIABLE, raising=False)
    start_in_worker()
    assert list(tmp_path.iterdir()) == []
