"""A retraining that the clock asks for: decided on by the governor, and seen to its end."""

from dataclasses import replace
from pathlib import Path

import pytest

from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM
from mlops_ray.retraining import asked as asked_module
from mlops_ray.retraining.asked import Asked, ask_for_retraining
from mlops_ray.retraining.launcher import Order
from tests.unit.test_governor import DAY, NOW, RETRAINING, USE_CASE, Cluster, Setting

LATER = NOW + 10 * DAY


class Quick(Cluster):
    """Whatever is started has ended at once."""

    def start(self, order: Order) -> None:
        super().start(order)
        if self.phases[order.submission] == "running":
            self.end("worse")


@pytest.fixture
def setting(tmp_path: Path, store: ControlStore, monkeypatch: pytest.MonkeyPatch) -> Setting:
    """A use case that was trained again once, by an alarm, and whose governor asks for nothing by itself."""
    monkeypatch.setattr(asked_module, "_LOOK_EVERY_S", 0.0)
    made = Setting(tmp_path, store)
    made.alarm()
    made.governor().round(NOW)
    made.cluster.end("worse")
    made.governor().round(NOW + DAY)
    return made


def ask(setting: Setting, rows: int = 50_000) -> Asked:
    case = replace(USE_CASE, retraining=replace(RETRAINING, alarms=()))
    launcher = Quick(setting.settings)
    return ask_for_retraining(case, setting.settings, setting.store, launcher, lambda *_: rows, SYSTEM, LATER)


def test_it_is_retrained_without_an_alarm_and_the_end_is_told(setting: Setting) -> None:
    done = ask(setting)
    assert (done.outcome, done.reason) == ("worse", "In words.")
    assert [event.payload["id"] for event in setting.events("retraining.finished")][-1] == done.id
    assert setting.causes().count("schedule") == 1


def test_the_limits_hold_and_say_why_there_is_none(setting: Setting) -> None:
    assert ask(setting, rows=3).reason.startswith("3 labels came since the last training")
    assert len(setting.events("retraining.finished")) == 1


def test_asked_again_at_once_it_does_not_train_again(setting: Setting) -> None:
    first, second = ask(setting), ask(setting)
    assert first.id is not None
    assert second.id is None
    assert len(setting.events("retraining.finished")) == 2


def test_a_use_case_that_declares_none_is_refused(setting: Setting) -> None:
    case = replace(USE_CASE, retraining=None)
    with pytest.raises(ConfigurationError, match="Add retraining="):
        ask_for_retraining(case, setting.settings, setting.store, setting.cluster, lambda *_: 0, SYSTEM, LATER)
