"""A run is measured part by part, whoever dies in it, and stops where the budget of the month is spent."""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlops_ray.config import Prices, Settings
from mlops_ray.cost import meter as meter_module
from mlops_ray.cost import spending
from mlops_ray.cost.meter import AROUND, Meter
from mlops_ray.cost.prices import digest_of
from mlops_ray.cost.processes import Process
from mlops_ray.cost.spending import Spending, judge, spent_in
from mlops_ray.cost.usage import Usage
from mlops_ray.errors import BudgetError, ConfigurationError
from mlops_ray.governance.budgets import Budget, set_budget, take_budget_away
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import SYSTEM, read_events
from mlops_ray.governance.usage import Part, Used, keep_prices, month_of, now, read_usage, write_usage

EUR = Prices(currency="EUR", cpu_hour=3600.0, memory_gb_hour=0, read_gb=0, written_gb=0)  # 1 EUR a CPU second
SPIN = "import time\nwhile time.process_time() < {s}: pass"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=str(tmp_path), data=str(tmp_path), prices=EUR)


@pytest.fixture
def store(settings: Settings) -> Iterator[ControlStore]:
    found = open_store(settings)
    yield found
    found.close()


def spin(seconds: float) -> None:
    subprocess.run([sys.executable, "-c", SPIN.format(s=seconds)], check=True)


def rows(store: ControlStore) -> dict[str, Used]:
    return {row.name: row for row in read_usage(store, "flights")}


def test_each_step_has_what_was_used_in_it(store: ControlStore, settings: Settings) -> None:
    with Meter(store, settings, "flights") as meter:
        with meter.step("ingest", "k1"):
            spin(0.3)
        with meter.step("train", "k2"):
            meter.asked(2, 1 << 30)
            spin(0.9)
    found = {name: Usage.from_json(row.quantities) for name, row in rows(store).items()}
    assert set(found) == {"ingest", "train", AROUND}
    assert 0.28 < found["ingest"].cpu_s < 0.65  # with the start of Python, and the meter itself
    assert 0.88 < found["train"].cpu_s < 1.3
    assert (found["train"].asked_cpus, found["train"].asked_bytes) == (2, 1 << 30)
    assert found["train"].peak_bytes > 10 << 20
    assert found["train"].read_bytes > 0
    assert found["train"].wall_s >= 0.9
    assert 0 < found["train"].cpus_within(0.9) < 1.5
    assert {row.state for row in rows(store).values()} == {"ended"}
    assert rows(store)["train"].key == "k2"


def test_gpus_that_trials_hold_are_the_steps_once_and_count_for_the_budget(
    store: ControlStore, settings: Settings
) -> None:
    priced = settings.model_copy(update={"prices": Prices(currency="EUR", cpu_hour=0, gpu_hour=3600.0)})
    with Meter(store, priced, "flights") as meter, meter.step("train", "k"):
        for name, gpu_s in (("a", 1.0), ("b", 2.0), ("a", 3.5), ("a", 3.5)):
            meter.trial(name, Usage(wall_s=1.0, gpu_s=gpu_s), "running")
    found = rows(store)
    assert [found[name].quantities["gpu_s"] for name in ("train", "a", "b")] == [5.5, 3.5, 2.0]
    set_budget(store, SYSTEM, Budget("flights", "", 5.0, "EUR"), "")
    with pytest.raises(BudgetError, match=r"5\.5 of 5 EUR"):
        Meter(store, priced, "flights").__enter__()


