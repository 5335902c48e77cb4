"""Scaling: probabilities led back to how often what they say comes true, without another order of the answers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.tasks.evaluation import Floats
from mlops_ray.tasks.link import Link, Logistic, Softmax

# Answers that are more certain count as these; next to 1 float32 can tell no more apart.
LOWEST, HIGHEST = 1e-12, 1 - float(np.finfo(np.float32).eps)
# Rows that a model parts without fault would be told best by an infinite slope, and worthless answers by none.
_SLOPES = (0.05, 20.0)


@dataclass(frozen=True)
class Scaling:
    """From an answer to the link of slope * scores + shifts, where scores are what the link makes the answer of: of one
    probability its log odds, of several their logarithms. shifts: one for each.

    The slope is above 0, so that of two rows the one with the higher probability of yes stays it.
    """

    slope: float
    shifts: tuple[float, ...]

    @property
    def link(self) -> Link:
        return Logistic() if len(self.shifts) == 1 else Softmax(len(self.shifts))

    def apply(self, answer: Floats) -> Floats:
        """[rows], or [rows, classes]."""
        return self.link.answer(self.slope * scores_of(answer) + np.array(self.shifts))

    def after(self, first: "Scaling") -> "Scaling":
        """The one that does what `first` does, and then this."""
        moved = (self.slope * before + shift for before, shift in zip(first.shifts, self.shifts, strict=True))
        return Scaling(self.slope * first.slope, tuple(moved))


def scores_of(answer: Floats) -> Floats:
    """[rows, 1] from one probability a row, [rows, classes] from several."""
    inside = np.clip(answer, LOWEST, HIGHEST)
    scores: Floats = np.log(inside) if answer.ndim > 1 else (np.log(inside) - np.log(1 - inside))[:, None]
    return scores


def without_weights(weights: Floats) -> Scaling:
    """From the answers of a model that was fitted with these weights of the classes, [classes], to those without.

    With the weight w of a class, a fit sees its odds against another multiplied by the ratio of their weights: Elkan,
    "The foundations of cost-sensitive learning", IJCAI 2001, theorem 2; for logistic regression King, Zeng, "Logistic
    regression in rare events data", Political Analysis 9, 2001.
    """
    logs = np.log(weights)
    shifts = [logs[0] - logs[1]] if len(weights) == 2 else (logs[0] - logs).tolist()
    return Scaling(1.0, tuple(float(shift) for shift in shifts))


def temperature(labels: NDArray[Any], answer: Floats) -> Scaling:
    """One slope for all with the least log loss on these rows (Guo et al., "On calibration of modern neural networks",
    ICML 2017)."""
    return _fitted(labels, answer, moves=False)


def platt(labels: NDArray[Any], answer: Floats) -> Scaling:
    """A slope, and a shift for each class: of yes and no as Platt, "Probabilistic outputs for support vector machines",
    1999, on log odds and without his smoothed targets, which change nothing where there are hundreds of rows; of more
    classes Guo's vector scaling with one slope, which keeps the order of a class but for the others' shifts."""
    return _fitted(labels, answer, moves=True)


METHODS = {"temperature": temperature, "platt": platt}


def _fitted(labels: NDArray[Any], answer: Floats, moves: bool) -> Scaling:
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    scores = scores_of(answer)
    width = scores.shape[1]
    nothing = Scaling(1.0, (0.0,) * width)
    # The mean loss moves with a rare class so little that the optimiser would take it for found.
    rarest = float(np.unique(labels, return_counts=True)[1].min() / len(labels))

    def loss(given: Floats) -> tuple[float, Floats]:
        value, by_score = nothing.link.loss(given[0] * scores + given[1:], labels)
        by_shift = by_score.sum(axis=0) if moves else np.zeros(width)
        return value / rarest, np.concatenate([[float((by_score * scores).sum())], by_shift]) / rarest

    bounds = [_SLOPES] + [(None, None) if moves else (0.0, 0.0)] * width
    start, options = np.array([1.0, *nothing.shifts]), {"gtol": 1e-10, "ftol": 1e-15}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    shifts = found[1:] if width == 1 else found[1:] - found[1]
    return Scaling(float(found[0]), tuple(float(shift) for shift in shifts))
