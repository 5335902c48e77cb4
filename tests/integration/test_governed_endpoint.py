"""A governor that `serve deploy` starts: it comes with the endpoint, is replaced with its policy, and ends with it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
import yaml

from mlops_ray.config import Settings
from mlops_ray.governance.alarms import raise_alarm
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.events import read_events as events_of
from mlops_ray.governance.versions import VersionRef
from mlops_ray.registry.models import register
from mlops_ray.registry.sealed_model import seal
from mlops_ray.serving.environment import serve_environment
from mlops_ray.testing.example_lineage import example_lineage
from mlops_ray.testing.example_model import example_answer, example_onnx, example_rows, example_schema
from mlops_ray.training.tracking import connect, experiment_id

NAME, PORT, DASHBOARD = "departures", 8277, 8278
OPEN = {"RAY_AUTH_MODE": "disabled"}
CLUSTER = f"""
import time, ray
ray.init(address="local", num_cpus=2, object_store_memory=200 << 20, include_dashboard=True,
         dashboard_port={DASHBOARD}, log_to_driver=False, logging_level="ERROR", _node_ip_address="127.0.0.1")
print("up", flush=True)
time.sleep(600)
"""
USE_CASE = """
from dataclasses import replace
from mlops_ray.use_case import Retraining
from tests.unit import test_governor
policy = Retraining(alarms=("{question}",), min_new_rows=1_000_000)
use_case = replace(test_governor.USE_CASE, name="departures", retraining=policy)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(state=str(tmp_path / "state"), data=str(tmp_path), http_port=PORT)
    Path(settings.state).mkdir()
    schema = replace(example_schema(), feature_service=None, feature_project=None)  # without an online store
    answers = [example_answer(row) for row in example_rows().to_dicts()]
    digest = seal(tmp_path / "sealed", example_onnx(), schema, example_rows(), answers, {})
    client = connect(settings)
    run = client.create_run(experiment_id(client, settings, NAME)).info.run_id
    register(settings, NAME, tmp_path / "sealed", example_lineage(NAME, digest), run, {}, "k1")
    store = open_store(settings)
    set_champion(store, SYSTEM, NAME, VersionRef(1, digest), "the example")
    raise_alarm(store, NAME, 1, "a1", "Concept drift", "warning", datetime.now(UTC), {"question": "concept"})
    return settings


@pytest.fixture
def cluster(settings: Settings) -> Iterator[psutil.Process]:
    variables = {**serve_environment(), "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1", **OPEN}
    environment = {**os.environ, **variables, "MLOPS_RAY_STATE": settings.state, "MLOPS_RAY_DATA": settings.data}
    with subprocess.Popen([sys.executable, "-c", CLUSTER], env=environment, stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"up\n"
        yield psutil.Process(driver.pid)
        driver.terminate()


def serve(*words: str) -> str:
    command = [str(Path(sys.executable).parent / "serve"), *words, "-a", f"http://127.0.0.1:{DASHBOARD}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **OPEN})
    assert done.returncode == 0, done.stderr
    return done.stdout


def deploy(folder: Path, question: str) -> None:
    """The same application with a use case whose policy listens to alarms on another question."""
    file = folder / f"{question}.py"
    file.write_text(USE_CASE.format(question=question))
    application = {
        "name": NAME,
        "route_prefix": f"/v2/models/{NAME}",
        "import_path": "mlops_ray.retraining.governed_endpoint:build_governed_endpoint",
        "args": {"model": NAME, "use_case": str(file), "max_replicas": 1},
    }
    config = {"http_options": {"host": "127.0.0.1", "port": PORT}, "applications": [application]}
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    serve("deploy", str(folder / "serve.yaml"))


def governors(cluster: psutil.Process) -> list[int]:
    found = []
    for process in cluster.children(recursive=True):
        try:
            if f"ServeReplica:{NAME}:governor" in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.3)


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_serve_deploy_starts_replaces_and_ends_the_governor(
    cluster: psutil.Process, settings: Settings, tmp_path: Path
) -> None:
    store = open_store(settings)

    def causes() -> list[str]:
        return [one.payload["cause"] for one in events_of(store, use_case=NAME, types=["retraining.decided"])]

    deploy(tmp_path, "data")
    wait_until(lambda: causes() == ["calm"])
    wait_until(lambda: "status: RUNNING" in serve("status"), 90)  # the endpoint beside it, too
    (first,) = governors(cluster)
    deploy(tmp_path, "concept")
    wait_until(lambda: causes() == ["calm", "few rows"])
    wait_until(lambda: len(governors(cluster)) == 1 and governors(cluster) != [first])
    serve("shutdown", "-y")
    wait_until(lambda: governors(cluster) == [])
