"""The README's `ray job submit` line on a cluster with token authentication."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlops_ray.code_version import code_version
from tests.pipeline_run import ROOT, SMALL_AS_OF, command, kill_group, write_small_data

DASHBOARD, GCS = 8275, 6390
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The head on a machine that never had a token: it is made by the command that README names."""
    environment = machine(tmp_path_factory.mktemp("head"))
    subprocess.run(command("cluster", "token"), env=environment, check=True, capture_output=True)
    start = [
        f"--port={GCS}",
        f"--dashboard-port={DASHBOARD}",
        "--num-cpus=2",
        "--object-store-memory=500000000",
        "--disable-usage-stats",
    ]
    with started(environment, "--head", *start):
        yield environment


def machine(home: Path) -> dict[str, str]:
    """The environment of a machine that has nothing of Ray in its user's home."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    return given | {"HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "token"}


@contextmanager
def started(environment: dict[str, str], *arguments: str) -> Iterator[None]:
    """A node of Ray, until the end of the block."""
    node = subprocess.Popen(
        [BIN / "ray", "start", "--block", *arguments],
        env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert node.stdout is not None
    try:
        assert any("--block" in line for line in node.stdout), f"ray start {arguments} ended"
        yield
    finally:
        kill_group(node)


def submit(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    printed = subprocess.run(command("cluster", "runtime-env"), check=True, capture_output=True, text=True)
    environment_json = printed.stdout.strip()
    options = [
        "--address",
        f"http://127.0.0.1:{DASHBOARD}",
        "--working-dir",
        ".",
        "--runtime-env-json",
        environment_json,
    ]
    return subprocess.run(
        [BIN / "ray", "job", "submit", *options, "--", "python", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.mark.timeout(300)
def test_a_step_runs_as_a_job_and_knows_its_commit(cluster: dict[str, str], tmp_path: Path) -> None:
    write_small_data(tmp_path / "data")
    paths = ["--state", str(tmp_path / "state"), "--data", str(tmp_path / "data"), "--as-of", SMALL_AS_OF]
    done = submit(cluster, "jobs/pipeline.py", "flights", "--until", "ingest", *paths)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "42,799 rows in" in done.stdout
    (manifest,) = (tmp_path / "state/artifacts/snapshots/flights").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["code_version"] == str(code_version())


def test_without_the_token_nobody_gets_in(cluster: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("1" * 64)
    done = submit(
        cluster | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}, "jobs/pipeline.py", "flights", "--until", "ingest"
    )
    assert done.returncode != 0
    assert "42,799" not in done.stdout


@pytest.mark.timeout(120)
def test_another_machine_joins_with_the_token_that_was_shipped_to_it_alone(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    environment = machine(tmp_path)
    node = [f"--address=127.0.0.1:{GCS}", "--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]
    alone = subprocess.run([BIN / "ray", "start", *node], env=environment, capture_output=True, text=True, timeout=60)
    assert alone.returncode != 0
    file = tmp_path / ".ray" / "auth_token"
    file.parent.mkdir(exist_ok=True)
    file.write_text((Path(cluster["HOME"]) / ".ray" / "auth_token").read_text())
    with started(environment, *node):
        status = [BIN / "ray", "status", f"--address=127.0.0.1:{GCS}"]
        until, listed = time.monotonic() + 30, ""
        while "/3.0 CPU" not in listed:  # the report is some seconds old
            assert time.monotonic() < until, listed
            listed = subprocess.run(status, env=environment, capture_output=True, text=True).stdout
