"""A model fitted a block at a time is the one fitted at once, or as good; and memory alone decides which it is."""

from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from mlops_ray.errors import ConfigurationError
from mlops_ray.features.parts import Part
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.regression import Regression
from mlops_ray.tasks.task import Task
from mlops_ray.testing.candidates import fit_data, make_sample
from mlops_ray.training import shared_data
from mlops_ray.training.candidates import GradientBoosting, LightGBM, LogisticRegression, NeuralNetwork
from mlops_ray.training.candidates.network import Moments
from mlops_ray.training.candidates.network_blocks import Place, State, fit_at, learned, moments_of, untrained
from mlops_ray.training.fitted_on import FittedOn, fitted_on
from mlops_ray.use_case import Feature, FitBlocks, FitData, LargeCandidate, Search

TREES = {"learning_rate": 0.3, "iterations": 30, "num_leaves": 15, "min_data_in_leaf": 5, "feature_fraction": 0.7}
NETWORK = {"learning_rate": 0.02, "width": 32, "dropout": 0.1, "weight_decay": 1e-5, "epochs": 6}
NUMBERS = tuple(Feature(f"x{n}", "number") for n in range(3))
GB = 1 << 30


@dataclass(frozen=True)
class InMemory:
    """Blocks of at most so many rows."""

    matrix: NDArray[np.float32]
    size: int = 700
    reads: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.matrix)

    def __getitem__(self, rows: slice) -> Self:
        return replace(self, matrix=self.matrix[rows])

    @property
    def sizes(self) -> list[int]:
        return [len(self.matrix[at : at + self.size]) for at in range(0, len(self.matrix), self.size)]

    def read(self, number: int) -> NDArray[np.float32]:
        self.reads.append(number)
        return self.matrix[number * self.size : (number + 1) * self.size]


def in_blocks(data: FitData) -> FitBlocks:
    given = {name: value for name, value in vars(data).items() if name != "matrix"}
    return FitBlocks(InMemory(data.matrix), **given)


def binary(rows: int = 6_000, **given: Any) -> FitData:
    random = np.random.default_rng(4)
    matrix = random.normal(size=(rows, 3)).astype(np.float32)
    label = random.random(rows) < 1 / (1 + np.exp(-2 * matrix[:, 0]))
    matrix[random.random(matrix.shape) < 0.1] = np.nan
    return FitData(matrix, label, NUMBERS, BINARY, seed=1, threads=1, **given)


def log_loss(model: Any, data: FitData) -> float:
    return float(data.task.losses(data.label, model.predict(data.matrix)).mean())


@pytest.mark.parametrize("task", [BINARY, MultiClass(("early", "on time", "late")), Regression()], ids=str)
@pytest.mark.parametrize("held_out", [None, 0.2])
def test_trees_from_blocks_are_those_from_the_matrix(task: Task, held_out: float | None) -> None:
    data = fit_data(make_sample(task), held_out=held_out)
    data = replace(data, weights=np.linspace(0.5, 1.5, len(data.label)))
    *_, (_, whole) = LightGBM().fit(data, TREES)
    *_, (_, found) = LightGBM().fit_blocks(in_blocks(data), TREES)
    assert np.array_equal(found.predict(data.matrix), whole.predict(data.matrix))
    assert found.to_onnx() == whole.to_onnx()


@pytest.mark.parametrize("held_out", [None, 0.2])
def test_a_network_from_blocks_is_as_good_as_from_the_matrix(held_out: float | None) -> None:
    data = binary(held_out=held_out)
    *_, (_, whole) = NeuralNetwork().fit(data, NETWORK)
    *_, (_, found) = NeuralNetwork().fit_blocks(in_blocks(data), NETWORK)
    *_, (_, again) = NeuralNetwork().fit_blocks(in_blocks(data), NETWORK)
    assert abs(log_loss(found, data) - log_loss(whole, data)) < 0.01
    assert np.array_equal(found.predict(data.matrix), again.predict(data.matrix))


def test_a_network_that_is_killed_after_each_epoch_becomes_the_same() -> None:
    data = in_blocks(binary(held_out=0.2))
    moments = moments_of(data)
    once = fit_at(Place(), data, NETWORK, moments)
    kept = list[State]()

    class KilledError(Exception):
        pass

    def save_and_die(state: State) -> None:
        kept.append(deepcopy(state))
        raise KilledError

    for _ in range(int(NETWORK["epochs"])):
        if kept and (kept[-1]["ended"] or kept[-1]["epoch"] == NETWORK["epochs"]):
            break
        with pytest.raises(KilledError):
            fit_at(Place(start=kept[-1] if kept else None, save=save_and_die), data, NETWORK, moments)
    last = fit_at(Place(start=kept[-1]), data, NETWORK, moments)
    asked = binary(500).matrix
    answers = [learned(untrained(data, NETWORK, moments), state).predict(asked) for state in (once, last)]
    assert np.array_equal(*answers)
    assert once["losses"] == last["losses"]


