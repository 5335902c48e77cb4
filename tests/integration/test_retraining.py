"""The governor in the cluster: one retraining, whoever dies; and policies compared in parallel."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import ray

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, load_settings
from mlops_ray.cost.history import used_by
from mlops_ray.errors import UnavailableError
from mlops_ray.governance.alarms import raise_alarm
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import SYSTEM, Event, read_events
from mlops_ray.governance.live import VersionRef
from mlops_ray.retraining.backtest import backtest
from mlops_ray.retraining.chart import page
from mlops_ray.retraining.governor import ATTEMPTS
from mlops_ray.retraining.governor_actor import governor_name, start_governor, stop_governor
from mlops_ray.retraining.launcher import Launcher, Order
from mlops_ray.retraining.ray_jobs import dashboard_url
from mlops_ray.retraining.ray_launchers import NAMESPACE, ActorLauncher, JobLauncher, find_launcher
from mlops_ray.retraining.result import RESULTS
from mlops_ray.training.candidates import LogisticRegression
from mlops_ray.training.slots import threads_per_trial
from mlops_ray.use_case import Retraining, Search, UseCase
from tests.unit.test_governor import USE_CASE
from tests.unit.test_simulation import DRIFT, NEVER, SCENARIO, WORLD

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CASE = replace(USE_CASE, candidates=(LogisticRegression(),), approval=None, retraining=Retraining(min_new_rows=0))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(
        address="local", num_cpus=2, object_store_memory=200 << 20, include_dashboard=True, dashboard_port=8276,
        log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = load_settings(state=str(tmp_path), data=str(tmp_path))
    set_champion(open_store(found), SYSTEM, CASE.name, VersionRef(1, "d1"), "the first")
    return found


def alarm(store: ControlStore, id: str) -> None:
    raise_alarm(store, CASE.name, 1, id, f"Concept drift {id}", "warning", NOW, {"question": "concept"})


def events(store: ControlStore, type: str) -> list[Event]:
    return read_events(store, use_case=CASE.name, types=[type])


def wait_for_end(store: ControlStore, governor: Any, timeout_s: float = 40) -> Event:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        ray.get(governor.round.remote(NOW))
        if found := events(store, "retraining.finished"):
            return found[0]
        time.sleep(0.3)
    raise AssertionError("it did not end")


def test_a_governor_is_replaced_when_what_it_was_made_of_changes(
    cluster: None, settings: Settings, tmp_path: Path
) -> None:
    def started(case: UseCase) -> str:
        launcher = ActorLauncher(case.name, settings, tmp_path, "arrivals.py")
        governor = start_governor(case, settings, tmp_path, "arrivals", every_s=None, launcher=launcher)
        assert ray.get(governor.round.remote(NOW)).cause == "calm"
        return str(governor._actor_id.hex())

    first = started(CASE)
    assert started(CASE) == first
    changed = replace(CASE, retraining=Retraining(min_new_rows=1))
    second = started(changed)
    stop_governor(CASE.name)
    assert second != first


@pytest.mark.timeout(120)
def test_sixteen_alarms_at_once_start_one_retraining_though_the_governor_dies(
    cluster: None, settings: Settings, tmp_path: Path
) -> None:
    """There is no data, so the retraining fails at once; that it ran once is what counts."""
    store = open_store(settings)
    file = tmp_path / "arrivals.py"
    file.write_text("from tests.integration import test_retraining\n\nuse_case = test_retraining.CASE\n")
    launcher = ActorLauncher(CASE.name, settings, tmp_path, str(file))
    governor = start_governor(CASE, settings, tmp_path, "arrivals", every_s=None, launcher=launcher)
    ray.get(governor.round.remote(NOW))

    def raise_and_look(number: int) -> None:
        alarm(store, f"alarm-{number}")
        for _ in range(3):
            ray.get(governor.round.remote(NOW))

    threads = [threading.Thread(target=raise_and_look, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        ray.kill(ray.get_actor(governor_name(CASE.name), namespace=NAMESPACE), no_restart=False)
        time.sleep(0.3)
    for thread in threads:
        thread.join()
    finished = wait_for_end(store, governor)
    stop_governor(CASE.name)

    orders = [event for event in events(store, "retraining.decided") if event.payload["action"] == "retrain"]
    assert len(orders) == 1
    assert len(events(store, "retraining.finished")) == 1
    begun = [entry.name for entry in Artifacts(settings.artifacts).entries(RESULTS, CASE.name)]
    assert sum(name.endswith(".begun.json") for name in begun) == 1
    assert finished.payload["outcome"] == "failed"
    assert "trains" in finished.reason, "the source without files is named"


@pytest.mark.timeout(120)
def test_a_job_is_submitted_once_by_sixteen(cluster: None, tmp_path: Path) -> None:
    address = dashboard_url()
    assert address is not None
    marks = tmp_path / "marks"
    marks.mkdir()
    script = f"import sys, tempfile; tempfile.mkstemp(dir={str(marks)!r}); print(sys.argv)"
    launcher = JobLauncher(address, (sys.executable, "-c", script))
    order = Order("retrain-arrivals-abc-1", "retrain-arrivals-abc", NOW)
    deadline = time.monotonic() + 40

    def start() -> None:
        """As governors do, whose next round comes: a cluster that has just begun takes no jobs yet."""
        while time.monotonic() < deadline:
            with suppress(UnavailableError):
                launcher.start(order)
                return
            time.sleep(1)

    threads = [threading.Thread(target=start) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while launcher.phase(order.submission) != "ended" and time.monotonic() < deadline:
        time.sleep(0.3)
    launcher.start(order)
    assert launcher.phase(order.submission) == "ended"
    assert len(list(marks.iterdir())) == 1
    assert launcher.phase("retrain-arrivals-abc-2") == "new"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["job", "actor"])
def test_a_retraining_that_never_ends_is_stopped(cluster: None, settings: Settings, tmp_path: Path, kind: str) -> None:
    begun = tmp_path / "begun"
    hang = f"import os, pathlib, time; pathlib.Path({str(begun)!r}).write_text(str(os.getpid())); time.sleep(600)"
    file = tmp_path / "hangs.py"
    file.write_text(hang)
    launcher: Launcher
    if kind == "job":
        address = dashboard_url()
        assert address is not None
        launcher = JobLauncher(address, (sys.executable, "-c", hang))
    else:
        launcher = ActorLauncher(CASE.name, settings, tmp_path, str(file))
    order = Order(f"retrain-hangs-{kind}-1", f"retrain-hangs-{kind}", NOW)
    wait_until(lambda: attempt(lambda: launcher.start(order)) and begun.exists() and begun.read_text() != "")
    launcher.stop(order.submission)
    wait_until(lambda: launcher.phase(order.submission) == "ended")
    wait_until(lambda: not Path(f"/proc/{begun.read_text()}").exists())
    launcher.stop(order.submission)  # a governor that died before it recorded the end does it again
    launcher.start(order)
    assert launcher.phase(order.submission) == "ended"


ATTEMPT = """
import os, time
import polars as pl
import ray
from mlops_ray.retraining import retrain as retraining
from mlops_ray.training.candidates import LogisticRegression
from mlops_ray.use_case import Column, Label, Source, UseCase

