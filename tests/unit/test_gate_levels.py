"""What gates say by chance is as rare as they promise. `benchmarks/gates.py` does the same with more of everything.

A limit is passed by a gate that holds its level once in a million times.
"""

import pytest
from scipy import stats

from benchmarks.gates import better, slices_worse, unfair

RUNS = 300


def most(level: float) -> float:
    return float(stats.binom.ppf(1 - 1e-6, RUNS, level)) / RUNS


def least(share: float) -> float:
    return float(stats.binom.ppf(1e-6, RUNS, share)) / RUNS


@pytest.mark.parametrize("days", [2, 3, 4, 5, 7, 30])
def test_of_two_equal_models_none_is_better(days: int) -> None:
    assert better(RUNS, days) <= most(0.025)
    assert better(RUNS, days, unequal=True) <= most(0.025)


def test_a_better_model_is_found() -> None:
    assert better(RUNS, 20, gain=0.08) >= least(0.85)
    assert better(RUNS, 4, gain=0.08) == 0  # too few days to say


@pytest.mark.parametrize("days", [2, 5, 20])
def test_of_many_equal_slices_none_is_worse(days: int) -> None:
    for share in slices_worse(RUNS, days, (1, 10)).values():
        assert share <= most(0.05)


def test_a_slice_that_is_worse_is_found() -> None:
    found = slices_worse(RUNS, 20, (1, 10), loss=0.2)
    assert found[1] >= least(0.9)
    assert found[10] >= least(0.7)


@pytest.mark.parametrize("days", [2, 5, 20])
def test_of_groups_that_are_treated_alike_none_is_unfair(days: int) -> None:
    for groups in (2, 8):
        assert unfair(RUNS, days, groups) <= most(0.05)
        assert unfair(RUNS, days, groups, rate=0.1) <= most(0.05)
    assert unfair(RUNS, days, 2, 0.4, limit=0.1, difference=0.1) <= most(0.05)


def test_a_group_that_is_treated_otherwise_is_found() -> None:
    assert unfair(RUNS, 20, 2, 0.3, limit=0.1, difference=0.4) >= least(0.7)
