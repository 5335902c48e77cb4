"""Label: what is predicted, and when it becomes known."""

from dataclasses import dataclass

import polars as pl

from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.task import Task
from mlops_ray.use_case.declared_types import expect_types


@dataclass(frozen=True)
class Label:
    """What is predicted: a boolean expression over the first source, null where there is no label.

    `known_at` is the moment at which the label becomes known; a row whose label was not known yet is not trained on.
    told: the source of the labels that were told of predictions (`predictions.told_labels.told_labels`). Of a row's own
    label and the one that was told of its entities and event time, the one known later counts; null withdraws.
    """

    name: str
    value: pl.Expr
    known_at: pl.Expr
    told: str | None = None

    def __post_init__(self) -> None:
        expect_types(self, "Label")

    @property
    def task(self) -> Task:
        """What kind of label it is: yes or no, the only kind that there is yet."""
        return BINARY
