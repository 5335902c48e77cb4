"""A linear model of log odds: its weights by L-BFGS, and its arithmetic as ONNX."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import minimize  # type: ignore[import-untyped]
from scipy.special import expit  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlops_ray.use_case import Feature, Parameters

_FRACTIONS = (0.25, 0.5, 1.0)
# In standard deviations: one broken sensor value must not outvote all other features.
_CLIP = 10.0
_Float = TypeVar("_Float", np.float32, np.float64)


def fit_weights(
    matrix: NDArray[np.float32],
    label: NDArray[np.bool_],
    features: Sequence[Feature],
    parameters: Parameters,
    threads: int,
) -> Iterator[tuple[float, "LinearModel"]]:
    """See logistic_regression.LogisticRegression. Each step starts from the weights of the one before."""
    iterations, l2 = int(parameters["iterations"]), float(parameters["l2"])
    design = _design(matrix, features)
    objective = _Objective(design, matrix, label, l2)
    weights = np.zeros(objective.size)
    done = 0
    for fraction in _FRACTIONS:
        target = max(1, round(iterations * fraction))
        with threadpool_limits(limits=threads):
            # Running out of iterations is no failure here: it is the budget, and L-BFGS-B does not warn of it.
            weights = minimize(
                objective, weights, jac=True, method="L-BFGS-B", options={"maxiter": max(1, target - done)}
            ).x
        done = target
        yield fraction, design.model(weights)


@dataclass(frozen=True)
class LinearModel:
    """A fitted model. Shapes: numbers [n] and categories [k] are column indices; mean, scale, weights, flags [n].

    `tables` has one row of weights for each category, by code, as long as its codes.
    """

    numbers: NDArray[np.int64]
    categories: NDArray[np.int64]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    intercept: float
    weights: NDArray[np.float64]
    flags: NDArray[np.float64]
    tables: tuple[NDArray[np.float64], ...]

    def predict_probability(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        values = matrix[:, self.numbers].astype(np.float64)
        missing = np.isnan(values)
        score = self.intercept + _standardised(values, missing, self.mean, self.scale) @ self.weights
        score += missing @ self.flags
        for column, table in zip(self.categories, self.tables, strict=True):
            score += table[matrix[:, column].astype(np.int64)]
        probability: NDArray[np.float64] = expit(score)
        return probability

    def to_onnx(self) -> bytes:
        """In float64 inside: sums of large terms that cancel would differ from `predict_probability` in float32."""
        graph = _Graph()
        terms = [graph.constant("intercept", np.array(self.intercept))]
        if len(self.numbers):
            terms += self._number_terms(graph)
        for column, table in zip(self.categories, self.tables, strict=True):
            code = graph.add("Gather", "matrix", graph.constant(f"column_{column}", column), axis=1)
            index = graph.add("Cast", code, to=TensorProto.INT64)
            terms.append(graph.add("Gather", graph.constant(f"table_{column}", table), index))
        score = terms[0]
        for term in terms[1:]:
            score = graph.add("Add", score, term)
        graph.add("Cast", graph.add("Sigmoid", score), output="probability", to=TensorProto.FLOAT)
        return graph.model()

    def _number_terms(self, graph: "_Graph") -> list[str]:
        picked = graph.add("Gather", "matrix", graph.constant("numbers", self.numbers), axis=1)
        values = graph.add("Cast", picked, to=TensorProto.DOUBLE)
        missing = graph.add("IsNaN", values)
        filled = graph.add("Where", missing, graph.constant("mean", self.mean), values)
        centred = graph.add("Sub", filled, "mean")
        scaled = graph.add("Div", centred, graph.constant("scale", self.scale))
        low, high = graph.constant("low", np.array(-_CLIP)), graph.constant("high", np.array(_CLIP))
        clipped = graph.add("Clip", scaled, low, high)
        flags = graph.add("Cast", missing, to=TensorProto.DOUBLE)
        return [
            graph.add("MatMul", clipped, graph.constant("weights", self.weights)),
            graph.add("MatMul", flags, graph.constant("flags", self.flags)),
        ]


class _Graph:
    """A few lines of ONNX: nodes with one output each, named in the order in which they are added."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: NDArray[np.float64] | NDArray[np.int64] | np.int64) -> str:
        self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: int) -> str:
        output = output or f"step_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def model(self) -> bytes:
        matrix = helper.make_tensor_value_info("matrix", TensorProto.FLOAT, ["rows", "features"])
        probability = helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["rows"])
        graph = helper.make_graph(self._nodes, "logistic_regression", [matrix], [probability], self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model)
        serialized: bytes = model.SerializeToString()
        return serialized


