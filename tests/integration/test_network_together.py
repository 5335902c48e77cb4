"""Two workers fit a network as good as one does, and both have the same: in processes, without Ray."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def fitted_by(world: int) -> list[dict[str, Any]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "tests.integration.network_together"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    begun = [
        subprocess.Popen(
            [*command, str(rank), str(world), str(port)], stdout=subprocess.PIPE, cwd=ROOT, env=environment
        )
        for rank in range(world)
    ]
    printed = [process.communicate(timeout=240)[0] for process in begun]
    assert [process.returncode for process in begun] == [0] * world
    return [json.loads(text.splitlines()[-1]) for text in printed]


def test_two_workers_fit_the_same_network_and_it_is_as_good_as_that_of_one() -> None:
    (alone,), (first, second) = fitted_by(1), fitted_by(2)
    assert first == second
    assert first["epoch"] == alone["epoch"] == 3
    assert first["loss"] == pytest.approx(alone["loss"], abs=0.01)
    assert first["sum"] != alone["sum"]  # as each has other rows of a batch
