"""A trial is judged at half of its budget and no earlier, beside those of its own candidate."""

from types import SimpleNamespace

from ray.tune.schedulers import TrialScheduler

from mlops_ray.training.asha import AshaPerCandidate
from tests.integration.search_setting import Steady, make_use_case

STEPS = (0.25, 0.5, 1.0)


def decisions(scheduler: AshaPerCandidate, candidate: str, number: int, *values: float) -> list[str]:
    """What is decided at each step of a trial."""
    trial = SimpleNamespace(trial_id=f"{candidate}-{number:03d}", config={"candidate": candidate})
    scheduler.on_trial_add(None, trial)
    steps = zip(STEPS, values, strict=True)
    return [scheduler.on_trial_result(None, trial, {"fraction": at, "value": value}) for at, value in steps]


def test_who_is_behind_at_a_quarter_and_ahead_at_half_goes_on() -> None:
    scheduler = AshaPerCandidate(make_use_case((Steady(),), trials=4), [])
    decisions(scheduler, "steady", 0, 0.8, 0.8, 0.8)
    cautious = decisions(scheduler, "steady", 1, 0.5, 0.9, 0.95)
    assert cautious[:2] == [TrialScheduler.CONTINUE, TrialScheduler.CONTINUE]
    assert decisions(scheduler, "steady", 2, 0.85, 0.7, 0.7)[:2] == [TrialScheduler.CONTINUE, TrialScheduler.STOP]


def test_half_of_another_candidate_says_nothing() -> None:
    scheduler = AshaPerCandidate(make_use_case((Steady(), Steady("other")), trials=4), [])
    decisions(scheduler, "steady", 0, 0.9, 0.9, 0.9)
    assert decisions(scheduler, "other", 0, 0.1, 0.1, 0.1)[1] == TrialScheduler.CONTINUE