def test_blocks_with_one_class_only_do_no_harm() -> None:
    data = binary()
    order = np.argsort(data.label, kind="stable")
    sorted_by_label = replace(data, matrix=data.matrix[order], label=data.label[order])
    for candidate, parameters in ((LightGBM(), TREES), (NeuralNetwork(), NETWORK)):
        *_, (_, found) = candidate.fit_blocks(in_blocks(sorted_by_label), parameters)
        assert log_loss(found, data) < 0.56


def test_moments_of_blocks_are_those_of_all_rows() -> None:
    data = binary()
    found, whole = moments_of(in_blocks(data)), Moments.of(data.matrix, NUMBERS)
    assert found.mean == pytest.approx(whole.mean)
    assert found.scale == pytest.approx(whole.scale)
    assert found.scale == pytest.approx(np.nanstd(data.matrix.astype(np.float64), axis=0))


def test_a_network_ends_when_the_time_is_up() -> None:
    data = in_blocks(binary())
    found = fit_at(Place(is_out_of_time=lambda: True), data, NETWORK, moments_of(data))
    assert found["ended"]
    assert found["epoch"] == 1


def test_a_batch_that_memory_does_not_hold_is_refused() -> None:
    data = replace(in_blocks(binary()), memory_bytes=100_000)
    with pytest.raises(ConfigurationError, match=r"not enough for a batch of 2,048 rows with 3 features"):
        fit_at(Place(), data, NETWORK, moments_of(data))


@pytest.mark.parametrize(
    ("candidate", "memory_gb", "way"),
    [
        (LightGBM(), 1000, "whole"),
        (LightGBM(), 6, "blocks"),
        (LightGBM(), 3, "sample"),  # which the bins of a byte are too many for
        (NeuralNetwork(), 6, "blocks"),
        (GradientBoosting(), 6, "sample"),
        (LogisticRegression(), 6, "sample"),
    ],
    ids=str,
)
def test_memory_decides_what_a_candidate_is_fitted_to(candidate: Any, memory_gb: float, way: str) -> None:
    found = fitted_on(candidate, 30_000_000, 45, int(memory_gb * 1e9))
    assert found.way == way
    assert found.of == 30_000_000
    assert found.rows == 30_000_000 or (way == "sample" and 500_000 < found.rows < 2_000_000)


def test_what_a_model_is_fitted_to_is_said_in_words() -> None:
    found = FittedOn("sample", 1_415_094, 30_000_000, 6_000_000_000)
    assert found.words == (
        "a sample of 1,415,094 of 30,000,000 rows, evenly in time, as 6.0 GB of memory do not hold them at once"
    )
    assert FittedOn("whole", 5, 5, 1).words == "all 5 rows in memory"


def test_memory_for_no_sample_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"MB of memory are not enough for one batch"):
        fitted_on(LogisticRegression(), 30_000_000, 45, 500_000_000)


def test_candidates_that_need_the_matrix_are_no_large_ones() -> None:
    assert isinstance(LightGBM(), LargeCandidate)
    assert isinstance(NeuralNetwork(), LargeCandidate)
    assert not isinstance(GradientBoosting(), LargeCandidate)


@pytest.mark.parametrize(("declared", "node_gb", "given"), [(None, 64, None), (None, 8, 6_289_308), (10**6, 8, 10**6)])
def test_trials_are_given_no_more_rows_than_a_node_can_encode(
    monkeypatch: pytest.MonkeyPatch, declared: int | None, node_gb: int, given: int | None
) -> None:
    monkeypatch.setattr(shared_data, "most_memory", lambda: node_gb * 10**9)
    moment = datetime(2013, 1, 1, tzinfo=UTC)
    part = Part("/nowhere", 30_000_000, moment, moment)
    features = tuple(Feature(f"x{n}", "number") for n in range(45))
    divided = TrainingSet("/nowhere", "d", 30_000_000, moment, "s", None, features, parts=(part,))
    case = SimpleNamespace(search=Search(rows=declared))
    assert shared_data.rows_looked_at(case, divided) == given  # type: ignore[arg-type]
    assert shared_data.rows_looked_at(case, replace(divided, parts=())) == declared  # type: ignore[arg-type]