@ray.remote(num_cpus=1)
def work():
    ends = time.process_time() + {burn_s}
    while time.process_time() < ends:
        pass
    time.sleep({sleep_s})

def die(*_):
    ray.get(work.remote())
    os.kill(os.getpid(), 9)

retraining._retrain = die
USE_CASE = UseCase(
    name="arrivals",
    sources={{"trains": Source("*.csv", (Column("train", "text"), Column("time", "timestamp")))}},
    entities=("train",),
    event_time="time",
    label=Label("late", pl.lit(True), pl.col("time")),
    candidates=(LogisticRegression(),),
)
"""


@pytest.mark.timeout(240)
def test_attempts_that_died_have_cost_what_they_used_and_those_that_waited_nothing(
    cluster: None, settings: Settings, tmp_path: Path
) -> None:
    store = open_store(settings)
    slept, burnt = tmp_path / "sleeps.py", tmp_path / "burns.py"
    slept.write_text(ATTEMPT.format(burn_s=0, sleep_s=3))
    burnt.write_text(ATTEMPT.format(burn_s=3, sleep_s=1))
    launcher = ActorLauncher(CASE.name, settings, tmp_path, str(slept))
    launcher.start(Order("retrain-sleeps-1", "retrain-sleeps", NOW))
    wait_until(lambda: launcher.phase("retrain-sleeps-1") == "ended")
    start_s = used_by(store, CASE.name, "retrain-sleeps").cpu_s
    assert start_s > 0, "starting processes is not for nothing"

    alarm(store, "alarm")
    launcher = ActorLauncher(CASE.name, settings, tmp_path, str(burnt))
    governor = start_governor(CASE, settings, tmp_path, "arrivals", every_s=None, launcher=launcher)
    finished = wait_for_end(store, governor, 120)
    stop_governor(CASE.name)
    assert finished.payload["outcome"] == "failed"
    assert finished.payload["cpu_hours"] * 3600 > ATTEMPTS * 2.5
    assert start_s < finished.payload["cpu_hours"] * 3600 - ATTEMPTS * 2


@pytest.mark.timeout(240)
def test_a_job_that_died_has_cost_what_its_workers_used(cluster: None, settings: Settings, tmp_path: Path) -> None:
    """As the governor submits it: the meter knows workers by what the command tells the Ray that the job runs in."""
    store, used_s = open_store(settings), dict[int, float]()
    for burn_s in (0, 6):
        file, id = tmp_path / f"burns_{burn_s}.py", f"retrain-burns-{burn_s}"
        file.write_text(ATTEMPT.format(burn_s=burn_s, sleep_s=2))
        launcher, order = find_launcher(CASE, settings, tmp_path, str(file)), Order(f"{id}-1", id, NOW)
        assert isinstance(launcher, JobLauncher)
        wait_until(lambda launcher=launcher, order=order: attempt(lambda: launcher.start(order)))
        wait_until(lambda launcher=launcher, id=id: launcher.phase(f"{id}-1") == "ended", 100)
        used_s[burn_s] = used_by(store, CASE.name, id).cpu_s
    assert used_s[0] > 0, "starting processes is not for nothing"
    assert used_s[6] - used_s[0] > 4


def wait_until(condition: Callable[[], bool], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def attempt(act: Callable[[], None]) -> bool:
    """Whether it worked: a cluster that has just begun takes no jobs yet."""
    with suppress(UnavailableError):
        act()
        return True
    return False


def test_the_job_api_is_used_where_there_is_one(cluster: None, settings: Settings, tmp_path: Path) -> None:
    found = find_launcher(CASE, settings, tmp_path, "use_cases/arrivals.py")
    assert isinstance(found, JobLauncher)
    assert found.command[3:6] == ("retraining", "run", str(Path("use_cases/arrivals.py").absolute()))


def test_a_trial_beside_an_endpoint_does_not_wait_for_the_cpus_that_it_holds(cluster: None) -> None:
    @ray.remote(num_cpus=1)
    class Replica:
        def ready(self) -> bool:
            return True

    assert threads_per_trial(1) == 2, "a machine of its own is used whole"
    replica = Replica.remote()
    assert ray.get(replica.ready.remote())
    deadline = time.monotonic() + 10
    while (threads := threads_per_trial(1)) > 1 and time.monotonic() < deadline:
        time.sleep(0.1)  # until the cluster has counted it
    assert ray.get(ray.remote(num_cpus=threads)(lambda: "fitted").remote(), timeout=20) == "fitted"
    ray.kill(replica)


@pytest.mark.timeout(120)
def test_policies_are_compared_on_the_same_rows(cluster: None, settings: Settings) -> None:
    url = Artifacts(settings.artifacts).write_table(WORLD, "training_sets", "world.parquet")
    case: UseCase = replace(CASE, monitoring=SCENARIO.use_case.monitoring)
    case = replace(case, search=Search(trials_per_candidate=2))
    span = SCENARIO.start, SCENARIO.end
    result = backtest(url, case, SCENARIO.features, *span, {"never": NEVER, "drift": DRIFT}, seeds=2)
    never, drift = result.policies
    assert never.difference is None
    assert drift.difference is not None
    assert drift.difference.low is not None
    assert drift.difference.low > 0
    assert [run.seed for run in drift.runs] == [case.search.seed, case.search.seed + 1]
    for run in drift.runs:
        assert sum(week.rows for week in run.weeks) == result.rows
        assert run.promoted >= 1
        assert run.cpu_hours > 0
    assert {run.cpu_hours for run in never.runs} == {0}
    assert {one.candidate for one in result.chosen} == {"logistic_regression"}
    assert json.loads(json.dumps(result.to_json()))["policies"][1]["policy"] == "drift"
    html = page(result)
    assert "<svg" in html
    assert "http" not in html.replace("http://www.w3.org", "")
