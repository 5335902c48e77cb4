"""The average of the best few: its weights, when it is worth it, and the one file that it becomes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from mlops_ray.registry.explanation import Inputs, explain
from mlops_ray.registry.onnx_model import OnnxModel
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.regression import Regression
from mlops_ray.tasks.task import Task
from mlops_ray.training.candidates import GradientBoosting, LogisticRegression
from mlops_ray.training.encoding import Encoder
from mlops_ray.training.ensemble import Ensemble, average, candidates_in, members_of, parameters_of
from mlops_ray.training.proposal import middle
from mlops_ray.training.trial import Trial
from mlops_ray.use_case import Candidate, Feature, FitData

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


@pytest.mark.parametrize(("metric", "rows"), [("mean_absolute_error", 50), ("coverage", 50), ("coverage", 500)])
def test_too_few_rows_for_an_interval_in_a_part_of_the_days_end_no_search(metric: str, rows: int) -> None:
    """39 are needed, and three of four parts of 50 are fewer."""
    task, random = Regression(coverage=0.95), np.random.default_rng(3)
    labels = random.normal(size=rows)
    answers = {f"a-{at:03d}": labels + random.normal(size=rows) for at in range(2)}
    found = average(answers, labels, np.arange(rows) // (rows // 10), task, metric, most=2)
    assert sum(found.weights.values()) == pytest.approx(1)
    if metric != "coverage":
        assert found == average(answers, labels, np.arange(rows) // 5, Regression(), metric, most=2)


def test_its_parameters_say_what_is_in_it() -> None:
    made = Trial("ensemble", 0, parameters_of(TRIALS, WEIGHTS))
    inside = members_of(made.parameters)
    assert {name: one.pop("weight") for name, one in inside.items()} == WEIGHTS
    assert inside == {trial.trial_id: dict(trial.parameters) for trial in TRIALS}
    assert candidates_in(made) == ("gradient_boosting", "logistic_regression")
    assert candidates_in(TRIALS[0]) == ("gradient_boosting",)


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
