"""A run that makes no progress within its limit is stopped with an event, and whoever waits for it goes on."""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mlops_ray.config import Settings
from mlops_ray.cost.meter import Meter
from mlops_ray.cost.stall import Stall
from mlops_ray.cost.usage import Usage
from mlops_ray.errors import StalledError
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import read_events
from mlops_ray.governance.leases import holding
from mlops_ray.operations.carry_out import execute

HANGS = """
import sys, threading
from mlops_ray.config import Settings
from mlops_ray.cost import meter
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.leases import holding
meter._UNWINDS_WITHIN_S = 0.5
settings = Settings.model_validate_json(sys.argv[1])
store = open_store(settings)
def work():
    with meter.Meter(store, settings, "flights", may_end_process=True) as running, running.step("train", "k"):
        threading.Event().wait(60)
hangs = threading.Thread(target=work)
hangs.start()
hangs.join()
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=str(tmp_path), data=str(tmp_path), stall_limit_s=1.0)


@pytest.fixture
def store(settings: Settings) -> Iterator[ControlStore]:
    found = open_store(settings)
    yield found
    found.close()


def test_a_step_that_hangs_is_interrupted_and_the_same_goes_on(store: ControlStore, settings: Settings) -> None:
    began = time.monotonic()
    hung = pytest.raises(StalledError, match="since the step train began")
    with hung, holding(store, "run flights"), Meter(store, settings, "flights") as meter, meter.step("train", "k"):
        time.sleep(30)
    assert time.monotonic() - began < 10
    (event,) = read_events(store, types=["run.stalled"])
    assert (event.use_case, event.payload["limit_s"]) == ("flights", 1.0)
    with holding(store, "run flights"), Meter(store, settings, "flights") as meter, meter.step("train", "k"):
        pass


def test_what_cannot_be_interrupted_ends_with_its_process(store: ControlStore, settings: Settings) -> None:
    done = subprocess.run([sys.executable, "-c", HANGS, settings.model_dump_json()], timeout=30, check=False)
    assert done.returncode == 1
    assert len(read_events(store, types=["run.stalled"])) == 1


def test_trials_that_report_and_steps_that_end_are_progress(store: ControlStore, settings: Settings) -> None:
    with Meter(store, settings, "flights") as meter:
        for step in ("features", "train"):
            with meter.step(step, step):
                for _ in range(3):
                    time.sleep(0.6)
                    meter.trial("a", Usage(), "running")
    assert not read_events(store, types=["run.stalled"])


def test_without_a_limit_nothing_is_too_long() -> None:
    clock = [0.0]
    patient, other = Stall(0.0, lambda: clock[0]), Stall(60.0, lambda: clock[0])
    clock[0] = 60.0
    assert patient.decide() is None
    assert "(limit 0.0166667)" in str(other.decide())


def test_a_scheduled_run_that_does_not_end_is_stopped_and_has_failed(tmp_path: Path) -> None:
    began = time.monotonic()
    file = tmp_path / "hangs.py"
    file.write_text("import time; time.sleep(60)")
    command = ["features", "refresh", str(file), "--state", str(tmp_path)]
    code, said = execute({}, timedelta(seconds=4), command)
    assert (code != 0, time.monotonic() - began < 30) == (True, True)
    assert "had not ended after 0:00:04 (time_limit of its Schedule)" in said
