"""The average of the best few trials: which, with what weights, and as a candidate that is fitted like any other."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.errors import UseCaseError
from mlops_ray.tasks.days import blocks_of
from mlops_ray.tasks.estimate import Estimate, jackknife
from mlops_ray.tasks.evaluation import weights_without
from mlops_ray.tasks.task import Task
from mlops_ray.training.averaged import AveragedModel
from mlops_ray.training.scaled import last_model
from mlops_ray.training.trial import Trial
from mlops_ray.use_case import Candidate, FitData, FittedModel, Parameters, SearchSpace
from mlops_ray.use_case.search import ENSEMBLE

# How often a model is added; a weight is a multiple of one in so many.
_ROUNDS = 20
_FOLDS = 4
# What stands between the parts of a parameter's name; no candidate and no parameter has it in its own.
_BETWEEN, _WEIGHT = ":", "weight"
# As averages were written before: `<trial>.weight`, `<trial>.<parameter>`.
_WRITTEN_BEFORE = re.compile(r"(?P<trial>.+?-\d{3,})\.(?P<name>.+)")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Average:
    """weights: by trial. value: of the average, by weights that were found on the same rows. better_by: than the best
    single one, on days whose weights were found on other days."""

    weights: Mapping[str, float]
    value: float
    better_by: Estimate

    @property
    def is_better(self) -> bool:
        """Beyond what chance makes of these days, with 95 % certainty."""
        return len(self.weights) > 1 and self.better_by.low is not None and self.better_by.low > 0


def average(
    answers: Mapping[str, Floats], labels: NDArray[Any], day: NDArray[np.intp], task: Task, metric: str, most: int
) -> Average:
    """Of the models' answers to the same rows, the weighted mean of at most `most`.

    Greedy selection with replacement (Caruana, Niculescu-Mizil, Crew and Ksikes, "Ensemble selection from libraries of
    models", ICML 2004): from nothing on, the model is added with which the mean is best, `_ROUNDS` times, and the best
    of these means is taken. What it gains would be too good on the rows that chose it: it is judged where the weights
    of each of four stretches of days are those of the others, by the paired jackknife over days that compares versions.
    """
    names, block = list(answers), blocks_of(day)
    weights, value = _greedy(answers, labels, task, metric, most)
    fold = block * _FOLDS // (block.max() + 1)
    mixed = np.empty_like(answers[names[0]])
    for one in np.unique(fold):
        inside = fold == one
        elsewhere = {name: answers[name][~inside] for name in names}
        found = _weights_if_enough(elsewhere, labels[~inside], task, metric, most)
        mixed[inside] = _mean({name: answers[name][inside] for name in names}, found or {names[0]: 1.0})
    single = max(names, key=lambda name: task.metrics[metric].gain(_value(task, metric, labels, answers[name])))
    return Average(weights, value, _better_by(task, metric, labels, mixed, answers[single], block))


def _weights_if_enough(
    answers: Mapping[str, Floats], labels: NDArray[Any], task: Task, metric: str, most: int
) -> dict[str, float]:
    """None where there are too few rows, or kinds of label, to measure by."""
    if task.shortfall(labels):
        return {}
    return _greedy(answers, labels, task, metric, most)[0]


def _greedy(
    answers: Mapping[str, Floats], labels: NDArray[Any], task: Task, metric: str, most: int
) -> tuple[dict[str, float], float]:
    judged, counts = task.metrics[metric], dict[str, int]()
    total, best, best_value = np.zeros_like(next(iter(answers.values()))), dict[str, int](), 0.0
    for round_ in range(1, _ROUNDS + 1):
        allowed = answers if len(counts) < most else {name: answers[name] for name in counts}
        values = {name: _value(task, metric, labels, (total + allowed[name]) / round_) for name in allowed}
        name = max(values, key=lambda one: judged.gain(values[one]))
        total, counts = total + answers[name], {**counts, name: counts.get(name, 0) + 1}
        if not best or judged.gain(values[name]) > judged.gain(best_value):
            best, best_value = counts, values[name]
    return {name: count / sum(best.values()) for name, count in best.items()}, best_value


def _value(task: Task, metric: str, labels: NDArray[Any], answer: Floats) -> float:
    return float(_values(task, metric, labels, answer, np.zeros(len(labels), dtype=np.intp), np.ones((1, 1)))[0])


def _values(
    task: Task, metric: str, labels: NDArray[Any], answer: Floats, block: NDArray[np.intp], weights: Floats
) -> Floats:
    """The metric by weights of blocks, as of a trial: with what is found on these rows."""
    decided = task.decided(labels, answer, 1) if task.metrics[metric].of_decision else task
    return decided.values({metric}, labels, answer, block, weights)[metric]


def _better_by(
    task: Task, metric: str, labels: NDArray[Any], ours: Floats, theirs: Floats, block: NDArray[np.intp]
) -> Estimate:
    weights, judged = weights_without(block), task.metrics[metric]
    ours_, theirs_ = (_values(task, metric, labels, one, block, weights) for one in (ours, theirs))
    gain = theirs_ - ours_ if judged.lower_is_better else ours_ - theirs_
    widest = judged.highest - judged.lowest
    return jackknife(float(gain[0]), gain[1:], task.freedom(metric, labels, block), -widest, widest)


def _mean(answers: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    mean: Floats = np.sum([weight * answers[name] for name, weight in weights.items()], axis=0)
    return mean


def parameters_of(trials: Sequence[Trial], weights: Mapping[str, float]) -> dict[str, Any]:
    """The average as parameters of one candidate: of each trial in it `weight:<trial>` and `<trial>:<parameter>`."""
    members, found = {trial.trial_id: trial for trial in trials}, dict[str, Any]()
    for name, weight in weights.items():
        found[f"{_WEIGHT}{_BETWEEN}{name}"] = weight
        found |= {f"{name}{_BETWEEN}{key}": value for key, value in members[name].parameters.items()}
    return found


@dataclass(frozen=True)
class Member:
    """A trial in an average."""

    weight: float
    parameters: dict[str, Any]


def members_of(parameters: Parameters) -> dict[str, Member]:
    """By trial; the reverse of `parameters_of`. Raises UseCaseError for what is none of it."""
    weights, own = dict[str, float](), dict[str, dict[str, Any]]()
    for key, value in parameters.items():
        trial, _, name = key.partition(_BETWEEN)
        if match := _WRITTEN_BEFORE.fullmatch(key) if not name else None:
            trial, name = (_WEIGHT, match["trial"]) if match["name"] == _WEIGHT else match.groups()
        if not name:
            raise UseCaseError(f"The parameter {key!r} of an average does not name a trial. Search again.")
        if trial == _WEIGHT:
            weights[name] = float(value)
        else:
            own.setdefault(trial, {})[name] = value
    return {trial: Member(weight, own.get(trial, {})) for trial, weight in weights.items()}


def candidates_in(trial: Trial) -> tuple[str, ...]:
    """The names of the candidates that are fitted for a trial: its own, or those of the trials in an average."""
    if trial.candidate != ENSEMBLE:
        return (trial.candidate,)
    return tuple(dict.fromkeys(_candidate(name) for name in members_of(trial.parameters)))


def _candidate(trial_id: str) -> str:
    return trial_id.rpartition("-")[0]


@dataclass(frozen=True)
class Ensemble:
    """The average as a candidate. candidates: those of the use case. Its parameters say what is in it."""

    candidates: tuple[Candidate, ...]
    name: str = ENSEMBLE

    @property
    def space(self) -> SearchSpace:
        return {}

    @property
    def deterministic(self) -> bool:
        return all(getattr(one, "deterministic", True) for one in self.candidates)

    def fit(self, data: FitData, parameters: Parameters) -> Iterator[tuple[float, FittedModel]]:
        """Each of its models to the end, one after another, with an even share of the time that is left. Raises
        UseCaseError if a candidate is no longer there."""
        known = {candidate.name: candidate for candidate in self.candidates}
        members, models, is_cut_short = sorted(members_of(parameters).items()), list[FittedModel](), False
        for at, (trial, member) in enumerate(members):
            if (candidate := known.get(_candidate(trial))) is None:
                raise UseCaseError(
                    f"{trial} is in the average, and its candidate is not declared any more. Search again."
                )
            share = data.share_of_time(len(members) - at)
            models.append(last_model(candidate.fit(share, member.parameters), candidate.name))
            is_cut_short |= share.is_out_of_time()
        weights = tuple(member.weight for _, member in members)
        yield 1.0, AveragedModel(tuple(models), weights, data.task.output, is_cut_short)
