"""What a replica uses is told by hour and version, and its resources and bounds are those that were declared."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlops_ray.config import Prices, Settings
from mlops_ray.cost import replica as replica_module
from mlops_ray.cost.prices import priced
from mlops_ray.cost.replica import ReplicaMeter
from mlops_ray.cost.service import ServiceMeter
from mlops_ray.cost.show import lines
from mlops_ray.cost.spending import spent_in
from mlops_ray.cost.usage import Usage
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.declared_resources import Resources, declare_resources, resources_of
from mlops_ray.governance.events import SYSTEM, read_events
from mlops_ray.governance.usage import month_of, now, read_prices, read_usage


class Used:
    """Work that has used the same each time."""

    def more(self) -> Usage:
        return Usage(wall_s=10, cpu_s=2, read_bytes=100, process_peak_bytes=7, asked_cpus=1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=str(tmp_path), data=str(tmp_path), prices=Prices(currency="EUR", cpu_hour=3600.0))


@pytest.fixture
def store(settings: Settings) -> Iterator[ControlStore]:
    found = open_store(settings)
    yield found
    found.close()


def test_what_a_replica_uses_is_split_by_the_answers_of_versions_and_by_hour(
    store: ControlStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [datetime(2026, 11, 28, 10, 59, tzinfo=UTC)]
    monkeypatch.setattr(replica_module, "now", lambda store: clock[0])
    counts: dict[int, int] = {}
    meter = ReplicaMeter(store, settings, "flights", lambda: 1, lambda: counts, Used())  # type: ignore[arg-type]
    for _ in range(6):
        meter.round()  # nobody asks: the champion holds it
    clock[0] += timedelta(minutes=2)
    counts.update({1: 300, 2: 100})
    meter.round()
    meter.end()
    rows = {(row.name, row.since.hour): Usage.from_json(row.quantities) for row in read_usage(store, "flights")}
    assert rows["1", 10].cpu_s == 12
    assert (rows["1", 11].cpu_s, rows["2", 11].cpu_s) == (1.5 + 2, 0.5)
    assert (rows["1", 11].predictions, rows["2", 11].predictions) == (300, 100)
    assert rows["2", 11].asked_cpus == 1
    found = {line.name: line for line in lines(read_usage(store), read_prices(store), "prediction", {})}
    assert found["flights@2"].per_thousand is not None
    assert found["flights@2"].per_thousand.amounts == {"EUR": pytest.approx(5.0)}
    assert found["flights@2"].per_thousand.unpriced == {"read_gb"}
    assert priced(read_usage(store), read_prices(store)).amounts["EUR"] == pytest.approx(16.0)


def test_what_is_declared_is_recorded_with_what_it_was_before(store: ControlStore) -> None:
    wanted = {"endpoint": Resources(0.5, 700, 1, 3), "evaluate": Resources(2.0)}
    assert declare_resources(store, SYSTEM, "flights", wanted, "advised") == ["endpoint", "evaluate"]
    assert declare_resources(store, SYSTEM, "flights", wanted, "again") == []
    assert resources_of(store, "flights") == wanted
    assert declare_resources(store, SYSTEM, "flights", {"evaluate": Resources()}, "undone") == ["evaluate"]
    told = [event for event in read_events(store) if event.type == "resources.changed"]
    assert [event.subject for event in told][-1] == "resources flights evaluate"
    assert told[-1].before == {"cpus": 2.0}
    assert told[-1].after is None


def test_what_a_watcher_uses_belongs_to_those_it_worked_for(store: ControlStore, settings: Settings) -> None:
    done: dict[str, float] = {}
    meter = ServiceMeter(store, settings, "drift", lambda: done, Used())  # type: ignore[arg-type]
    meter.round()
    assert not read_usage(store), "nobody has to pay for it yet"
    done |= {"flights": 3.0, "boats": 1.0}
    meter.round()
    meter.round()  # nothing was done: it stands ready for both
    found = {row.use_case: Usage.from_json(row.quantities).cpu_s for row in read_usage(store, kinds=["service"])}
    assert found == {"flights": 1.5 + 1.0, "boats": 0.5 + 1.0}
    assert {line.name for line in lines(read_usage(store), read_prices(store), "step", {})} == {"drift"}
    assert spent_in(store, "flights", month_of(now(store))).amounts == {"EUR": pytest.approx(2.5)}
