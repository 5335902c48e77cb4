"""What a backtest trains is chosen within the past, and what it finds has an interval for other days and seeds."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.retraining.backtest import over_seeds
from mlops_ray.retraining.chosen import choose
from mlops_ray.tasks.estimate import Estimate
from mlops_ray.training.candidates import LogisticRegression
from mlops_ray.use_case import Feature, Search, Uniform
from tests.unit.test_simulation import CASE, CHANGE, FEATURES, START, WORLD

ONE = replace(CASE, candidates=(LogisticRegression(),), search=Search(trials_per_candidate=3))


def test_what_is_chosen_knows_nothing_that_was_not_known_at_the_start() -> None:
    """Labels that were predicted before and known after it are left out, too."""
    start = CHANGE - timedelta(days=1)
    later = pl.col(LABEL_KNOWN_AT) > start
    changed = WORLD.with_columns(
        pl.when(later).then(~pl.col(LABEL)).otherwise(LABEL).alias(LABEL),
        pl.when(pl.col(PREDICTION_TIME) >= start).then(9.0).otherwise("x").alias("x"),
    )
    one, other = (choose(frame, ONE, FEATURES, start) for frame in (WORLD, changed))
    assert (one.parameters, one.value) == (other.parameters, other.value)
    assert one.value is not None
    assert one.value > 0.9
    other_seed = choose(WORLD, replace(ONE, search=replace(ONE.search, seed=7)), FEATURES, start)
    assert (other_seed.value or 0) > 0.9


def test_the_better_candidate_is_chosen_and_one_that_raises_is_passed_over() -> None:
    class Broken(LogisticRegression):
        def fit(self, *arguments: Any, **named: Any) -> Any:
            raise ValueError("no memory")

    broken = Broken(name="broken", space={"rate": Uniform(0, 1)})
    both = replace(ONE, candidates=(broken, LogisticRegression()))
    assert choose(WORLD, both, FEATURES, CHANGE).candidate == "logistic_regression"
    with pytest.raises(UseCaseError, match=r"broken: .*no memory"):
        choose(WORLD, replace(ONE, candidates=(broken,)), FEATURES, CHANGE)


@pytest.mark.parametrize(("days", "what"), [(0, "No label was known"), (2.1, "of 2 label values to")])
def test_a_start_before_there_is_anything_to_choose_by_is_said(days: float, what: str) -> None:
    features: Sequence[Feature] = FEATURES
    with pytest.raises(DataError, match=what):
        choose(WORLD, ONE, features, START + timedelta(days=days))


def test_more_seeds_do_not_make_the_days_more_certain() -> None:
    of_days = Estimate(0.02, 0.0, 0.04, 0.01, 20.0)
    one, same = over_seeds([of_days]), over_seeds([of_days] * 5)
    assert (one.value, one.error, same.error) == pytest.approx((0.02, 0.01, 0.01))
    apart = over_seeds([replace(of_days, value=value) for value in (0.0, 0.02, 0.04)])
    assert apart.error == pytest.approx(np.sqrt(0.01**2 + 0.02**2 / 3))
    assert apart.low is not None
    assert same.low is not None
    assert apart.low < same.low
    assert over_seeds([of_days, Estimate(0.04)]) == Estimate(0.03)


def test_the_interval_over_days_and_seeds_holds_its_level() -> None:
    """True gain 0; days and seeds add their noise. An interval without it comes at most about one time in 20."""
    random, missed, rounds = np.random.default_rng(0), 0, 2_000
    for _ in range(rounds):
        day = random.normal(0, 0.01)
        found = over_seeds([Estimate(day + random.normal(0, 0.01), 0, 0, 0.01, 30.0) for _ in range(3)])
        assert found.low is not None
        assert found.high is not None
        missed += not found.low < 0 < found.high
    assert missed / rounds < 0.065
