"""How trials are shared among candidates, and when a search has spent its budget."""

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.config import Prices
from mlops_ray.cost.prices import price
from mlops_ray.cost.usage import Usage
from mlops_ray.errors import ConfigurationError
from mlops_ray.tasks.binary import BINARY
from mlops_ray.training.budget import Budget
from mlops_ray.training.trial import Spent, Step, Trial
from mlops_ray.training.turns import next_candidate, trials_at_once
from mlops_ray.use_case import Resources, Search
from tests.integration.search_setting import Steady, make_use_case

AUC, LOSS = BINARY.metrics["roc_auc"], BINARY.metrics["log_loss"]


def tried(candidate: str, number: int, value: float | None, seconds: float = 1.0) -> Trial:
    if value is None:
        return Trial(candidate, number, {}, "run", "failed", "ImportError: no such package")
    return Trial(candidate, number, {}, "run", "finished", "", (Step(1.0, value, seconds, 2 * seconds),))


def shared(worths: dict[str, float | None], budget: Budget, seconds: dict[str, float] | None = None) -> Counter[str]:
    """How many trials each candidate gets whose trials all have the same value, one after another."""
    trials: list[Trial] = []
    while not budget.ended_by(Spent(len(trials), sum(t.seconds for t in trials), sum(t.cpu_seconds for t in trials))):
        name = next_candidate(list(worths), trials, budget, 2.0, AUC, at_once=1)
        assert name is not None
        number = sum(trial.candidate == name for trial in trials)
        trials.append(tried(name, number, worths[name], (seconds or {}).get(name, 1.0)))
    return Counter(trial.candidate for trial in trials)


def test_a_candidate_that_loses_stops_getting_trials() -> None:
    assert shared({"a": 0.6, "b": 0.8, "c": 0.7}, Budget(90)) == {"a": 10, "c": 25, "b": 55}


def test_every_candidate_is_tried_before_any_is_left_out() -> None:
    assert shared({"a": 0.6, "b": 0.8, "c": 0.7}, Budget(3)) == {"a": 1, "b": 1, "c": 1}
    assert shared({"a": 0.6}, Budget(4)) == {"a": 4}


def test_a_candidate_that_only_fails_is_out_after_two() -> None:
    assert shared({"lacking": None, "b": 0.8, "c": 0.7}, Budget(90))["lacking"] == 2
    assert shared({"lacking": None, "broken": None}, Budget(8)).total() == 8


def test_time_is_shared_by_what_trials_take_and_not_by_their_number() -> None:
    found = shared({"slow": 0.6, "quick": 0.7, "best": 0.9}, Budget(10_000, seconds=900), {"slow": 10.0})
    assert found["slow"] == 10
    assert found["quick"] >= 100
    assert found["best"] > 500


def test_money_is_shared_by_what_trials_cost_and_not_by_their_number() -> None:
    budget, trials = (
        Budget(10_000, cost=90.0, prices=Prices(currency="EUR", cpu_hour=0.0, gpu_hour=3600.0)),
        list[Trial](),
    )
    worths, costs = {"dear": 0.6, "cheap": 0.7, "best": 0.9}, {"dear": 1.0, "cheap": 0.1, "best": 0.1}
    while not budget.ended_by(budget.spent_by(trials)):
        name = next_candidate(list(worths), trials, budget, 2.0, AUC, at_once=1)
        assert name is not None
        trials.append(replace(tried(name, len(trials), worths[name]), used={"gpu_s": costs[name], "cpu_s": 99.0}))
    found = Counter(trial.candidate for trial in trials)
    assert found["dear"] == 10
    assert found["cheap"] >= 100
    assert found["best"] > 500
    assert budget.ended_by(budget.spent_by(trials)) == "cost: its 90 EUR were spent"


def test_a_search_costs_what_its_trials_used_by_the_prices_of_the_settings() -> None:
    prices = Prices(currency="EUR", cpu_hour=0.04, gpu_hour=2.5, memory_gb_hour=0.005, read_gb=0.1)
    used = Usage(wall_s=9.0, cpu_s=720.0, gpu_s=90.0, byte_s=4e12, read_bytes=10**10, written_bytes=10**9)
    trials = [Trial("a", at, {}, used=used.to_json()) for at in range(3)] + [Trial("a", 3, {})]
    spent = Budget(9, cost=9.0, prices=prices).spent_by(trials)
    assert spent.cost == pytest.approx(3 * price(used, prices).amounts["EUR"])
    assert spent.cost == pytest.approx(3 * (0.008 + 0.0625 + 0.005 * 4e3 / 3600 + 1.0))
    assert Budget(9).spent_by(trials).cost is None


