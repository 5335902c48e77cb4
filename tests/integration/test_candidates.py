"""Every candidate that we ship keeps the contract of use_case.Candidate."""

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest

from mlops_ray.tasks.task import Task
from mlops_ray.testing.candidates import CHECKS, QUANTILE, TASKS, fit_data, make_sample
from mlops_ray.training.candidates import (
    GradientBoosting,
    LightGBM,
    LinearRegression,
    LogisticRegression,
    NeuralNetwork,
)
from mlops_ray.use_case import Candidate, Integer, Parameters, Uniform

CANDIDATES: list[tuple[Candidate, Parameters]] = [
    (
        GradientBoosting(),
        {
            "learning_rate": 0.2,
            "iterations": 20,
            "max_leaf_nodes": 15,
            "min_samples_leaf": 20,
            "l2_regularization": 1.0,
        },
    ),
    (LogisticRegression(), {"l2": 1e-4, "iterations": 40}),
    (LinearRegression(), {"l2": 1e-4, "iterations": 40}),
    (
        LightGBM(),
        {
            "learning_rate": 0.1,
            "iterations": 20,
            "num_leaves": 15,
            "min_data_in_leaf": 20,
            "feature_fraction": 1.0,
            "lambda_l2": 0.1,
        },
    ),
    (NeuralNetwork(), {"learning_rate": 0.02, "width": 16, "dropout": 0.1, "weight_decay": 1e-4, "epochs": 24}),
]
IDS = [candidate.name for candidate, _ in CANDIDATES]


@pytest.mark.parametrize(("candidate", "parameters"), CANDIDATES, ids=IDS)
@pytest.mark.parametrize("task", [*TASKS, QUANTILE], ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_candidate_keeps_its_contract(
    check: Callable[[Candidate, Parameters, Task], None], task: Task, candidate: Candidate, parameters: Parameters
) -> None:
    check(candidate, parameters, task)


@pytest.mark.parametrize(("candidate", "parameters"), CANDIDATES, ids=IDS)
def test_default_search_space_names_the_parameters_that_fit_takes(candidate: Candidate, parameters: Parameters) -> None:
    assert set(candidate.space) == set(parameters)


def test_search_space_can_be_replaced_by_the_user() -> None:
    candidate = GradientBoosting(
        name="small_trees", space={"learning_rate": Uniform(0.1, 0.2), "iterations": Integer(5, 9)}
    )
    assert candidate.name == "small_trees"
    assert set(candidate.space) == {"learning_rate", "iterations"}


def test_trees_answer_alike_in_onnx_next_to_every_threshold() -> None:
    """float64 thresholds compared with float32 inputs: the row next to a threshold takes the same branch in both."""
    candidate, parameters = CANDIDATES[0]
    sample = make_sample()
    *_, (_, classifier) = candidate.fit(fit_data(sample), parameters)
    nodes = np.concatenate([tree.nodes for trees in classifier.model._predictors for tree in trees])
    splits = nodes[nodes["is_leaf"] == 0]
    assert len(splits) > 100
    matrix = np.repeat(sample.matrix[:1], 3 * len(splits), axis=0)
    thresholds = splits["num_threshold"].astype(np.float32)
    assert np.array_equal(thresholds, splits["num_threshold"])
    around = [np.nextafter(thresholds, np.float32(-np.inf)), thresholds, np.nextafter(thresholds, np.float32(np.inf))]
    matrix[np.arange(len(matrix)), np.tile(splits["feature_idx"], 3)] = np.concatenate(around)
    session = onnxruntime.InferenceSession(classifier.to_onnx(), providers=["CPUExecutionProvider"])
    answered = session.run(None, {"matrix": matrix})[0]
    assert np.abs(answered - classifier.predict(matrix)).max() < 1e-6
