"""Links: from the scores that models add up to the answers of a task, with the loss by which scores are fitted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from mlops_ray.tasks.evaluation import Floats

# Of the labels' deviation: an error below it counts with its square, so that the loss of a quantile has a gradient that
# an optimiser can follow (Huber, "Robust estimation of a location parameter", Annals of Statistics 35, 1964).
_HUBER = 0.05


class Link(Protocol):
    """scores: [rows, `width`]. labels: as the task encodes them."""

    name: ClassVar[str]

    @property
    def width(self) -> int: ...

    def answer(self, scores: Floats) -> Floats:
        """[rows], or [rows, width] where that is not 1."""
        ...

    def loss(self, scores: Floats, labels: NDArray[Any], weights: Floats | None = None) -> tuple[float, Floats]:
        """The mean loss, and its gradient by the scores, [rows, width]. weights: of rows, 1 on average."""
        ...

    @property
    def onnx(self) -> tuple[tuple[str, Mapping[str, float]], ...]:
        """The same as `answer`, as ONNX operators one after the other: of one input, or with a constant beside it."""
        ...


@dataclass(frozen=True)
class Logistic:
    """One score, the log odds of yes; the log loss."""

    name: ClassVar[str] = "logistic"
    width: ClassVar[int] = 1
    onnx: ClassVar[tuple[tuple[str, Mapping[str, float]], ...]] = (("Sigmoid", {}),)

    def answer(self, scores: Floats) -> Floats:
        from scipy.special import expit  # type: ignore[import-untyped]

        probability: Floats = expit(scores[:, 0])
        return probability

    def loss(self, scores: Floats, labels: NDArray[Any], weights: Floats | None = None) -> tuple[float, Floats]:
        score, truth = scores[:, 0], labels.astype(np.float64)
        return _mean(np.logaddexp(0.0, score) - truth * score, (self.answer(scores) - truth)[:, None], weights)


@dataclass(frozen=True)
class Softmax:
    """A score for each class; the log loss."""

    width: int
    name: ClassVar[str] = "softmax"
    onnx: ClassVar[tuple[tuple[str, Mapping[str, float]], ...]] = (("Softmax", {}),)

    def answer(self, scores: Floats) -> Floats:
        from scipy.special import softmax

        probability: Floats = softmax(scores, axis=1)
        return probability

    def loss(self, scores: Floats, labels: NDArray[Any], weights: Floats | None = None) -> tuple[float, Floats]:
        from scipy.special import log_softmax

        rows = np.arange(len(labels))
        logs = log_softmax(scores, axis=1)
        gradient = np.exp(logs)
        gradient[rows, labels] -= 1
        return _mean(-logs[rows, labels], gradient, weights)


@dataclass(frozen=True)
class Linear:
    """One score, the answer in deviations of labels from their centre; the squared error or, of the quantile of a
    level, twice the pinball loss, which of the median is the absolute error."""

    centre: float
    deviation: float
    level: float | None = None
    name: ClassVar[str] = "linear"
    width: ClassVar[int] = 1

    @property
    def onnx(self) -> tuple[tuple[str, Mapping[str, float]], ...]:
        steps = ("Mul", "deviation", self.deviation, 1.0), ("Add", "centre", self.centre, 0.0)
        return tuple((operator, {name: value}) for operator, name, value, nothing in steps if value != nothing)

    def answer(self, scores: Floats) -> Floats:
        return self.centre + self.deviation * scores[:, 0]

    def loss(self, scores: Floats, labels: NDArray[Any], weights: Floats | None = None) -> tuple[float, Floats]:
        error = scores[:, 0] - self.scaled(labels)
        if self.level is None:
            return _mean(error**2 / 2, error[:, None], weights)
        size, side = np.abs(error), 2 * np.where(error < 0, self.level, 1 - self.level)
        loss = np.where(size < _HUBER, error**2 / (2 * _HUBER), size - _HUBER / 2)
        return _mean(side * loss, (side * np.clip(error / _HUBER, -1, 1))[:, None], weights)

    def scaled(self, labels: NDArray[Any]) -> Floats:
        """The scores that answer with the labels."""
        scaled: Floats = (labels - self.centre) / self.deviation
        return scaled


def _mean(losses: Floats, gradients: Floats, weights: Floats | None) -> tuple[float, Floats]:
    """Of losses and gradients of each row."""
    if weights is None:
        return float(losses.mean()), gradients / len(losses)
    return float(losses @ weights) / len(losses), gradients * weights[:, None] / len(losses)
