"""The scheduler as an actor: what is due is run by Ray, as jobs or as actors, though it dies meanwhile."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import ray

from mlops_ray.config import Settings, load_settings
from mlops_ray.governance import schedule_runs
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.schedule_runs import runs
from mlops_ray.governance.schedules import Wanted, declare
from mlops_ray.operations.run_launchers import NAMESPACE, RunActors, RunJobs, find_run_launcher
from mlops_ray.operations.scheduler import Scheduler
from mlops_ray.operations.scheduler_actor import NAME, start_scheduler
from tests.unit.test_schedule_commands import CASE

DUE = datetime(2024, 5, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(
        address="local", num_cpus=2, object_store_memory=200 << 20, include_dashboard=True, dashboard_port=8277,
        log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(state=str(tmp_path / "state"), data=str(tmp_path))


@pytest.fixture
def file(tmp_path: Path, settings: Settings) -> str:
    """A use case whose audit log is verified once a year, so that nothing but what is asked for is due."""
    file = tmp_path / "trains.py"
    file.write_text(CASE)
    wanted = (Wanted("audit", "0 0 1 1 *", "UTC", True), Wanted("ingest", "0 0 1 1 *", "UTC", True))
    declare(open_store(settings), SYSTEM, "trains", str(file), str(tmp_path), wanted)
    return str(file)


def states(settings: Settings) -> list[str]:
    return [run.state for run in runs(open_store(settings), "trains")]


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("file")
def test_jobs_carry_out_what_is_due_though_the_scheduler_dies(cluster: None, settings: Settings) -> None:
    store = open_store(settings)
    launcher = find_run_launcher(settings, None)
    assert isinstance(launcher, RunJobs)
    first = start_scheduler(settings)
    try:
        assert start_scheduler(settings)._actor_id == first._actor_id
        schedule_runs.backfill(store, SYSTEM, "trains", "audit", [DUE, DUE + HOUR], "a test")
        for begun in ({"running"}, {"succeeded"}):
            wait_until(lambda begun=begun: bool(begun & set(states(settings))))
            ray.kill(ray.get_actor(NAME, namespace=NAMESPACE), no_restart=False)
        wait_until(lambda: states(settings) == ["succeeded"] * 2)
        found = runs(store, "trains")
        assert [(run.attempt, run.state) for run in found] == [(1, "succeeded")] * 2
        assert found[1].started_at is not None
        assert found[0].ended_at is not None
        assert found[0].ended_at <= found[1].started_at
        changed = settings.model_copy(update={"drift_watchers": 3})
        assert start_scheduler(changed)._actor_id != first._actor_id
    finally:
        ray.kill(ray.get_actor(NAME, namespace=NAMESPACE))


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("file")
def test_actors_do_where_ray_has_no_jobs_and_a_failure_is_kept(cluster: None, settings: Settings) -> None:
    store = open_store(settings)
    options = ("--state", settings.state, "--data", settings.data)
    scheduler = Scheduler(store, RunActors(settings.artifacts, options))
    schedule_runs.backfill(store, SYSTEM, "trains", "audit", [DUE], "a test")
    schedule_runs.backfill(store, SYSTEM, "trains", "ingest", [DUE], "a test")

    def ended() -> bool:
        scheduler.round()
        return not {"waiting", "running"} & set(states(settings))

    wait_until(ended)
    (succeeded,), (failed,) = (runs(store, "trains", operation) for operation in ("audit", "ingest"))
    assert (succeeded.state, succeeded.attempt) == ("succeeded", 1)
    assert (failed.state, failed.attempt) == ("failed", 1)
    assert "trains" in failed.detail, "the source without files is named"
