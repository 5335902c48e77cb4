"""A node whose clock was set back ends; another one goes on as long as it would by itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mlops_ray.operations.clock_guard import SET_BACK
from tests.moved_clock import moved_clock

NODE = (str(Path(sys.executable).with_name("mlops-ray")), "cluster", "node", "--")
SAYS = "import time; print('runs', flush=True); time.sleep(60)"


def started(**variables: str) -> "subprocess.Popen[str]":
    """When it runs."""
    command, environment = [*NODE, sys.executable, "-c", SAYS], os.environ | variables
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "runs\n"
    return process


def test_a_node_ends_with_what_it_runs() -> None:
    assert subprocess.run([*NODE, sys.executable, "-c", "exit(3)"], check=False).returncode == 3


def test_a_node_that_is_told_to_end_tells_what_it_runs() -> None:
    with started() as process:
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM


def test_a_node_whose_clock_was_set_back_ends_and_says_so(tmp_path: Path) -> None:
    set_clock, variables = moved_clock(tmp_path)
    with started(**variables) as process:
        for ahead_s in (3600, 3595):  # ahead, and what a daemon corrects
            set_clock(ahead_s)
            time.sleep(2.5)
            assert process.poll() is None
        set_clock(0)
        _, said = process.communicate(timeout=20)
        assert process.returncode == SET_BACK
        assert "The clock was set back by 3595 s" in said
