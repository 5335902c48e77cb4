"""The flights use case on six weeks of data, so that a whole pipeline takes a minute."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from mlops_ray import Search, Split, UseCase
from mlops_ray.training.candidates import GradientBoosting, LogisticRegression
from mlops_ray.use_case import BetterThanBaseline, load_use_case


def without_baseline(case: UseCase) -> UseCase:
    """Eight days to judge on may be too few to tell a model from none."""
    return replace(case, gates=tuple(gate for gate in case.gates if not isinstance(gate, BetterThanBaseline)))


use_case = replace(
    without_baseline(load_use_case(str(Path(__file__).parents[1] / "use_cases" / "flights.py"))),
    candidates=(LogisticRegression(), GradientBoosting()),
    search=Search(trials_per_candidate=2),
    split=Split(test=timedelta(days=8), gap=timedelta(days=2), validation=timedelta(days=8)),
)
