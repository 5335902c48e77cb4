"""Task: what the stages of the loop ask about the kind of a label."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.tasks.evaluation import Blocks, Floats, Measured, Metric, ReliabilityBin
from mlops_ray.tasks.link import Link


class Task(Protocol):
    """A kind of label, and of a model's answers to it.

    labels: as `encoded` gives them, [rows]. answer: what the model gives for each row, [rows], or [rows, `width`] where
    that is not 1.
    """

    @property
    def kind(self) -> str:
        """The name that models, ledgers and declarations are stored with."""
        ...

    @property
    def advice(self) -> str:
        """How to write a label of this kind, as a sentence."""
        ...

    # Labels

    @property
    def label_type(self) -> pl.DataType:
        """How labels are kept in training sets and in the ledger."""
        ...

    @property
    def told_as(self) -> Mapping[str, Any]:
        """What the column of told labels is declared with, as arguments of `Column`: its type is `label_type`."""
        ...

    def reads(self, dtype: pl.DataType) -> bool:
        """Whether labels of this type are of this kind. They are never cast from another one."""
        ...

    def can_be(self, labels: pl.Series) -> pl.Series:
        """Which labels of this type have a value that `encoded` takes, [rows]; null where a label is."""
        ...

    def encoded(self, labels: pl.Series) -> NDArray[Any]:
        """Labels without nulls as candidates and metrics take them. Raises DataError for a value that can be none."""
        ...

    def shortfall(self, labels: NDArray[Any]) -> str | None:
        """What labels there are where a model can neither learn from them nor be judged on them, else None."""
        ...

    def rarest(self, labels: NDArray[Any]) -> int:
        """How many rows have the value of which there are fewest: with few, a metric says more about chance."""
        ...

    def events(self, labels: NDArray[Any]) -> Mapping[str, NDArray[np.bool_]]:
        """Questions of yes and no that the labels answer, by name: what a single feature may tell of them."""
        ...

    def averaged(self, labels: NDArray[Any]) -> Mapping[str, Floats]:
        """The numbers whose means over rows say what their labels are like, by name; the name is "" where there is but
        one, [rows]."""
        ...

    @property
    def class_names(self) -> tuple[str | bool, ...]:
        """The values that a label can have; none where it is any number."""
        ...

    def class_numbers(self, labels: NDArray[Any]) -> NDArray[np.intp]:
        """The place among `class_names` of each label, [rows]. Of no use where there are none."""
        ...

    def about(self, labels: NDArray[Any]) -> Mapping[str, Any]:
        """What the labels are like, as JSON."""
        ...

    def described(self, about: Mapping[str, Any]) -> str:
        """What `about` gave, for people."""
        ...

    # Metrics

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """By name; the first is what is searched by unless the use case says otherwise."""
        ...

    def values(
        self, wanted: Collection[str], labels: NDArray[Any], answer: Floats, block: Blocks, weights: Floats
    ) -> dict[str, Floats]:
        """Each of the wanted metrics for each row of `weights`, which are by block; NaN where it does not exist.

        Raises KeyError if the task has no such one.
        """
        ...

    def freedom(self, metric: str, labels: NDArray[Any], block: Blocks) -> float:
        """`estimate.freedom_of` what the metric is computed from."""
        ...

    @property
    def loss(self) -> str:
        """The name of `losses`, for people."""
        ...

    def losses(self, labels: NDArray[Any], answer: Floats) -> Floats:
        """The loss of each row that a model is fitted to; less is better, and a mean over rows is a metric."""
        ...

    def without_model(self, labels: NDArray[Any], metric: str) -> Any:
        """The answer to rows with these labels, without looking at them, that is best by the metric: a number, or
        [width]."""
        ...

    def reliability(self, labels: NDArray[Any], answer: Floats) -> tuple[ReliabilityBin, ...]:
        """Ten bins of rows with similar answers."""
        ...

    @property
    def reliability_axes(self) -> tuple[str, str]:
        """What is answered and what is observed in `reliability`, for people."""
        ...

    def confusion(self, labels: NDArray[Any], answer: Floats) -> Mapping[str, Any]:
        """How many rows with each label got which prediction, as JSON: `names`, and `rows` by label and prediction in
        their order. Empty where a prediction is not one of a few names."""
        ...

    @property
    def fitted_as(self) -> "tuple[Task, ...]":
        """The tasks that a candidate is fitted to, each by itself: their answers side by side are those of this one."""
        ...

    def searched_by(self, metric: str) -> Self:
        """The same without what a metric does not ask for, so that trials fit no more than they are compared by."""
        ...

    def link(self, labels: NDArray[Any]) -> Link:
        """How models that add up scores come to an answer; labels: those that they are fitted to."""
        ...

    # In production

    def measured(self, labels: NDArray[Any], answer: Floats, day: NDArray[np.int64]) -> Mapping[str, Measured]:
        """The metrics of the rows of a window whose labels have come, of any rows or none; the first of `metrics`, by
        which answers are watched and which is estimated before labels come, first. day [rows]: a number for each day.
        """
        ...

    def watched(self, answer: Floats) -> Mapping[str, Floats]:
        """The numbers that an answer is watched by, [rows], by name; the name is "" where there is but one."""
        ...

    def guess(self, answer: Floats) -> Floats:
        """What each answer says `observed` is on average, [rows]: what shows whether labels still follow answers."""
        ...

    def observed(self, labels: NDArray[Any], answer: Floats) -> Floats:
        """What the labels say of each `guess`, [rows]."""
        ...

    def errors(self, labels: NDArray[Any], answer: Floats) -> Floats:
        """How wrong each answer was, [rows]. Their mean is the first of `metrics`, where that is a mean over rows."""
        ...

    def foretold(self, answer: Floats) -> Floats | None:
        """The mean of `errors` that the answers themselves let expect, [rows]; None where they say nothing of it."""
        ...

    # Answers

    @property
    def output(self) -> str:
        """The output of the ONNX model: float32, [rows], or [rows, `width`] where that is not 1."""
        ...

    @property
    def width(self) -> int:
        """How many numbers the answer to a row is."""
        ...

    def wrong(self, answer: NDArray[np.floating[Any]]) -> str | None:
        """A sentence about the answers that cannot be any, else None. Rounding of float32 is no fault."""
        ...

    def checked(self, answer: NDArray[np.float32]) -> NDArray[np.float32]:
        """The answers without what rounding added. Raises ModelError with the sentence of `wrong`."""
        ...

    @property
    def threshold(self) -> float | None:
        """From which answer on a row is `chosen`; None for a kind of label by which no row is."""
        ...

    def chosen(self, answer: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """Which rows an action is taken for; none where there is no threshold."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether `decided` finds something: a threshold, an interval, or quantiles."""
        ...

    def decided(self, labels: NDArray[Any], answer: Floats, days: int) -> Self:
        """The same with what is found on these rows of so many days, which the model has not seen; or itself."""
        ...

    def renewed(self, labels: NDArray[Any], answer: Floats) -> Self:
        """The same, where what `decided` found can be brought up to date by rows that are newer; answer: of the very
        model that is sealed, as it is served, which has not seen them. Or itself."""
        ...

    def like(self, other: "Task") -> Self | None:
        """The same with the threshold of another, where there is one; None where the other's answers mean something
        else. What is decided by a declared table alone, another's answers are decided by too."""
        ...

    def decisions(self, labels: NDArray[Any], answer: Floats, day: NDArray[np.intp]) -> Mapping[str, Any]:
        """How what is decided does on these rows, as JSON: how many rows a day the threshold chooses and, of gains,
        what it brings a row, beside 0.5, always and never; of a gain table what it brings a row, beside the most
        probable class and each class always, and how many rows a day get which prediction; or how many labels are in
        their interval and below their quantiles. Empty where there is none of these."""
        ...

    def decisions_described(self, decisions: Mapping[str, Any]) -> str:
        """What `decisions` gave, as a sentence."""
        ...

    def with_scale(self, labels: NDArray[Any]) -> Self:
        """The same with how far the labels that a model is fitted to are spread: the unit of `apart`. Or itself."""
        ...

    def apart(self, ours: NDArray[np.floating[Any]], theirs: NDArray[np.floating[Any]]) -> Floats:
        """How far two answers to the same rows are apart, [rows]: of probabilities the largest difference, of numbers
        the difference over the sum of the labels' standard deviation and |theirs|."""
        ...

    @property
    def explained_output(self) -> str:
        """The output of the ONNX model that `additive` needs: `output`, or a part of it that is an output by itself."""
        ...

    @property
    def additive_scale(self) -> str:
        """The name of the scale of `additive`, for people."""
        ...

    def additive(self, answer: NDArray[np.floating[Any]], about: NDArray[np.floating[Any]]) -> Floats:
        """Answers on a scale where contributions of features add up, [rows]. about: the answer that is explained."""
        ...

    def additive_error(self, additive: Floats) -> Floats:
        """How far `additive` may be from what the model came to, as its answers are float32; of the same shape."""
        ...

    @property
    def parts(self) -> tuple[str, ...]:
        """Of what the numbers of an answer are, in their order; empty where it is one number."""
        ...

    @property
    def output_parts(self) -> Mapping[str, tuple[str, ...]]:
        """Of what the numbers of each of `columns` are that has several a row, in their order."""
        ...

    @property
    def output_types(self) -> Mapping[str, str]:
        """Of each of `columns`, its data type in the Open Inference Protocol."""
        ...

    def columns(self, answer: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """What is answered, by name; each [rows], or [rows, parts] (see `output_parts`)."""
        ...

    def rows(self, answer: NDArray[np.float32]) -> list[dict[str, Any]]:
        """The same as JSON, a row at a time."""
        ...

    @property
    def row_schema(self) -> Mapping[str, Any]:
        """The JSON schema of each part of one of `rows`, by name."""
        ...

    @property
    def ledger_types(self) -> Mapping[str, pl.DataType]:
        """The columns of an answer in the ledger: together as many numbers as `width`, all Float32."""
        ...