def test_a_killed_run_has_used_what_it_had_written(store: ControlStore, settings: Settings, tmp_path: Path) -> None:
    code = f"""
from mlops_ray.config import Settings
from mlops_ray.cost import meter
from mlops_ray.governance.control_store import open_store
import os, time
meter._WRITTEN_EVERY_S = 0.1
settings = Settings.model_validate_json({settings.model_dump_json()!r})
with meter.Meter(open_store(settings), settings, "flights") as running, running.step("train", "k"):
    began = time.process_time()
    while time.process_time() - began < 1.5: pass
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert rows(store)["train"].state == "running"
    assert 0.5 < rows(store)["train"].quantities["cpu_s"] < 1.7


def test_a_failed_step_and_its_repetition_both_count(store: ControlStore, settings: Settings) -> None:
    def attempt(code: str) -> None:
        with Meter(store, settings, "flights") as meter, meter.step("train", "k"):
            subprocess.run([sys.executable, "-c", SPIN.format(s=0.2) + code], check=True)

    with pytest.raises(subprocess.CalledProcessError):
        attempt("\nexit(1)")
    attempt("")
    found = read_usage(store, "flights", keys=["k"])
    assert [row.state for row in found] == ["failed", "ended"]
    month = month_of(now(store))
    assert spent_in(store, "flights", month).amounts["EUR"] > 0.4


def test_what_goes_on_into_the_next_month_belongs_to_both(
    store: ControlStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [datetime(2026, 12, 31, 23, 59, tzinfo=UTC)]
    monkeypatch.setattr(meter_module, "now", lambda store: clock[0])
    monkeypatch.setattr(meter_module, "_WRITTEN_EVERY_S", 0.1)
    with Meter(store, settings, "flights") as meter, meter.step("train", "k"):
        spin(0.6)
        time.sleep(0.7)  # it is written
        clock[0] += timedelta(minutes=2)
        spin(0.3)
    old, new = (row for row in read_usage(store, "flights", keys=["k"]))
    assert (old.since.month, new.since.month) == (12, 1)
    assert old.quantities["cpu_s"] + new.quantities["cpu_s"] == pytest.approx(1.0, abs=0.2)
    assert spent_in(store, "flights", old.since).amounts["EUR"] == pytest.approx(
        sum(row.quantities["cpu_s"] for row in read_usage(store, "flights", old.since, new.since)), abs=1e-3
    )


def test_a_spent_budget_interrupts_what_runs_and_refuses_what_would_begin(
    store: ControlStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter_module, "_WRITTEN_EVERY_S", 0.1)
    monkeypatch.setattr(meter_module, "_BUDGET_EVERY_S", 0.2)
    set_budget(store, SYSTEM, Budget("flights", "", 0.8, "EUR"), "")
    began = time.monotonic()
    with (
        pytest.raises(BudgetError, match=r"budget of flights .* is spent"),
        Meter(store, settings, "flights") as meter,
        meter.step("train", "k"),
    ):
        spin(20)
    assert time.monotonic() - began < 15
    with pytest.raises(BudgetError), Meter(store, settings, "flights"):
        pass
    with Meter(store, settings, "arrivals"):
        pass
    told = [event.type for event in read_events(store, use_case="flights")]
    assert told.count("budget.warned") == 1
    assert told.count("budget.exceeded") == 2
    set_budget(store, SYSTEM, Budget("flights", "", 100.0, "EUR"), "raised")
    with Meter(store, settings, "flights") as meter, meter.step("train", "k"):
        pass


def test_two_runs_at_once_share_one_budget(
    store: ControlStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter_module, "_EVERY_S", 60.0)  # it is looked at where a step begins and ends, and when asked
    set_budget(store, SYSTEM, Budget("flights", "", 0.5, "EUR"), "")
    with Meter(store, settings, "flights") as first:
        with Meter(store, settings, "flights") as second, second.step("train", "k"):
            spin(0.6)
        first.look_at_budget()
        with pytest.raises(BudgetError):
            first.expect_may_go_on()


def test_a_budget_in_another_currency_is_not_judged(store: ControlStore, settings: Settings) -> None:
    set_budget(store, SYSTEM, Budget("flights", "", 10.0, "USD"), "")
    with pytest.raises(ConfigurationError, match="is in USD, and the settings have prices in EUR"):
        Meter(store, settings, "flights").__enter__()
    unpriced = settings.model_copy(update={"prices": None})
    with pytest.raises(ConfigurationError, match="the settings have no prices"):
        Meter(store, unpriced, "flights").__enter__()
    assert take_budget_away(store, SYSTEM, "flights", "", "")
    assert not take_budget_away(store, SYSTEM, "flights", "", "")


@pytest.mark.parametrize(("spent", "verdict"), [(0.0, "go on"), (7.9, "go on"), (8.0, "warn"), (10.0, "stop")])
def test_a_budget_warns_before_it_stops(spent: float, verdict: spending.Verdict) -> None:
    assert judge(spent, Budget("flights", "", 10.0, "EUR")) == verdict
    assert judge(spent, Budget("flights", "", 0.0, "EUR")) == "stop"


def test_at_the_end_of_a_month_all_is_said_of_one(store: ControlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    january, february = datetime(2026, 1, 31, 23, 59, 59, 999_000, UTC), datetime(2026, 2, 1, 0, 0, 0, 1000, UTC)
    keep_prices(store, digest_of(EUR), EUR.model_dump())
    set_budget(store, SYSTEM, Budget("flights", "", 10.0, "EUR"), "")
    train = Part("r", "step", "train", "flights", "", digest_of(EUR))

    def decided(*shown: datetime) -> list[tuple[str, object, object]]:
        """With a clock that shows these one after the other."""
        moments = iter(shown)
        monkeypatch.setattr(spending, "now", lambda _: next(moments, shown[-1]))
        before = len(read_events(store))
        Spending(store, "flights", EUR, "r").decide()
        return [(one.type, one.payload["month"], one.payload["spent"]) for one in read_events(store)[before:]]

    write_usage(store, train, month_of(january), Usage(cpu_s=20).to_json(), "ended")
    assert decided(january, february) == [("budget.warned", "2026-01", 20.0), ("budget.exceeded", "2026-01", 20.0)]
    assert decided(february) == []
    write_usage(store, train, month_of(february), Usage(cpu_s=9).to_json(), "ended")
    assert decided(february) == [("budget.warned", "2026-02", 9.0)]


def test_a_look_that_fails_stops_neither_the_meter_nor_the_work(store: ControlStore, settings: Settings) -> None:
    class Gone:
        def look(self, here: str) -> dict[str, list[Process]]:
            raise RuntimeError("Ray is gone")

        def reset_peaks(self) -> None:
            """There is nobody."""

    with Meter(store, settings, "flights", elsewhere=Gone()) as meter, meter.step("train", "k"):
        spin(0.3)
    assert rows(store)["train"].quantities["cpu_s"] > 0.25


def test_a_step_that_runs_twice_in_a_run_counts_twice(store: ControlStore, settings: Settings) -> None:
    with Meter(store, settings, "flights") as meter:
        for _ in range(2):
            with meter.step("train", "k"):
                spin(0.3)
    assert rows(store)["train"].quantities["cpu_s"] > 0.58


def test_processes_on_other_nodes_count_and_those_of_a_node_that_is_gone(
    store: ControlStore, settings: Settings
) -> None:
    class Nodes:
        seen: tuple[Process, ...] = (Process(7, 1, 1, 5.0, 0.0, 100),)

        def look(self, here: str) -> dict[str, tuple[Process, ...]]:
            return {"there": self.seen}

        def reset_peaks(self) -> None:
            """They are made up."""

    nodes = Nodes()
    with Meter(store, settings, "flights", elsewhere=nodes) as meter, meter.step("train", "k"):
        nodes.seen = (Process(7, 1, 1, 25.0, 0.0, 300),)
        time.sleep(1.2)
        nodes.seen = ()
    assert rows(store)["train"].quantities["cpu_s"] == pytest.approx(20, abs=1)
