"""Label: what is predicted, of which kind it is, and when it becomes known."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from mlops_ray.tasks.binary import BINARY, Binary
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.regression import Regression
from mlops_ray.use_case.declared_types import expect_types

# Every stage asks a task as such; only what is declared is checked to be one of those that there are.
if TYPE_CHECKING:
    from mlops_ray.tasks.task import Task as Kind
else:
    Kind = Binary | MultiClass | Regression


@dataclass(frozen=True)
class Label:
    """What is predicted: an expression over the first source, null where there is no label.

    `known_at` is the moment at which the label becomes known; a row whose label was not known yet is not trained on.
    task: its kind: `Binary()`, yes or no; `MultiClass(classes)`, one of several names; `Regression()`, a number.
    told: the source of the labels that were told of predictions (`predictions.told_labels.told_labels`). Of a row's own
    label and the one that was told of its entities and event time, the one known later counts; null withdraws.
    """

    name: str
    value: pl.Expr
    known_at: pl.Expr
    told: str | None = None
    task: Kind = BINARY

    def __post_init__(self) -> None:
        expect_types(self, "Label")
