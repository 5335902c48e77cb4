"""The README's `ray job submit` line on a cluster with token authentication."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops_ray.code_version import code_version
from tests.pipeline_run import ROOT, SMALL_AS_OF, command, kill_group, write_small_data

DASHBOARD = 8275
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("cluster")
    token = folder / "token"
    token.write_text("0" * 64)
    environment = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token),
    }  # fmt: skip
    start = [
        "--port=6390",
        f"--dashboard-port={DASHBOARD}",
        "--num-cpus=2",
        "--object-store-memory=500000000",
        "--disable-usage-stats",
    ]
    command = [BIN / "ray", "start", "--head", "--block", *start]
    head = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert head.stdout is not None
    for line in head.stdout:
        if "--block" in line:
            break
    yield environment
    kill_group(head)


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