@pytest.mark.parametrize(
    ("prices", "gpus", "message"),
    [
        (None, 0.0, r"Search\(cost=5\) of planes could not be counted: the settings have no prices. Set `prices`"),
        (Prices(currency="EUR", gpu_hour=2.0), 0.0, "no cpu_hour, and every trial uses CPUs. Set `prices.cpu_hour`"),
        (Prices(currency="EUR", cpu_hour=2.0), 0.5, "no gpu_hour, and its trials hold GPUs. Set `prices.gpu_hour`"),
    ],
)
def test_money_that_could_not_be_counted_is_refused(prices: Prices | None, gpus: float, message: str) -> None:
    case = make_use_case((Steady(), Steady("other")), trials=4)
    held = Search(trials_per_candidate=4, cost=5, resources={"other": Resources(gpus=gpus)})
    with pytest.raises(ConfigurationError, match=message):
        Budget.of(replace(case, search=held), prices)
    assert Budget.of(case, prices) == Budget(8)
    enough = Prices(currency="EUR", cpu_hour=0.0, gpu_hour=0.0)
    assert Budget.of(replace(case, search=held), enough) == Budget(8, cost=5, prices=enough)


def test_lower_is_better_where_the_metric_says_so() -> None:
    trials = [tried("a", 0, 0.2), tried("b", 0, 0.9)]
    assert next_candidate(["a", "b"], trials, Budget(4), 2.0, LOSS, 1) == "a"
    assert next_candidate(["a", "b"], trials, Budget(4), 2.0, AUC, 1) == "b"


def test_nobody_is_left_out_before_it_has_a_result() -> None:
    begun = Trial("b", 0, {}, "run", "running")
    assert next_candidate(["a", "b"], [tried("a", 0, 0.7), begun], Budget(4), 2.0, AUC, 2) is None
    reached = begun.with_step(Step(0.25, 0.8, 1.0))
    assert next_candidate(["a", "b"], [tried("a", 0, 0.7), reached], Budget(4), 2.0, AUC, 2) == "b"


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=7),
    st.integers(1, 12),
    st.floats(1.001, 100, allow_nan=False),
)
def test_the_budget_is_always_given_away_and_the_best_gets_the_most(
    worths: list[float], each: int, factor: float
) -> None:
    names = [f"c{at}" for at in range(len(worths))]
    budget, trials = Budget(each * len(names)), list[Trial]()
    while len(trials) < budget.trials:
        name = next_candidate(names, trials, budget, factor, AUC, 1)
        assert name is not None
        trials.append(tried(name, len(trials), worths[names.index(name)]))
    counts = Counter(trial.candidate for trial in trials)
    assert set(counts) == set(names)
    assert max(counts.values()) == counts[names[worths.index(max(worths))]]


def test_the_budget_that_is_spent_is_named() -> None:
    budget = Budget(10, seconds=60, cpu_seconds=100)
    assert budget.ended_by(Spent(9, 59, 99)) == ""
    assert budget.ended_by(Spent(10, 59, 99)) == "trials: all 10 trials were run"
    assert budget.ended_by(Spent(10, 60, 99)).startswith("seconds: its 60 seconds")
    assert budget.ended_by(Spent(9, 1, 100)).startswith("cpu_seconds: its 100 CPU seconds")
    assert not budget.cuts(Spent(10, 59, 99)), "the last trials run to their end"
    assert budget.cuts(Spent(9, 60, 0))
    budget = Budget(10, cost=2.5, prices=Prices(currency="EUR"))
    assert budget.ended_by(Spent(9, 59, 99, 2.4)) == ""
    assert budget.ended_by(Spent(9, 59, 99, 2.5)) == "cost: its 2.5 EUR were spent"
    assert budget.cuts(Spent(9, 59, 99, 2.5))


@pytest.mark.parametrize(("trials", "candidates", "most"), [(1, 1, 1), (9, 3, 3), (30, 3, 6), (300, 3, 60), (4, 4, 4)])
def test_a_search_has_rounds_to_learn_in_however_large_the_cluster(trials: int, candidates: int, most: int) -> None:
    assert trials_at_once(trials, candidates) == most
    assert math.ceil(trials / most) >= min(trials, 5) or most == candidates
