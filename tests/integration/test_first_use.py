"""Several processes use one state folder for the first time at once: one makes the databases, the others wait."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

# Imports take seconds, so that all wait for the signal before they touch the folder.
FIRST_USE = """
import sys, time
from pathlib import Path
from mlops_ray.config import load_settings
from mlops_ray.features.store import Store
from mlops_ray.governance.control_store import open_store
from mlops_ray.training.tracking import connect, experiment_id
settings = load_settings(state=sys.argv[1], data="/data")
print("ready", flush=True)
while not Path(sys.argv[2]).exists():
    time.sleep(0.001)
open_store(settings)
print(experiment_id(connect(settings), settings, "flights"), flush=True)
Store(settings, "flights")
"""


@pytest.mark.timeout(600)
def test_processes_that_come_first_together_share_what_one_of_them_makes(tmp_path: Path) -> None:
    """MLflow's own migration, made twice at once, ends with "expected to match one row …; 0 found"."""
    signal = tmp_path / "go"
    command = [sys.executable, "-c", FIRST_USE, str(tmp_path / "state"), str(signal)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        signal.touch()
        answers = [process.communicate(timeout=500) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0, 0], answers
    assert len({said for said, _ in answers}) == 1, "one experiment"
