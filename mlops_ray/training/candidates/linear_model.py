"""A linear model of scores: its weights by L-BFGS, and its arithmetic as ONNX."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from scipy.optimize import minimize  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlops_ray.tasks.link import Link
from mlops_ray.training.candidates.graph import Graph
from mlops_ray.use_case import Feature, FitData, Parameters

_FRACTIONS = (0.25, 0.5, 1.0)
# In standard deviations: one broken sensor value must not outvote all other features.
_CLIP = 10.0
_Float = TypeVar("_Float", np.float32, np.float64)


def fit_weights(data: FitData, parameters: Parameters) -> Iterator[tuple[float, "LinearModel"]]:
    """See logistic_regression.LogisticRegression. Each step starts from the weights of the one before."""
    iterations = int(parameters["iterations"])
    design, link = _design(data.matrix, data.features), data.task.link(data.label)
    objective = _Objective(design, link, data, float(parameters["l2"]))
    weights = np.zeros(objective.size * link.width)
    done = 0
    for fraction in _FRACTIONS:
        target = max(1, round(iterations * fraction))
        with threadpool_limits(limits=data.threads):
            # Running out of iterations is no failure here: it is the budget, and L-BFGS-B does not warn of it.
            weights = minimize(
                objective,
                weights,
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": max(1, target - done)},
                callback=partial(_expect_time, data),
            ).x
        done = target
        is_last = fraction == 1 or data.is_out_of_time()
        yield 1.0 if is_last else fraction, design.model(weights.reshape(-1, link.width), link, data.task.output)
        if is_last:
            return


def _expect_time(data: FitData, weights: NDArray[np.float64]) -> None:
    """Between iterations: what is raised ends them with the weights that there are."""
    if data.is_out_of_time():
        raise StopIteration


@dataclass(frozen=True)
class LinearModel:
    """A fitted model of k scores. numbers [n], categories: column indices. mean, scale [n]. weights, flags [n, k].

    `tables` has one row of weights for each code of a category, [codes, k].
    """

    numbers: NDArray[np.int64]
    categories: NDArray[np.int64]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    intercept: NDArray[np.float64]
    weights: NDArray[np.float64]
    flags: NDArray[np.float64]
    tables: tuple[NDArray[np.float64], ...]
    link: Link
    output: str

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        values = matrix[:, self.numbers].astype(np.float64)
        missing = np.isnan(values)
        scores = self.intercept + _standardised(values, missing, self.mean, self.scale) @ self.weights
        scores += missing @ self.flags
        for column, table in zip(self.categories, self.tables, strict=True):
            scores += table[matrix[:, column].astype(np.int64)]
        return self.link.answer(scores)

    def to_onnx(self) -> bytes:
        """In float64 inside: sums of large terms that cancel would differ from `predict` in float32."""
        graph = Graph()
        terms = [graph.constant("intercept", self.intercept[None, :])]
        if len(self.numbers):
            terms += self._number_terms(graph)
        for column, table in zip(self.categories, self.tables, strict=True):
            code = graph.add("Gather", "matrix", graph.constant(f"column_{column}", column), axis=1)
            index = graph.add("Cast", code, to=TensorProto.INT64)
            terms.append(graph.add("Gather", graph.constant(f"table_{column}", table), index))
        scores = terms[0]
        for term in terms[1:]:
            scores = graph.add("Add", scores, term)
        return graph.model(self.link, self.output, scores, np.float64)

    def _number_terms(self, graph: Graph) -> list[str]:
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


@dataclass(frozen=True)
class _Design:
    """How the rows of weights are laid out: intercept, numbers, flags, then one block for each category."""

    numbers: NDArray[np.int64]
    categories: NDArray[np.int64]
    codes: tuple[int, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    def model(self, weights: NDArray[np.float64], link: Link, output: str) -> LinearModel:
        count = len(self.numbers)
        ends = np.cumsum([1, count, count, *self.codes])[:-1]
        intercept, numbers, flags, *tables = np.split(weights, ends)
        return LinearModel(
            self.numbers,
            self.categories,
            self.mean,
            self.scale,
            intercept[0],
            numbers,
            flags,
            tuple(tables),
            link,
            output,
        )


class _Objective:
    """Mean loss plus penalty, and its gradient. Categories stay codes: no one-hot matrix is ever built."""

    def __init__(self, design: _Design, link: Link, data: FitData, l2: float) -> None:
        matrix = data.matrix
        values = matrix[:, design.numbers]
        missing = np.isnan(values)
        self._dense = np.hstack(
            [
                _standardised(values, missing, design.mean.astype(np.float32), design.scale.astype(np.float32)),
                missing.astype(np.float32),
            ]
        )
        self._codes = [matrix[:, column].astype(np.int64) for column in design.categories]
        self._label, self._weights, self._link, self._l2 = data.label, data.weights, link, l2
        self._ends = np.cumsum([1, self._dense.shape[1], *design.codes])
        self.size = int(self._ends[-1])

    def __call__(self, weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights = weights.reshape(self.size, self._link.width)
        intercept, dense, *tables = np.split(weights, self._ends[:-1])
        scores = (self._dense @ dense.astype(np.float32)).astype(np.float64) + intercept
        for codes, table in zip(self._codes, tables, strict=True):
            scores += table[codes]
        loss, residual = self._link.loss(scores, self._label, self._weights)
        gradient = np.concatenate(
            [
                residual.sum(axis=0, keepdims=True),
                self._dense.T @ residual.astype(np.float32),
                *[_by_code(codes, residual, len(table)) for codes, table in zip(self._codes, tables, strict=True)],
            ]
        )
        penalised = weights.copy()
        penalised[0] = 0.0
        return float(loss + self._l2 * (penalised**2).sum()), (gradient + 2.0 * self._l2 * penalised).ravel()


def _by_code(codes: NDArray[np.int64], residual: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """The sum of the residuals of each code, [size, scores]."""
    return np.stack([np.bincount(codes, one, minlength=size) for one in residual.T], axis=1)


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
