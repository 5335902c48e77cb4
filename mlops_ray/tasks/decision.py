"""Decisions: from which probability on somebody acts, found on rows whose label is known."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlops_ray.errors import UseCaseError
from mlops_ray.tasks.declared import expect_numbers, expect_text
from mlops_ray.tasks.evaluation import Floats
from mlops_ray.tasks.probability import EVERYBODY, NOBODY, as_served

# Of an amount: sums of what so many rows bring stay numbers.
_LARGEST = 1e100


@dataclass(frozen=True)
class Gains:
    """What acting and not acting bring, in `unit` a row; costs are below 0.

    true_positive: acted, and the label was yes. false_positive: acted in vain. false_negative: not acted where one
    should have. true_negative: rightly not acted.
    """

    true_positive: float = 0.0
    false_positive: float = 0.0
    false_negative: float = 0.0
    true_negative: float = 0.0
    unit: str = ""

    def __post_init__(self) -> None:
        expect_numbers(self, "true_positive", "false_positive", "false_negative", "true_negative")
        expect_text(self, "unit")
        if not all(abs(one) <= _LARGEST for one in self._table()):
            raise UseCaseError(f"Gains: {self} has what is no amount. Give numbers from -{_LARGEST:g} to {_LARGEST:g}.")
        if not (self.true_positive > self.false_negative and self.true_negative > self.false_positive):
            raise UseCaseError(
                f"Gains: {self} says that acting never pays, or always does. true_positive must be above "
                f"false_negative, and true_negative above false_positive; costs are below 0."
            )

    def _table(self) -> tuple[float, float, float, float]:
        return self.true_positive, self.false_positive, self.false_negative, self.true_negative

    def of(self, labels: NDArray[np.bool_], chosen: NDArray[np.bool_]) -> Floats:
        """The gain of each row."""
        acted = np.where(labels, self.true_positive, self.false_positive)
        gains: Floats = np.where(chosen, acted, np.where(labels, self.false_negative, self.true_negative))
        return gains

    def threshold(self, labels: NDArray[np.bool_], probability: Floats, days: int) -> float:
        """The one with the highest gain on these rows; above 1 where it is best never to act. Of well calibrated
        probabilities it is near that of Elkan, "The foundations of cost-sensitive learning", IJCAI 2001, equation 2;
        found on rows, it is right for others too."""
        order = np.argsort(-probability, kind="stable")
        every, nobody = np.ones(len(labels), np.bool_), np.zeros(len(labels), np.bool_)
        more = self.of(labels, every)[order] - self.of(labels, nobody)[order]
        return _before(probability[order], np.concatenate([[0.0], np.cumsum(more)]))


@dataclass(frozen=True)
class Capacity:
    """There are hands for so many rows a day: those with the highest probabilities."""

    per_day: float

    def __post_init__(self) -> None:
        expect_numbers(self, "per_day")
        if not 0 < self.per_day < math.inf:
            raise UseCaseError(f"Capacity: per_day is {self.per_day}. Give a number above 0.")

    def threshold(self, labels: NDArray[np.bool_], probability: Floats, days: int) -> float:
        """The lowest one that chooses at most so many rows a day on average; above 1 where too many have the highest
        answer."""
        most = self.per_day * days
        counts = np.arange(len(labels) + 1)
        return _before(-np.sort(-probability), np.where(counts <= most, counts, -1.0))


def _before(descending: Floats, worth: Floats) -> float:
    """The threshold that chooses the k first, with the k that is worth most: where equal ones are not parted, by
    answers as they are served. None of these rows is nobody, and all of them are everybody, also of later rows."""
    served = as_served(descending)
    parted = np.concatenate([[True], served[1:] < served[:-1], [True]])
    first = int(np.argmax(np.where(parted, worth, -np.inf)))
    if first == 0:
        return NOBODY
    if first == len(served):
        return EVERYBODY
    above, below = served[first - 1], served[first]
    middle = (above + below) / 2
    return float(middle if middle > below else above)
