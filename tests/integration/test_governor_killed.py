"""The governor dies before and after each call that leaves it: still one retraining, one end, one request."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mlops_ray.governance.control_store import ControlStore
from mlops_ray.retraining import governor as governor_module
from tests.unit.test_governor import NOW, Cluster, Setting


class KilledError(BaseException):
    """As SIGKILL: nothing may catch it."""


def bombs(monkeypatch: pytest.MonkeyPatch, cluster: Cluster, at: int) -> Callable[[], int]:
    """Each call out of the governor is a place to die before, and one to die after; returns how many were passed."""
    passed = 0

    def armed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal passed
            for when in ("before", "after"):
                result = function(*arguments, **named) if when == "after" else None
                passed += 1
                if passed == at:
                    raise KilledError
            return result

        return call

    for name in ("history", "record_next", "find_result", "start_rollout", "champion_lineage"):
        monkeypatch.setattr(governor_module, name, armed(getattr(governor_module, name)))
    for name in ("phase", "start"):
        monkeypatch.setattr(cluster, name, armed(getattr(cluster, name)))
    return lambda: passed


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An empty control store."""
    file = tmp_path_factory.mktemp("store") / "store.db"
    store = ControlStore(f"sqlite:///{file}")
    store.migrate()
    store.close()
    return file.read_bytes()


@pytest.mark.parametrize("promote", [False, True])
def test_killed_at_each_step_it_is_still_one(
    tmp_path: Path, template: bytes, monkeypatch: pytest.MonkeyPatch, promote: bool
) -> None:
    folder, at = tmp_path, 0
    while True:
        at += 3 if promote else 1  # the steps are nearly the same
        folder = tmp_path / f"{promote}-{at}"
        folder.mkdir()
        (folder / "store.db").write_bytes(template)
        setting = Setting(folder, ControlStore(f"sqlite:///{folder}/store.db"))
        setting.alarm()
        with monkeypatch.context() as patch:
            passed = bombs(patch, setting.cluster, at)
            with suppress(KilledError):
                rounds_until_finished(setting, promote)
            survived = passed() < at
        rounds_until_finished(setting, promote)
        assert len(setting.cluster.orders) == 1, at
        assert len(setting.events("retraining.finished")) == 1, at
        assert len(setting.events("approval.requested")) == (0 if promote else 1), at
        assert len(setting.events("rollout.started")) == (1 if promote else 0), at
        setting.store.close()
        if survived:
            break
    assert at > 20


def rounds_until_finished(setting: Setting, promote: bool) -> None:
    for _ in range(4):
        setting.governor(promote=promote).round(NOW)
        if setting.cluster.orders and setting.cluster.phases[setting.cluster.orders[-1].submission] == "running":
            setting.cluster.end()
