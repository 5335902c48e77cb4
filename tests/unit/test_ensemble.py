"""The average of the best few: its weights, when it is worth it, and the one file that it becomes."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from mlops_ray.errors import UseCaseError
from mlops_ray.registry.explanation import Inputs, explain
from mlops_ray.registry.onnx_model import OnnxModel
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.regression import Regression
from mlops_ray.tasks.task import Task
from mlops_ray.training.averaged import AveragedModel
from mlops_ray.training.candidates import GradientBoosting, LogisticRegression
from mlops_ray.training.encoding import Encoder
from mlops_ray.training.ensemble import Ensemble, Member, average, candidates_in, members_of, parameters_of
from mlops_ray.training.proposal import middle
from mlops_ray.training.trial import Trial
from mlops_ray.use_case import Candidate, Feature, FitData, FittedModel, Parameters, SearchSpace

FEATURES = (Feature("wind", "number"), Feature("origin", "category", ("JFK", "LGA")))
CANDIDATES: tuple[Candidate, ...] = (GradientBoosting(), LogisticRegression())
TRIALS = tuple(Trial(one.name, at, middle(one.space)) for at, one in enumerate(CANDIDATES))
WEIGHTS = {TRIALS[0].trial_id: 0.75, TRIALS[1].trial_id: 0.25}


def world(rows: int = 4000, seed: int = 1) -> tuple[NDArray[np.bool_], NDArray[np.intp], NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    score = random.normal(size=rows)
    return random.random(rows) < 1 / (1 + np.exp(-score)), np.arange(rows) // (rows // 40), score


def noisy(score: NDArray[np.float64], noise: float, seed: int) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-(score + np.random.default_rng(seed).normal(0, noise, len(score)))))


def test_models_that_err_independently_are_averaged_by_what_they_are_worth() -> None:
    labels, day, score = world()
    answers = {f"trees-{at:03d}": noisy(score, noise, 10 + at) for at, noise in enumerate((1.0, 1.0, 8.0))}
    found = average(answers, labels, day, BINARY, "log_loss", most=3)
    assert found.is_better
    assert sum(found.weights.values()) == pytest.approx(1.0)
    assert found.weights.get("trees-002", 0.0) < 0.2 < found.weights["trees-000"]
    assert len(average(answers, labels, day, BINARY, "log_loss", most=2).weights) <= 2
    assert average(answers, labels, day, BINARY, "log_loss", most=3) == found


@pytest.mark.parametrize("metric", ["roc_auc", "log_loss"])
def test_an_average_that_only_fits_the_noise_of_these_rows_is_not_taken(metric: str) -> None:
    """Models whose errors are the same but for a hair: of ten worlds at most one is called better by chance."""
    better = 0
    for seed in range(10):
        labels, day, score = world(1200, seed)
        shared = noisy(score, 1.0, 100 + seed)
        answers = {
            f"trees-{at:03d}": np.clip(shared + np.random.default_rng(at).normal(0, 1e-4, len(shared)), 1e-3, 1 - 1e-3)
            for at in range(6)
        }
        better += average(answers, labels, day, BINARY, metric, most=5).is_better
    assert better <= 1


def test_too_few_days_to_tell_is_no_improvement() -> None:
    labels, _, score = world()
    answers = {"a-000": noisy(score, 1.0, 1), "b-000": noisy(score, 1.0, 2)}
    assert not average(answers, labels, np.zeros(len(labels), dtype=np.intp), BINARY, "roc_auc", most=2).is_better


def test_too_few_rows_for_an_interval_in_a_part_of_the_days_end_no_search() -> None:
    """39 are needed, and three of four parts of 50 are fewer."""
    task, random, metric = Regression(coverage=0.95), np.random.default_rng(3), "mean_absolute_error"
    labels = random.normal(size=50)
    answers = {f"a-{at:03d}": labels + random.normal(size=50) for at in range(2)}
    found = average(answers, labels, np.arange(50) // 5, task, metric, most=2)
    assert found == average(answers, labels, np.arange(50) // 5, Regression(), metric, most=2)


def test_its_parameters_say_what_is_in_it() -> None:
    made = Trial("ensemble", 0, parameters_of(TRIALS, WEIGHTS))
    inside = members_of(made.parameters)
    assert {name: one.weight for name, one in inside.items()} == WEIGHTS
    assert {name: one.parameters for name, one in inside.items()} == {one.trial_id: one.parameters for one in TRIALS}
    assert candidates_in(made) == ("gradient_boosting", "logistic_regression")
    assert candidates_in(TRIALS[0]) == ("gradient_boosting",)


@pytest.mark.parametrize("name", ["weight", "own-000.weight", "p-123.q", "a b"])
@pytest.mark.parametrize("candidate", ["own", "m-123.x", "weight", "a-1000"])
def test_neither_candidates_nor_parameters_are_misread_by_their_names(candidate: str, name: str) -> None:
    trials = [Trial(candidate, at, {name: at + 2.0}) for at in range(2)]
    found = members_of(parameters_of(trials, {trials[0].trial_id: 0.75, trials[1].trial_id: 0.25}))
    assert {trial: (one.weight, one.parameters) for trial, one in found.items()} == {
        trials[0].trial_id: (0.75, {name: 2.0}),
        trials[1].trial_id: (0.25, {name: 3.0}),
    }


def test_averages_that_were_written_before_are_read() -> None:
    found = members_of({"own-000.weight": 0.75, "own-000.l2": 1.0, "own-001.weight": 0.25, "own-001.l2": 2.0})
    assert found == {"own-000": Member(0.75, {"l2": 1.0}), "own-001": Member(0.25, {"l2": 2.0})}
    for wrong in ("l2", "own-000"):
        with pytest.raises(UseCaseError, match=f"'{wrong}' of an average does not name a trial"):
            members_of({wrong: 1.0})


@dataclass
class Clock:
    """A candidate whose fits take `seconds`, or until the time is up, by a clock that stands still otherwise."""

    name: str = "clock"
    space: SearchSpace = field(default_factory=dict)
    now: float = 100.0
    given: list[float] = field(default_factory=list)

    def fit(self, data: FitData, parameters: Parameters) -> Iterator[tuple[float, FittedModel]]:
        assert data.ends_at is not None
        self.given.append(data.ends_at - self.now)
        self.now += min(float(parameters["seconds"]), self.given[-1])
        yield 1.0, LogisticRegression()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("seconds", "shares", "is_cut_short"),
    [((9, 9, 9), [1, 1, 1], True), ((0, 0.5, 1), [1, 1.5, 2.5], False), ((9, 0, 0), [1, 1, 2], True)],
)
def test_each_model_of_an_average_has_an_even_share_of_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, ...], shares: list[float], is_cut_short: bool
) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    trials = [Trial(clock.name, at, {"seconds": one}) for at, one in enumerate(seconds)]
    parameters = parameters_of(trials, dict.fromkeys((one.trial_id for one in trials), 1 / 3))
    data = FitData(np.zeros((4, 2), np.float32), np.arange(4) > 1, FEATURES, BINARY, 1, 1, ends_at=103.0)
    ((_, model),) = Ensemble((clock,)).fit(data, parameters)
    assert clock.given == shares
    assert isinstance(model, AveragedModel)
    assert model.with_models(*model.models).is_cut_short == is_cut_short


@pytest.mark.parametrize(
    "task", [BINARY, MultiClass(("early", "late", "never")), Regression()], ids=lambda task: task.kind
)
def test_it_is_one_onnx_file_that_answers_as_its_models_do(task: Task) -> None:
    random = np.random.default_rng(3)
    matrix = np.stack([random.normal(size=600), random.integers(0, 4, 600)], axis=1).astype(np.float32)
    matrix[::50, 0] = np.nan
    signal = np.nan_to_num(matrix[:, 0]) + matrix[:, 1] + random.normal(size=600)
    label = {"binary": signal > 1.5, "multiclass": np.digitize(signal, [0.5, 2.5]), "regression": signal}[task.kind]
    data = FitData(matrix, np.asarray(label), FEATURES, task, 1, 1)
    ((_, model),) = Ensemble(CANDIDATES).fit(data, parameters_of(TRIALS, WEIGHTS))
    alone = []
    for candidate, trial in zip(CANDIDATES, TRIALS, strict=True):
        *_, (_, one) = candidate.fit(data, trial.parameters)
        alone.append(WEIGHTS[trial.trial_id] * one.predict(matrix))
    assert np.abs(model.predict(matrix) - sum(alone)).max() < 1e-12
    served = OnnxModel(Encoder(FEATURES).wrap_onnx(model.to_onnx()), FEATURES, task)
    numbers = matrix[:, :1]
    texts = np.array(["?", "", "JFK", "LGA"], dtype=object)[matrix[:, 1].astype(int)][:, None]
    assert task.apart(served.answers(numbers, texts), model.predict(matrix)).max() <= 1e-5
    if task.width == 1:
        row, usual = Inputs(numbers[:1], texts[:1]), Inputs(numbers[1:30], texts[1:30])
        answer = served.answers(numbers[:1], texts[:1])[0]

        def additive(some: NDArray[np.float32], others: NDArray[np.object_]) -> NDArray[np.float64]:
            return task.additive(served.answers(some, others), answer)

        found = explain(additive, row, usual)
        assert float(found.base + found.contributions.sum()) == pytest.approx(float(additive(*vars(row).values())[0]))
