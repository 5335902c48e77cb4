"""A governor that waits for alarms says which of them the champion's watch cannot raise."""

from pathlib import Path
from typing import Any

import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import load_settings
from mlops_ray.errors import UnavailableError
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor
from mlops_ray.governance.versions import list_versions
from mlops_ray.monitoring.foreign_model import WithForeign, record_foreign
from mlops_ray.retraining.blind_champion import BlindChampion
from tests.unit.test_foreign_model import CASE, Nothing, foreign, table

__all__ = ["foreign"]
ANN = Actor("ann", ("operate", "serve"))


class Away(WithForeign):
    """A registry that can be away, and that counts what is asked of it."""

    asked, away = 0, False

    def find(self, *arguments: Any) -> Any:
        type(self).asked += 1
        if self.away:
            raise UnavailableError("MLflow does not answer.")
        return super().find(*arguments)


@pytest.fixture
def registry(foreign: bytes, store: ControlStore, tmp_path: Path) -> Away:
    settings = load_settings(state=str(tmp_path), data=str(tmp_path), control_store=store.url)
    record_foreign(settings, store, ANN, CASE, foreign, table(20, 2).drop("late"))
    return Away(Nothing(), store, Artifacts(settings.artifacts))


def test_what_a_champion_without_labels_cannot_show_is_read_once(registry: Away, store: ControlStore) -> None:
    blind = BlindChampion(registry, store, CASE.name)
    assert blind() == {}, "nothing is live"
    (version,) = list_versions(store, CASE.name)
    set_champion(store, ANN, CASE.name, version.ref, "the first")
    registry.away = True
    assert blind() == {}, "what cannot be read is not known, and does not stop the governor"
    registry.away = False
    assert set(blind()) == {"concept"}
    asked = registry.asked
    assert set(blind()) == {"concept"}
    assert registry.asked == asked
