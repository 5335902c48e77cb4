"""Who gives way leaves CPU and memory to what serves on the same machine, and cannot fail at it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from mlops_ray import giving_way
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.operations import local_ray
from mlops_ray.serving.environment import SERVE_ENVIRONMENT

SETUP_HOOK = "worker_process_setup_hook"
SAYS = "print(os.nice(0), os.sched_getscheduler(0) == os.SCHED_IDLE, open('/proc/self/oom_score_adj').read().strip())"


def after(call: str) -> list[str]:
    """Niceness, whether it is the scheduler's last, and how soon the kernel kills it: of what a process starts then."""
    code = f"import os, subprocess, sys\nfrom mlops_ray.giving_way import *\n{call}()\n"
    code += (
        f"print(subprocess.run([sys.executable, '-c', 'import os; ' + {SAYS!r}], capture_output=True).stdout.decode())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these priorities")
def test_workers_run_when_nobody_else_does_and_are_killed_first() -> None:
    assert after("give_way") == ["19", "True", "1000"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these priorities")
def test_who_holds_locks_that_serving_waits_for_gets_a_share_of_the_cpu() -> None:
    assert after("be_nice") == ["19", "False", "1000"]


def test_ray_runs_it_in_each_worker_by_its_name() -> None:
    module, _, name = giving_way.HOOK.rpartition(".")
    assert getattr(sys.modules[module], name) is giving_way.give_way


def test_who_may_not_give_way_works_as_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "nice", refuse)
    monkeypatch.setattr(os, "sched_setscheduler", refuse, raising=False)
    giving_way.be_nice(str(tmp_path / "no such process"))


def test_a_replica_is_not_killed_as_soon_as_a_run() -> None:
    """Ray gives all of its workers the same; who gives way is above it by half of the machine's memory."""
    assert int(SERVE_ENVIRONMENT["RAY_worker_oom_score_adjustment"]) <= 500


@pytest.mark.parametrize(
    ("address", "serving", "gives_way", "expected"),
    [
        ("10.0.0.1:6379", False, True, True),
        ("10.0.0.1:6379", True, True, False),  # its replicas would give way, too
        ("10.0.0.1:6379", False, False, False),
        ("", False, True, False),  # on a Ray of its own there is nobody to give way to
    ],
)
def test_who_does_not_serve_gives_way_on_a_ray_of_others(
    address: str, serving: bool, gives_way: bool, expected: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[str] = []
    monkeypatch.setattr(local_ray, "be_nice", lambda: done.append("driver"))
    monkeypatch.setattr(local_ray, "expect_can_work", lambda settings: None)
    monkeypatch.setattr(local_ray, "expect_can_serve", lambda settings: None)
    monkeypatch.setattr(ray, "init", lambda **given: done.append(str((given.get("runtime_env") or {}).get(SETUP_HOOK))))
    monkeypatch.setattr(local_ray.os, "environ", {"RAY_ADDRESS": address} if address else {})
    with local_ray.ray_for(Settings(state=str(tmp_path), data=str(tmp_path)), serving, gives_way):
        pass
    assert done == (["driver", giving_way.HOOK] if expected else ["None"])


def test_cpus_are_kept_for_what_serves_and_some_are_left_for_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(local_ray, "expect_can_work", lambda settings: None)
    monkeypatch.setattr(ray, "init", lambda **options: given.update(options))
    monkeypatch.setattr(local_ray.os, "environ", {})
    settings = Settings(state=str(tmp_path), data=str(tmp_path), num_cpus=4, serving_cpus=3)
    with local_ray.ray_for(settings):
        pass
    assert (given["num_cpus"], given["resources"]) == (1, {"serving_cpus": 3})
    with pytest.raises(ConfigurationError, match="serving_cpus is 4 of num_cpus 4, so runs would have none"):
        local_ray.prepare_ray(settings.model_copy(update={"serving_cpus": 4}))