@dataclass(frozen=True)
class _Design:
    """How the vector of weights is laid out: intercept, numbers, flags, then one block for each category."""

    numbers: NDArray[np.int64]
    categories: NDArray[np.int64]
    codes: tuple[int, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    def model(self, weights: NDArray[np.float64]) -> LinearModel:
        count = len(self.numbers)
        ends = np.cumsum([1, count, count, *self.codes])[:-1]
        intercept, numbers, flags, *tables = np.split(weights, ends)
        return LinearModel(
            self.numbers, self.categories, self.mean, self.scale, float(intercept[0]), numbers, flags, tuple(tables)
        )


class _Objective:
    """Mean log loss plus penalty, and its gradient. Categories stay codes: no one-hot matrix is ever built."""

    def __init__(self, design: _Design, matrix: NDArray[np.float32], label: NDArray[np.bool_], l2: float) -> None:
        values = matrix[:, design.numbers]
        missing = np.isnan(values)
        self._dense = np.hstack(
            [
                _standardised(values, missing, design.mean.astype(np.float32), design.scale.astype(np.float32)),
                missing.astype(np.float32),
            ]
        )
        self._codes = [matrix[:, column].astype(np.int64) for column in design.categories]
        self._label = label.astype(np.float64)
        self._l2 = l2
        self._ends = np.cumsum([1, self._dense.shape[1], *design.codes])
        self.size = int(self._ends[-1])

    def __call__(self, weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        intercept, dense, *tables = np.split(weights, self._ends[:-1])
        score = (self._dense @ dense.astype(np.float32)).astype(np.float64) + intercept[0]
        for codes, table in zip(self._codes, tables, strict=True):
            score += table[codes]
        loss = np.mean(np.logaddexp(0.0, score) - self._label * score)
        residual = (expit(score) - self._label) / len(score)
        gradient = np.concatenate(
            [
                [residual.sum()],
                residual.astype(np.float32) @ self._dense,
                *[
                    np.bincount(codes, residual, minlength=len(table))
                    for codes, table in zip(self._codes, tables, strict=True)
                ],
            ]
        )
        penalised = weights.copy()
        penalised[0] = 0.0
        return float(loss + self._l2 * penalised @ penalised), gradient + 2.0 * self._l2 * penalised


def _design(matrix: NDArray[np.float32], features: Sequence[Feature]) -> _Design:
    numbers = np.array([index for index, feature in enumerate(features) if feature.kind == "number"], dtype=np.int64)
    categories = np.array([index for index, f in enumerate(features) if f.kind == "category"], dtype=np.int64)
    values = matrix[:, numbers].astype(np.float64)
    present = ~np.isnan(values)
    rows = np.maximum(present.sum(axis=0), 1)
    mean = np.where(present, values, 0.0).sum(axis=0) / rows
    deviation = np.sqrt(np.where(present, (values - mean) ** 2, 0.0).sum(axis=0) / rows)
    scale = np.where(deviation > 0, deviation, 1.0)
    codes = tuple(len(features[index].categories) + 2 for index in categories)
    return _Design(numbers, categories, codes, mean, scale)


def _standardised(
    values: NDArray[_Float], missing: NDArray[np.bool_], mean: NDArray[_Float], scale: NDArray[_Float]
) -> NDArray[_Float]:
    clipped: NDArray[_Float] = np.clip((np.where(missing, mean, values) - mean) / scale, -_CLIP, _CLIP)
    return clipped
