"""README's walk: the first version goes live by itself, another run makes one that waits, a rollout lets it in."""

import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.pipeline_run import (
    ROOT,
    SMALL,
    SMALL_AS_OF,
    command,
    kill_group,
    pipeline_command,
    run,
    summary,
    write_small_data,
)

# The small data does not make a version that beats another with certainty; what is shown here is the way in.
CASE = f"""
from dataclasses import replace
from mlops_ray.use_case import OnnxParity, load_use_case
from mlops_ray.training.candidates import LogisticRegression
use_case = replace(load_use_case({str(SMALL)!r}), gates=(OnnxParity(),), candidates=(LogisticRegression(),))
"""
EARLIER = "2013-02-11T05:00:00Z"


@pytest.mark.timeout(900)
def test_a_second_version_waits_until_a_rollout_lets_it_in(tmp_path: Path) -> None:
    write_small_data(tmp_path / "data")
    case = tmp_path / "case.py"
    case.write_text(CASE)
    first = run(pipeline_command(case, tmp_path, EARLIER), timeout_s=400)
    assert first.returncode == 0, first.stderr
    assert summary(tmp_path)["standing"] == "Version 1 is champion."
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serving = pipeline_command(case, tmp_path, SMALL_AS_OF, "--serve", "--stay", "--port", str(port))
    server = subprocess.Popen(serving, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert server.stdout
        said = list(iter(server.stdout.readline, "Serving until Ctrl-C.\n"))
        waits = "Version 2 waits beside version 1, which stays champion: mlops-ray rollout start flights 2"
        assert any(waits in line for line in said)
        found = summary(tmp_path)
        assert (found["champion"], found["prediction"]["answer"]["version"]) == (False, "1")
        (tmp_path / "plan.yaml").write_text("steps: []\n")
        where = ["--url", f"http://127.0.0.1:{port}", "--state", f"{tmp_path}/state"]
        started = run(command("rollout", "start", "flights", "2", "--plan", str(tmp_path / "plan.yaml"), *where))
        assert started.returncode == 0, started.stderr
        deadline = time.monotonic() + 60
        while "Champion: version 2" not in (shown := run(command("rollout", "status", "flights", *where)).stdout):
            assert time.monotonic() < deadline, shown
        assert "Previous: version 1" in shown
    finally:
        kill_group(server)
