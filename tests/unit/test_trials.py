"""Trials as values, and the proposals of the next parameters."""

import json
import sys
from dataclasses import replace
from math import inf, nan
from statistics import mean, stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.tasks.binary import BINARY
from mlops_ray.training.candidates import GradientBoosting
from mlops_ray.training.proposal import middle, propose
from mlops_ray.training.trial import SearchResult, Step, Trial, best_so_far, best_trial
from mlops_ray.use_case import Choice, Integer, Parameters, Uniform

MAX = sys.float_info.max


def ended(number: int, value: float, candidate: str = "trees", status: str = "finished") -> Trial:
    steps = (Step(0.25, value / 2, 1.0), Step(1.0, value, 2.0)) if status == "finished" else (Step(0.25, value, 1.0),)
    return Trial(candidate, number, {"depth": 3}, f"run-{number}", status, "", steps)


def test_best_is_chosen_among_trials_with_their_full_budget() -> None:
    trials = (ended(0, 0.7), ended(1, 0.9, status="stopped"), ended(2, 0.8), ended(3, 0.8))
    assert best_trial(trials, BINARY.metrics["roc_auc"]) == trials[2]
    assert best_trial(trials[1:2], BINARY.metrics["roc_auc"]) is None
    assert best_trial(trials, BINARY.metrics["log_loss"]) == trials[0]


def test_result_survives_json() -> None:
    result = SearchResult("parent", "roc_auc", ended(0, 0.7), (ended(0, 0.7), ended(1, 0.6, "other", "stopped")))
    assert SearchResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_a_step_reached_before_a_restart_is_not_repeated() -> None:
    trial = ended(0, 0.7, status="stopped")
    assert trial.with_step(Step(0.25, 0.7, 9.0)) == trial
    assert trial.with_step(Step(0.5, 0.8, 9.0)).fraction == 0.5


def test_first_proposal_is_the_middle_of_the_space() -> None:
    space = {"rate": Uniform(0.01, 1.0, log=True), "depth": Integer(2, 6), "kind": Choice(("a", "b"))}
    assert middle(space) == {"rate": pytest.approx(0.1), "depth": 4, "kind": "a"}
    assert propose(GradientBoosting(space=space), 0, [], seed=1) == middle(space)


@pytest.mark.parametrize(
    ("space", "start", "first"),
    [
        (Integer(1, 5), 3.0, 3),
        (Uniform(1, 5), 3, 3.0),
        (Integer(1, 5), 3.5, 3),
        (Integer(1, 5), 1.5, 3),
        *(
            (dimension, one, 3)
            for dimension in (Integer(1, 5), Uniform(1, 5))
            for one in (inf, -inf, nan, None, "2", True)
        ),
    ],
)
def test_what_is_recorded_as_another_number_is_handed_over_as_declared_and_nonsense_is_not(
    space: Integer | Uniform, start: Any, first: float
) -> None:
    found = propose(GradientBoosting(space={"x": space}), 0, [], seed=1, start={"x": start})["x"]
    assert found == first
    assert type(found) is (int if isinstance(space, Integer) else float)


@given(st.data())
def test_the_middle_of_a_range_is_within_it(data: st.DataObject) -> None:
    log = data.draw(st.booleans())
    number = st.floats(5e-324 if log else -MAX, MAX)
    low, high = sorted(data.draw(st.lists(number, min_size=2, max_size=2, unique=True)))
    found = middle({"x": Uniform(low, high, log)})["x"]
    assert low <= found <= high  # type: ignore[operator]


def test_the_middle_of_very_small_and_very_large_numbers_is_none_of_their_ends() -> None:
    space = {"a": Uniform(1e-300, 1e-100, log=True), "b": Uniform(1e200, 1e300, log=True), "c": Uniform(1e308, 1.6e308)}
    assert middle(space) == {"a": pytest.approx(1e-200), "b": pytest.approx(1e250), "c": pytest.approx(1.3e308)}


def test_proposals_depend_only_on_seed_candidate_number_and_past() -> None:
    candidate = GradientBoosting()
    past = [Trial(candidate.name, 0, middle(candidate.space), "r", "finished", "", (Step(1.0, 0.7, 1.0),))]
    first = propose(candidate, 1, past, seed=1)
    assert propose(candidate, 1, past, seed=1) == first
    others = [propose(candidate, 2, past, seed=1), propose(candidate, 1, past, seed=2)]
    others.append(propose(GradientBoosting(name="other"), 1, past, seed=1))
    assert all(other != first for other in others)
    for name, dimension in candidate.space.items():
        assert dimension.low <= first[name] <= dimension.high


