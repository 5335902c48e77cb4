"""A release with another schema takes the place of this one under requests: the store first, then one replica after
the other, and nobody who asks notices."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uuid6

from mlops_ray.config import Settings
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.replicas import schemas_alive
from mlops_ray.governance.tables import SCHEMA_REVISION
from mlops_ray.serving.environment import serve_environment
from tests.oidc_provider import free_port
from tests.pipeline_run import ROOT
from tests.raw_ledger import raw_rows

NAME = "departures"
VECTOR = {"origin": "JFK", "distance": 500.0, "carrier": "AA", "hour": 8.0, "recent_delay": 30.0}
NEXT = "0999"
MIGRATION = f'''"""The next one."""

import sqlalchemy as sa
from alembic import op

revision = "{NEXT}"
down_revision = "{SCHEMA_REVISION}"


def upgrade():
    op.add_column("versions", sa.Column("mood", sa.Text, nullable=True))
'''
EXAMPLE = str(Path(__file__).with_name("rolling_upgrade_example.py"))


def release_after(folder: Path) -> Path:
    """This package with one more migration."""
    package = folder / "mlops_ray"
    shutil.copytree(ROOT / "mlops_ray", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "governance/migrations/versions/v0999_next.py").write_text(MIGRATION)
    tables = package / "governance/tables.py"
    text = tables.read_text()
    assert f'SCHEMA_REVISION = "{SCHEMA_REVISION}"' in text
    tables.write_text(text.replace(f'SCHEMA_REVISION = "{SCHEMA_REVISION}"', f'SCHEMA_REVISION = "{NEXT}"'))
    return folder


@contextmanager
def started(log: Path, release: Path, *command: str) -> Iterator["subprocess.Popen[str]"]:
    environment = {
        **os.environ, **serve_environment(), "PYTHONPATH": f"{release}:{ROOT}", "RAY_AUTH_MODE": "disabled",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }  # fmt: skip
    with log.open("a") as file:
        process = subprocess.Popen(
            command, env=environment, cwd=log.parent, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Asking:
    """Asks all the time, and counts by status; "none" where no answer came."""

    def __init__(self, port: int, key: str):
        self.statuses: list[str] = []
        self.ids: list[str] = []
        self._url, self._key = f"http://127.0.0.1:{port}/v2/models/{NAME}/predict", key
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def __enter__(self) -> "Asking":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with httpx.Client(headers={"authorization": f"Bearer {self._key}"}, timeout=15, trust_env=False) as client:
            while not self._stop.wait(0.1):
                try:
                    id = str(uuid6.uuid7())
                    answer = client.post(self._url, json={"features": VECTOR}, headers={"x-request-id": id})
                    self.statuses.append(str(answer.status_code))
                    self.ids.append(id)
                except httpx.TransportError as error:
                    self.statuses.append(f"none: {error!r}")


@pytest.mark.timeout(300)
def test_a_rolling_upgrade_under_requests_fails_none_and_loses_none(tmp_path: Path) -> None:
    state, log, port, gcs = tmp_path / "state", tmp_path / "log", free_port(), free_port()
    state.mkdir(mode=0o700)
    address = f"127.0.0.1:{gcs}"
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--port", str(gcs), "--num-cpus=4"]
    ray += ["--include-dashboard=false", "--node-ip-address=127.0.0.1", "--disable-usage-stats", "--block"]
    ray += ["--object-store-memory=200000000"]
    with started(log, ROOT, *ray):
        time.sleep(5)
        example = sys.executable, EXAMPLE, address, str(state), str(port)
        with started(log, ROOT, *example) as first:
            expect_serving(first, log)
            settings = Settings(state=str(state), data=str(state))
            store = ControlStore(settings.control_store)
            assert set(schemas_alive(store)) == {(NAME, SCHEMA_REVISION)}
            with Asking(port, (state / "key").read_text()) as asking:
                wait_until(lambda: len(asking.statuses) > 50)
                with started(log, release_after(tmp_path / "next"), *example) as following:
                    expect_serving(following, log)
                    assert store.schema().revision == NEXT
                    wait_until(lambda: schemas_alive(store) == {(NAME, NEXT): 2})
                    asked = len(asking.statuses)
                    wait_until(lambda: len(asking.statuses) > asked + 50)
            assert set(asking.statuses) == {"200"}
            open_store(settings).close()  # this release reads on, should it have to come back
            wait_until(lambda: set(asking.ids) <= set(raw_rows(settings, NAME)["request_id"]))


def expect_serving(process: "subprocess.Popen[str]", log: Path) -> None:
    assert process.stdout is not None
    while (line := process.stdout.readline()).strip() != "serving":
        assert line, log.read_text()[-4000:]


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.2)
