"""Probabilities are led back to how often what they say comes true, in NumPy and in ONNX alike."""

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mlops_ray.tasks.binary import Binary
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.ranking import ranking
from mlops_ray.tasks.scaling import HIGHEST, Scaling, platt, temperature, without_weights
from mlops_ray.tasks.task import Task
from mlops_ray.training.candidates.graph import Graph
from mlops_ray.training.scaled import ScaledModel, scaled

YES_NO, CLASSES = Binary(), MultiClass(("early", "on time", "late"))


@dataclass(frozen=True)
class Given:
    """A model that answers with the columns of its matrix."""

    task: Task

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return (matrix[:, 0] if self.task.width == 1 else matrix).astype(np.float64)

    def to_onnx(self) -> bytes:
        flat = self.task.width == 1
        nodes = [helper.make_node("Squeeze" if flat else "Identity", ["matrix"], [self.task.output])]
        shape = ["rows"] if flat else ["rows", self.task.width]
        matrix = helper.make_tensor_value_info("matrix", TensorProto.FLOAT, ["rows", self.task.width])
        answer = helper.make_tensor_value_info(self.task.output, TensorProto.FLOAT, shape)
        if flat:
            nodes[0].input.append("axis")
        axis = [helper.make_tensor("axis", TensorProto.INT64, [1], [1])] if flat else []
        graph = helper.make_graph(nodes, "given", [matrix], [answer], axis)
        opsets = [helper.make_opsetid("", 18)]
        content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
        return content


def answers(rows: int = 20_000, seed: int = 1) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Labels, and probabilities of yes that are too bold and too high."""
    random = np.random.default_rng(seed)
    odds = random.normal(-1.5, 1, rows)
    return random.random(rows) < 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(-(2 * odds + 1)))


def several(rows: int = 20_000, seed: int = 1) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    scores = random.normal([1, 0, -2], 1, (rows, 3))
    right, bold = np.exp(scores), np.exp(2 * scores + [0, 1, 0])
    right, bold = (one / one.sum(axis=1, keepdims=True) for one in (right, bold))
    return (random.random((rows, 1)) > right.cumsum(axis=1)).sum(axis=1), bold


def test_platt_finds_the_slope_and_the_shift_that_were_planted() -> None:
    found = platt(*answers())
    assert found.slope == pytest.approx(0.5, abs=0.03)
    assert found.shifts[0] == pytest.approx(-0.5, abs=0.05)
    of_classes = platt(*several())
    assert of_classes.slope == pytest.approx(0.5, abs=0.03)
    assert of_classes.shifts == pytest.approx((0, -0.5, 0), abs=0.08)


def test_of_a_rare_class_the_best_is_found_too() -> None:
    """As Newton's method finds it, whose steps do not depend on how large the loss is."""
    random = np.random.default_rng(0)
    odds = np.log(0.0005) - 2 + 2 * random.normal(size=200_000)
    labels, score = random.random(200_000) < 1 / (1 + np.exp(-odds)), odds - np.log(3)
    found = platt(labels, 1 / (1 + np.exp(-score)))
    slope, shift = 1.0, 0.0
    for _ in range(50):
        answer = 1 / (1 + np.exp(-slope * score - shift))
        inputs = np.column_stack([score, np.ones(len(score))])
        step = np.linalg.solve((inputs.T * (answer * (1 - answer))) @ inputs, inputs.T @ (answer - labels))
        slope, shift = slope - step[0], shift - step[1]
    assert (found.slope, *found.shifts) == pytest.approx((slope, shift), abs=1e-3)


def test_a_temperature_makes_no_difference_between_classes() -> None:
    for labels, answer in (answers(), several()):
        found = temperature(labels, answer)
        assert found.slope < 0.8
        assert set(found.shifts) == {0.0}


def test_what_is_right_already_stays_as_it_is() -> None:
    labels, answer = answers()
    odds = (np.log(answer / (1 - answer)) - 1) / 2
    right = 1 / (1 + np.exp(-odds))
    assert np.abs(platt(labels, right).apply(right) - right).max() < 0.02


def test_a_ranking_of_yes_and_no_is_the_same_after_it() -> None:
    labels, answer = answers()
    block, all_rows = np.zeros(len(labels), dtype=np.intp), np.ones((1, 1))
    for found in (platt(labels, answer), without_weights(np.array([0.5, 250.0])), platt(~labels, answer)):
        assert found.slope > 0
        before = ranking(labels.astype(float), answer, block, all_rows)[0]
        after = found.apply(answer).astype(np.float32).astype(np.float64)  # as it is served
        assert ranking(labels.astype(float), after, block, all_rows)[0] == pytest.approx(before, abs=1e-6)


def test_rows_that_are_told_apart_without_fault_have_a_finite_slope() -> None:
    labels = np.array([False] * 50 + [True] * 50)
    for answer in (np.linspace(0, 1, 100), labels.astype(float)):
        found = platt(labels, answer)
        assert np.isfinite([found.slope, *found.shifts]).all()
        assert YES_NO.wrong(found.apply(answer)) is None


