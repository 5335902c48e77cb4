"""How long the last fit may take, from what trials took."""

from dataclasses import replace
from datetime import timedelta

import pytest

from mlops_ray.training.ensemble import parameters_of
from mlops_ray.training.last_fit import last_fit_limit_s
from mlops_ray.training.trial import SearchResult, Step, Trial
from mlops_ray.use_case import Fit, Search, UseCase
from tests.integration.search_setting import Steady, make_use_case

HOUR_S = 3600.0


def case(fit: Fit | None = None, **search: float) -> UseCase:
    return replace(make_use_case((Steady(),), 1), search=Search(**search), fit=fit or Fit())  # type: ignore[arg-type]


def found(*steps: Step, looked_at: int | None = None) -> SearchResult:
    best = Trial("steady", 0, {"skill": 0.5}, steps=steps, status="finished")
    return SearchResult("run", "roc_auc", best, (best,), looked_at=looked_at)


def test_it_is_ten_times_what_the_trial_took_by_the_rows_for_each_of_two_fits() -> None:
    took = found(Step(0.5, 0.7, 1000.0), Step(1.0, 0.8, 2000.0))
    assert last_fit_limit_s(case(), took, 5_000) == 2 * 20_000
    on_a_tenth = replace(took, looked_at=500)
    assert last_fit_limit_s(case(), on_a_tenth, 5_000) == 2 * 200_000
    assert last_fit_limit_s(case(), replace(took, looked_at=9_000), 5_000) == 2 * 20_000, "of fewer rows than there are"
    assert last_fit_limit_s(case(), found(Step(0.5, 0.7, 1000.0)), 5_000) == 2 * 20_000, "it was stopped half-way"


def test_it_is_never_less_than_a_trial_may_take_or_than_an_hour() -> None:
    quick = found(Step(1.0, 0.8, 0.1))
    assert last_fit_limit_s(case(), quick, 5_000) == 2 * 14_400
    assert last_fit_limit_s(case(trial_seconds=1.0), quick, 5_000) == 2 * HOUR_S
    limited = Fit(time_limit=timedelta(hours=6))
    assert last_fit_limit_s(case(limited), quick, 5_000) == 2 * (14_400 + 6 * HOUR_S)
    assert last_fit_limit_s(case(), found(), 5_000) == 2 * 14_400, "nothing is known of its trial"


def test_what_is_declared_counts_alone() -> None:
    assert last_fit_limit_s(case(last_fit_seconds=5.0), found(Step(1.0, 0.8, 2000.0)), 5_000) == 5.0


def test_of_an_average_each_model_has_its_time() -> None:
    trials = tuple(
        Trial("steady", at, {"skill": 0.5}, steps=(Step(1.0, 0.8, seconds),))
        for at, seconds in enumerate((10, 5000, 9))
    )
    average = Trial("ensemble", 0, parameters_of(trials[:2], {"steady-000": 0.5, "steady-001": 0.5}))
    result = SearchResult("run", "roc_auc", replace(average, steps=(Step(1.0, 0.9, 0.0),)), (*trials, average))
    assert last_fit_limit_s(case(), result, 5_000) == pytest.approx(2 * (14_400 + 50_000))
