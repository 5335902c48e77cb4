"""Rows that candidates are seldom given, and that they must take all the same."""

import gc

import lightgbm
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from mlops_ray.tasks.binary import Binary
from mlops_ray.tasks.scaling import platt, without_weights
from mlops_ray.testing.candidates import TASKS, check_nothing_known, check_nothing_to_learn
from mlops_ray.training.candidates import (
    GradientBoosting,
    LightGBM,
    LogisticRegression,
    NeuralNetwork,
    boosted_trees,
)
from mlops_ray.training.proposal import middle
from mlops_ray.training.scaled import scaled
from mlops_ray.use_case import Candidate, Feature, FitData, FittedModel

FEATURES = (Feature("a", "number"), Feature("b", "number"))
TREES = middle(GradientBoosting().space) | {"iterations": 8}


def rows(count: int, seed: int = 0) -> FitData:
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(count, 2)).astype(np.float32)
    return FitData(matrix, random.random(count) < 1 / (1 + np.exp(-matrix[:, 0])), FEATURES, Binary(), 1, 1)


def last(steps: object) -> FittedModel:
    *_, (_, model) = steps  # type: ignore[misc]
    return model  # type: ignore[no-any-return]


def exported(model: FittedModel, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    answer: NDArray[np.float32] = onnxruntime.InferenceSession(model.to_onnx()).run(None, {"matrix": matrix})[0]
    return answer


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_boosted_trees_take_a_column_that_nobody_knows_a_value_of(task: object) -> None:
    check_nothing_known(GradientBoosting(), TREES, task)  # type: ignore[arg-type]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("held_out", [None, 0.2])
def test_values_that_no_bin_is_found_by_are_no_values(
    monkeypatch: pytest.MonkeyPatch, weighted: bool, held_out: float | None
) -> None:
    """They come in the rows that are held out alone, or weigh nothing, or are so few that a sample has none."""
    data = rows(2_000)
    data.matrix[:1_999, 1] = np.nan
    weights = np.where(np.arange(2_000) < 1_900, 1.0, 0.0) if weighted else None
    monkeypatch.setattr(boosted_trees, "_BINNED_ROWS", 1_000)
    given = FitData(data.matrix, data.label, FEATURES, Binary(), 1, 1, weights, held_out)
    before = data.matrix.copy()
    model = last(GradientBoosting().fit(given, TREES))
    assert np.array_equal(data.matrix, before, equal_nan=True)
    other = data.matrix.copy()
    other[:, 1] = 7.0
    assert model.predict(other).tolist() == model.predict(data.matrix).tolist()
    assert exported(model, other) == pytest.approx(model.predict(other), abs=1e-6)


def test_light_gbm_takes_rows_that_are_all_alike() -> None:
    parameters = middle(LightGBM().space)
    check_nothing_to_learn(LightGBM(), parameters)
    half = FitData(np.full((50, 2), 0.1, np.float32), np.arange(50) % 2 == 0, FEATURES, Binary(), 1, 1)
    model = last(LightGBM().fit(half, parameters))
    assert exported(model, half.matrix) == pytest.approx(0.5)


def test_models_of_light_gbm_hold_none_of_the_rows_that_they_were_fitted_to() -> None:
    """Several are held at a time where quantiles are fitted, each to more rows than memory has room for twice."""
    models = [model for _, model in LightGBM().fit(rows(2_000), middle(LightGBM().space))]
    assert len(models) == 3
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, lightgbm.Dataset)]
    first, second, last = (model.predict(rows(500, 1).matrix) for model in models)
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, last)


@pytest.mark.parametrize(
    "candidate",
    [LogisticRegression(), LightGBM(), GradientBoosting(), pytest.param(NeuralNetwork(), marks=pytest.mark.torch)],
    ids=lambda candidate: candidate.name,
)
def test_weighted_models_of_a_rare_class_are_exported_as_they_answer(candidate: Candidate) -> None:
    random = np.random.default_rng(0)
    yes = random.random(20_000) < 0.002
    matrix = random.normal(size=(20_000, 2)).astype(np.float32)
    matrix[:, 0] += 9 * yes
    weights = np.where(yes, 0.5 / yes.mean(), 0.5 / (1 - yes.mean()))
    data = FitData(matrix, yes, FEATURES, Binary(), 1, 1, weights)
    fitted = last(candidate.fit(data, middle(candidate.space)))
    led_back = scaled(fitted, without_weights(np.array([weights.min(), weights.max()])), Binary())
    calibrated = scaled(led_back, platt(yes, led_back.predict(matrix)), Binary())
    for model in (led_back, calibrated):
        assert np.abs(exported(model, matrix) - model.predict(matrix)).max() < 2e-6


@pytest.mark.torch
@pytest.mark.parametrize("epochs", range(1, 9))
def test_a_network_takes_few_steps_of_any_number(epochs: int) -> None:
    data = rows(300)
    model = last(NeuralNetwork().fit(data, middle(NeuralNetwork().space) | {"epochs": epochs}))
    assert exported(model, data.matrix) == pytest.approx(model.predict(data.matrix), abs=1e-5)