@pytest.mark.parametrize("weights", [(1.0, 4.0), (0.5, 250.0)])
def test_weights_of_classes_are_taken_out_of_probabilities(weights: tuple[float, float]) -> None:
    _, right = answers()
    odds = right / (1 - right) * weights[1] / weights[0]
    assert without_weights(np.array(weights)).apply(odds / (1 + odds)) == pytest.approx(right, abs=1e-6)
    _, of_classes = several()
    three = np.array([1.0, weights[1], weights[0]])
    weighted = of_classes * three / (of_classes * three).sum(axis=1, keepdims=True)
    assert without_weights(three).apply(weighted) == pytest.approx(of_classes, abs=1e-6)


@pytest.mark.parametrize(
    ("task", "first", "second"),
    [
        (YES_NO, Scaling(1.0, (-5.5,)), Scaling(0.7, (0.3,))),
        (CLASSES, Scaling(1.0, (0.0, 1.5, -3.0)), Scaling(1.6, (0.0, -0.4, 0.2))),
    ],
    ids=["yes and no", "classes"],
)
def test_onnx_answers_as_the_scaled_model(task: Task, first: Scaling, second: Scaling) -> None:
    random = np.random.default_rng(2)
    if task.width == 1:
        matrix = random.random((2000, 1)).astype(np.float32)
        matrix[:8, 0] = [0, 1, 1e-30, 1e-7, 0.5, HIGHEST, np.nextafter(np.float32(1), np.float32(0)), 1e-12]
    else:
        matrix = random.dirichlet([0.3, 0.3, 0.3], 2000).astype(np.float32)
        matrix[:2] = [[1, 0, 0], [0, 0, 1]]
    model = scaled(ScaledModel(Given(task), first, task), second, task)
    assert model.scaling == second.after(first)
    one_by_one = second.apply(first.apply(Given(task).predict(matrix)))
    assert np.abs(model.predict(matrix)[8:] - one_by_one[8:]).max() < 1e-6
    session = onnxruntime.InferenceSession(model.to_onnx(), providers=["CPUExecutionProvider"])
    answered = session.run([task.output], {"matrix": matrix})[0]
    assert answered.dtype == np.float32
    assert task.wrong(answered) is None
    assert task.apart(answered, model.predict(matrix)).max() < 1e-6


@dataclass(frozen=True)
class Scores:
    """A model whose scores are the columns of its matrix, and whose last step is its link. more: a step after it."""

    task: Task
    more: bool = False

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        answer = self.task.link(np.zeros(1)).answer(matrix.astype(np.float64))
        return answer / 2 if self.more else answer

    def to_onnx(self) -> bytes:
        graph, link = Graph(), self.task.link(np.zeros(1))
        scores = graph.add("Identity", "matrix")
        model = onnx.load_model_from_string(
            graph.model(link, "linked" if self.more else "probability", scores, np.float32)
        )
        if self.more:
            model.graph.initializer.append(helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]))
            model.graph.node.append(helper.make_node("Mul", ["linked", "half"], ["probability"]))
            model.graph.output[0].name = "probability"
        content: bytes = model.SerializeToString()
        return content


@pytest.mark.parametrize("slope", [0.7, 1.0, 3.0])
@pytest.mark.parametrize("shift", [0.0, -6.2, -8.5, -14.0])
@pytest.mark.parametrize("task", [YES_NO, CLASSES], ids=["yes and no", "classes"])
def test_onnx_of_sure_models_answers_as_they_do(task: Task, shift: float, slope: float) -> None:
    """A class of two rows in a thousand is answered next to 1 by what its weight taught, and is led back from there."""
    score = np.linspace(-20, 30, 5_000, dtype=np.float32)
    matrix = score[:, None] if task.width == 1 else np.stack([score, score / 3, -score], axis=1)
    shifts = (slope * shift,) if task.width == 1 else (slope * shift, 0.0, 1.0)
    model = scaled(Scores(task), Scaling(slope, shifts), task)
    complete = onnx.load_model_from_string(model.to_onnx())
    assert {node.op_type for node in complete.graph.node} & {"Log"} == set(), "It begins with the scores."
    session = onnxruntime.InferenceSession(complete.SerializeToString(), providers=["CPUExecutionProvider"])
    answered = session.run(["probability"], {"matrix": matrix})[0]
    assert task.apart(answered, model.predict(matrix)).max() < 2e-7


def test_what_comes_after_the_link_is_not_passed_over() -> None:
    matrix = np.linspace(-5, 5, 500, dtype=np.float32)[:, None]
    model = scaled(Scores(YES_NO, more=True), Scaling(1.5, (0.4,)), YES_NO)
    session = onnxruntime.InferenceSession(model.to_onnx(), providers=["CPUExecutionProvider"])
    assert session.run(["probability"], {"matrix": matrix})[0] == pytest.approx(model.predict(matrix), abs=1e-6)
