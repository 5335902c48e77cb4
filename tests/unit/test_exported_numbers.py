"""Labels that are numbers of any size: an export that answers as its model is sealed, and another one is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from mlops_ray.errors import DataError
from mlops_ray.pipeline.sealing import ONNX_TOLERANCE, _difference
from mlops_ray.registry.onnx_model import OnnxModel
from mlops_ray.tasks.regression import Regression
from mlops_ray.tasks.stored import task_from_json, task_to_json
from mlops_ray.training.averaged import AveragedModel
from mlops_ray.training.candidates import GradientBoosting, LightGBM, NeuralNetwork
from mlops_ray.training.encoding import Encoder
from mlops_ray.training.proposal import middle
from mlops_ray.use_case import Candidate, Feature, FitData, FittedModel

FEATURES = tuple(Feature(f"x{at}", "number") for at in range(4))
CHEAPER = {"iterations": 30, "epochs": 2}
NETWORK = pytest.param((NeuralNetwork(),), marks=pytest.mark.torch)
FLOAT32 = float(np.finfo(np.float32).max)


def sums(deviation: float, mean: float = 0.0, rows: int = 3_000) -> FitData:
    random = np.random.default_rng(0)
    matrix = random.normal(size=(rows, 4)).astype(np.float32)
    noise = matrix @ np.array([0.72, 0.36, -0.36, 0.14]) + random.normal(size=rows) * 0.36
    return FitData(matrix, mean + deviation * noise, FEATURES, Regression("EUR"), 3, 1)


def fitted(candidate: Candidate, data: FitData) -> FittedModel:
    space = middle(candidate.space)
    *_, (_, model) = candidate.fit(data, space | {name: some for name, some in CHEAPER.items() if name in space})
    return model


def served_and_trained(
    candidates: tuple[Candidate, ...], data: FitData
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    models = [fitted(one, data) for one in candidates]
    model = AveragedModel(tuple(models), (0.25, 0.75), data.task.output) if models[1:] else models[0]
    served = OnnxModel(Encoder(FEATURES).wrap_onnx(model.to_onnx()), FEATURES, data.task)
    return served.answers(data.matrix, np.empty((len(data.matrix), 0), object)), model.predict(data.matrix)


@pytest.mark.parametrize(
    ("deviation", "mean"), [(1e-6, 0.0), (30.0, 0.0), (5_000.0, 0.0), (1e6, 0.0), (1e6, 1e6)], ids=str
)
@pytest.mark.parametrize(
    "candidates",
    [(LightGBM(),), (GradientBoosting(),), NETWORK, (LightGBM(), GradientBoosting())],
    ids=lambda some: "+".join(one.name for one in some),
)
def test_what_answers_as_it_was_trained_to_is_sealed_whatever_the_unit(
    candidates: tuple[Candidate, ...], deviation: float, mean: float
) -> None:
    data = sums(deviation, mean)
    served, trained = served_and_trained(candidates, data)
    task = data.task.with_scale(data.label)
    assert _difference(task, served, trained, "trees") <= ONNX_TOLERANCE / 10
    wrong = served + np.float32(1e-4 * deviation) * (np.arange(len(served)) == np.abs(trained).argmin())
    with pytest.raises(
        DataError, match=rf"trees answers \S+ to row {np.abs(trained).argmin()} of .* model \S+: .*1e-05"
    ):
        _difference(task, wrong, trained, "trees")


def test_an_export_that_answers_nothing_is_no_export() -> None:
    answers = np.array([1.0, 2.0, 3.0])
    with pytest.raises(DataError, match="answers nan to row 1 of the test period, the trained model 2: nan apart"):
        _difference(Regression(), np.array([1.0, np.nan, 4.0], np.float32), answers, "trees")


def test_the_scale_is_sealed_and_tasks_without_one_are_read_as_they_were() -> None:
    task = Regression("EUR", coverage=0.8, margins=(-1.0, 1.0)).with_scale(np.array([-300.0, 300.0]))
    assert task_from_json(json.loads(json.dumps(task_to_json(task)))) == task
    assert task.apart(np.array([3.0]), np.array([0.0])) == pytest.approx([0.01])
    before = task_from_json({"kind": "regression", "unit": "EUR", "estimand": "mean", "edges": []})
    assert before == Regression("EUR")
    assert before.apart(np.array([3.0]), np.array([0.0])) == pytest.approx([3.0])
    assert "deviation" not in task_to_json(before)
    assert replace(task, deviation=None).with_scale(np.array([-300.0, 300.0])) == task


@pytest.mark.parametrize("margins", [(-1e38, 1e38), (-3e38, -1e38), (1e38, 3e38)])
def test_an_interval_ends_within_float32_so_that_it_can_be_written_as_json(margins: tuple[float, float]) -> None:
    answers = np.array([-3e38, 0.0, 3e38], np.float32)
    rows = Regression(coverage=0.8, margins=margins).rows(answers)
    json.dumps(rows, allow_nan=False)
    assert all(-FLOAT32 <= row["low"] <= row["high"] <= FLOAT32 for row in rows)
