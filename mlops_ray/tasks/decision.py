"""Decisions: from which probability on somebody acts, found on rows whose label is known, and as if the label were
which of several classes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.errors import UseCaseError, nearest
from mlops_ray.tasks.declared import expect_numbers, expect_text
from mlops_ray.tasks.evaluation import Floats, Metric
from mlops_ray.tasks.probability import EVERYBODY, NOBODY, as_served

# Of an amount: sums of what so many rows bring stay numbers.
_LARGEST = 1e100
# The mean gain of a row.
GAIN = Metric(lower_is_better=False, lowest=-np.inf, highest=np.inf, of_decision=True)


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


@dataclass(frozen=True)
class GainTable:
    """What a row brings, in `unit`, by its label and by the class that one acts as if it had; costs are below 0.

    gains: {label: {prediction: gain}}, every class as a label and, for each label, as a prediction; kept as floats, in
    the order of the names. Acting right has to be worth more than any other for its label, so that there is no
    prediction that never is the best, and of sure answers the predictions are the labels.
    """

    gains: Mapping[str, Mapping[str, float]]
    unit: str = ""

    def __post_init__(self) -> None:
        expect_text(self, "unit")
        _expect_by_class(self.gains, "gains", "{label: {prediction: gain}}")
        for label, row in self.gains.items():
            _expect_by_class(row, f"of the label {label!r} what is given", "{prediction: gain}")
            for prediction, gain in row.items():
                _expect_amount(label, prediction, gain)
        found = {label: {name: float(row[name]) for name in sorted(row)} for label, row in sorted(self.gains.items())}
        for label, row in found.items():
            for prediction, gain in row.items():
                if prediction != label and gain >= row.get(label, math.inf):
                    raise UseCaseError(
                        f"GainTable: where the label is {label!r}, acting as if it were {prediction!r} brings "
                        f"{gain:g}, and acting right {row[label]:g}. Acting right must be worth more than any other "
                        f"for its label; costs are below 0."
                    )
        object.__setattr__(self, "gains", found)

    def __hash__(self) -> int:
        return hash((tuple((label, *row.items()) for label, row in self.gains.items()), self.unit))

    def expect_classes(self, classes: tuple[str, ...]) -> None:
        """Raise UseCaseError if the table names another class, or lacks one as a label or as a prediction."""
        for label, row in self.gains.items():
            for name in (label, *row):
                if name not in classes:
                    raise UseCaseError(f"GainTable: {name!r} is no class of the label. {nearest(name, classes)}")
        for label in classes:
            if label not in self.gains:
                raise UseCaseError(
                    f"GainTable: the label {label!r} is missing. Say what each prediction brings where it is the label."
                )
            for prediction in classes:
                if prediction not in self.gains[label]:
                    raise UseCaseError(
                        f"GainTable: the label {label!r} lacks the prediction {prediction!r}. Say what it brings to "
                        f"act as if the label were {prediction!r} where it is {label!r}."
                    )

    def of(self, classes: tuple[str, ...]) -> Floats:
        """The gains by the number of the label and of the prediction, [classes, classes]."""
        return np.array([[self.gains[label][prediction] for prediction in classes] for label in classes])


def best_predictions(gains: Floats, answer: NDArray[np.floating[Any]]) -> NDArray[np.intp]:
    """For each answer the prediction with the highest expected gain, of equal ones the first: Elkan, "The foundations
    of cost-sensitive learning", IJCAI 2001, equation 1, with gains in the place of costs.

    gains: as `GainTable.of` gives them. answer: probabilities, [rows, classes], taken as they are served. One class is
    added after the other, so that a row's prediction does not depend on the rows beside it.
    """
    served = as_served(answer).astype(np.float64)
    expected = np.zeros((len(served), gains.shape[1]))
    for label, by_prediction in enumerate(gains):
        expected += served[:, label, np.newaxis] * by_prediction
    best: NDArray[np.intp] = expected.argmax(axis=1)
    return best


def rows_described(rows_a_day: Mapping[str, float]) -> str:
    """How many rows a day there are of each, as a part of a sentence."""
    return f"rows a day: {', '.join(f'{name} {counted_rows(rows)}' for name, rows in rows_a_day.items())}"


def gains_described(gains: Mapping[str, float], unit: str) -> str:
    """What a row brings in each way to decide, as a part of a sentence."""
    of_unit = f" {unit}" if unit else ""
    return f"what a row brings: {', '.join(f'{way} {gain:.4g}{of_unit}' for way, gain in gains.items())}"


def counted_rows(rows: float) -> str:
    """A mean number of rows, for people."""
    return f"{rows:,.0f}" if rows >= 1_000 else f"{rows:.3g}"


def _expect_by_class(value: Any, what: str, form: str) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise UseCaseError(f"GainTable: {what} is {value!r}. Give {form}, with the names of the classes as texts.")


def _expect_amount(label: str, prediction: str, gain: Any) -> None:
    is_number = isinstance(gain, int | float) and not isinstance(gain, bool)
    if not (is_number and abs(gain) <= _LARGEST):
        raise UseCaseError(
            f"GainTable: where the label is {label!r} and the prediction {prediction!r}, the gain is {gain!r}. Give a "
            f"number from -{_LARGEST:g} to {_LARGEST:g}, without quotes."
        )


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
