"""Calibration: what is found on the validation period before the last fit, and how well answers keep their word."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.errors import DataError
from mlops_ray.features.blocks import Rows
from mlops_ray.pipeline.periods import answers_to
from mlops_ray.tasks.days import days_of
from mlops_ray.tasks.evaluation import ReliabilityBin
from mlops_ray.tasks.scaling import METHODS, Scaling
from mlops_ray.tasks.task import Task
from mlops_ray.training.encoded_rows import labels_of, moments_of
from mlops_ray.training.fit import Memory, fit_trial
from mlops_ray.training.trial import Trial
from mlops_ray.use_case import Feature, UseCase

Answers = NDArray[np.float64]


# With fewer rows of a class on the validation period a calibration says more of chance.
_FEWEST = 20


@dataclass(frozen=True)
class Found:
    """task: with the threshold or interval that was found. method, calibration: None where there is none. validation:
    its effect on the validation period (see `effect`)."""

    task: Task
    method: str | None
    calibration: Scaling | None
    validation: Mapping[str, Any]


def find_on_validation(
    use_case: UseCase,
    train: Rows,
    validation: Rows,
    features: tuple[Feature, ...],
    trial: Trial,
    memory: Memory | None = None,
) -> Found:
    """Ask about the validation period a model that was fitted on the training period alone: the one to be sealed has
    seen these rows. A threshold is found on what the calibration makes of the answers.

    The trials were compared before, by their answers as they are, so that a calibration is no part of the value that
    chose between them. Raises DataError if there are too few rows for what is declared.
    """
    task = use_case.label.task
    labels = labels_of(validation, task)
    method = _method(use_case, task.rarest(labels))
    if not task.is_open and method is None:
        return Found(task, None, None, {})
    fitted = fit_trial(use_case, train, features, trial, memory=memory)
    answers = answers_to(validation, fitted.predict)
    days = days_of(moments_of(validation), use_case.zone())
    calibration, said = None, dict[str, Any]()
    if method is not None:
        calibration = METHODS[method](labels, answers)
        said = effect(task, labels, answers, _across(task, method, labels, answers, days))
        answers = calibration.apply(answers)
    return Found(task.decided(labels, answers, len(np.unique(days))), method, calibration, said)


def _method(use_case: UseCase, rarest: int) -> str | None:
    """rarest: how many rows there are of the class with the fewest. With too few, what nobody asked for is left out."""
    fit = use_case.fit
    if rarest >= _FEWEST:
        return fit.calibrated_by
    if fit.calibration is not None:
        raise DataError(
            f"The validation period has {rarest} rows of its rarest class, too few to calibrate by {fit.calibration} "
            f"(at least {_FEWEST} are needed). Give a longer one, or leave calibration out of Fit."
        )
    return None


def _across(task: Task, method: str, labels: NDArray[Any], answers: Answers, days: NDArray[np.intp]) -> Answers | None:
    """What the calibration of every other day makes of the days between, so that no answer is judged by itself; None
    where half of the days lack a class."""
    found = np.empty_like(answers)
    for half in (days % 2 == 0, days % 2 == 1):
        if task.shortfall(labels[~half]):
            return None
        found[half] = METHODS[method](labels[~half], answers[~half]).apply(answers[half])
    return found


def effect(task: Task, labels: NDArray[Any], before: Answers, after: Answers | None) -> dict[str, Any]:
    """What answers were worth before the calibration and after it, as JSON; see `kept_word`."""
    ways = {"before": before, "after": after}
    return {name: kept_word(task, labels, answers) for name, answers in ways.items() if answers is not None}


def kept_word(task: Task, labels: NDArray[Any], answers: Answers) -> dict[str, Any]:
    """The log loss, the expected calibration error, which chance alone lifts above 0, one that it does not
    (`debiased`), and the bins of both."""
    names, bins = ("log_loss", "calibration_error"), task.reliability(labels, answers)
    one_block, all_rows = np.zeros(len(labels), dtype=np.intp), np.ones((1, 1))
    values = task.values(names, labels, answers, one_block, all_rows)
    found = {name: float(values[name][0]) for name in names}
    return found | {"calibration_error_debiased": debiased(bins), "reliability": [asdict(one) for one in bins]}


def debiased(bins: tuple[ReliabilityBin, ...]) -> float:
    """The root mean square of what a bin's answers are off, without what chance adds to it: Kumar, Liang, Ma, "Verified
    uncertainty calibration", NeurIPS 2019, definition 4.1; 0 where chance explains it all."""
    rows = sum(one.rows for one in bins)
    squares = 0.0
    for one in bins:
        by_chance = one.observed * (1 - one.observed) / max(1, one.rows - 1)
        squares += one.rows / rows * ((one.probability - one.observed) ** 2 - by_chance)
    return float(np.sqrt(max(0.0, squares)))