def test_proposals_learn_from_finished_stopped_and_failed_trials() -> None:
    candidate = GradientBoosting(space={"rate": Uniform(0.0, 1.0)})
    past = [
        Trial(candidate.name, n, {"rate": n / 20}, "r", "finished", "", (Step(1.0, 1 - abs(n / 20 - 0.8), 1.0),))
        for n in range(20)
    ]
    past += [Trial(candidate.name, 20, {"rate": 0.1}, "r", "stopped", "", (Step(0.25, 0.1, 1.0),))]
    past += [Trial(candidate.name, 21, {"rate": 0.2}, "r", "failed", "ValueError", ())]
    rates = [propose(candidate, n, past, seed=1)["rate"] for n in range(22, 30)]
    assert sum(abs(rate - 0.8) < 0.25 for rate in rates) >= 5


def test_the_sampler_learns_from_the_first_results_on() -> None:
    """After 20 trials it is ahead of as many at random, by what 8 seeds have in common."""
    names = ("a", "b", "c", "d")
    candidate = GradientBoosting(space={name: Uniform(0.0, 1.0) for name in names})

    def worth(parameters: Parameters) -> float:
        return -sum((float(parameters[name]) - 0.75) ** 2 for name in names)

    ahead = []
    for seed in range(8):
        past: list[Trial] = []
        for number in range(20):
            parameters = propose(candidate, number, past, seed)
            step = Step(1.0, worth(parameters), 1.0)
            past.append(Trial(candidate.name, number, parameters, "r", "finished", "", (step,)))
        blind = [propose(candidate, number, [], seed) for number in range(20)]
        ahead.append(max(trial.value or -9.0 for trial in past) - max(map(worth, blind)))
    assert mean(ahead) > 2 * stdev(ahead) / len(ahead) ** 0.5


def test_what_runs_counts_with_what_it_has_reached() -> None:
    candidate = GradientBoosting(space={"rate": Uniform(0.0, 1.0)})
    reached = [
        Trial(candidate.name, n, {"rate": n / 20}, "r", "running", "", (Step(0.5, 1 - abs(n / 20 - 0.8), 1.0),))
        for n in range(20)
    ]
    rates = [float(propose(candidate, n, reached, seed=1)["rate"]) for n in range(20, 28)]
    assert sum(abs(rate - 0.8) < 0.25 for rate in rates) >= 5


def test_trials_at_the_same_time_are_not_the_same_trial() -> None:
    candidate = GradientBoosting(space={"rate": Uniform(0.0, 1.0)})
    past = [Trial(candidate.name, n, {"rate": 0.5}, "r", "finished", "", (Step(1.0, 0.9, 1.0),)) for n in range(3)]
    rates: list[float] = []
    for number in range(3, 9):
        running = [Trial(candidate.name, 3 + at, {"rate": rate}, "r") for at, rate in enumerate(rates)]
        rates.append(float(propose(candidate, number, [*past, *running], seed=1)["rate"]))
    assert max(rates) - min(rates) > 0.2


def test_the_first_trial_starts_where_an_earlier_version_ended_if_that_lies_in_the_space() -> None:
    space = {"rate": Uniform(0.01, 1.0, log=True), "depth": Integer(2, 6), "kind": Choice(("a", "b"))}
    candidate = GradientBoosting(space=space)
    start = {"rate": 0.5, "depth": 3, "kind": "b"}
    assert propose(candidate, 0, [], seed=1, start=start) == start
    for other in ({"rate": 2.0}, {"depth": 2.5}, {"kind": "c"}, {"depth": True}, {"rate": "x"}):
        assert propose(candidate, 0, [], seed=1, start=start | other) == middle(space)
    assert propose(candidate, 0, [], seed=1, start={"rate": 0.5}) == middle(space)


def test_the_best_so_far_is_one_that_came_farthest_where_none_has_finished() -> None:
    auc = BINARY.metrics["roc_auc"]
    far = Trial("trees", 4, {}, "r", "stopped", "", (Step(0.25, 0.9, 1.0), Step(0.5, 0.6, 2.0)))
    trials = (ended(1, 0.95, status="stopped"), far, replace(far, number=5, status="failed"))
    assert best_so_far(trials, auc) == far
    assert best_so_far((*trials, ended(6, 0.5)), auc) == ended(6, 0.5)
    assert best_so_far((), auc) is None
