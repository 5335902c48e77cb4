"""Task: what the stages of the loop ask about the kind of a label."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray


class Task(Protocol):
    """A kind of label, and of a model's answers to it. answer: what the model gives for each row, [rows]."""

    @property
    def advice(self) -> str:
        """How to write a label of this kind, as a sentence."""
        ...

    @property
    def output_types(self) -> Mapping[str, str]:
        """Of each of `columns`, its data type in the Open Inference Protocol."""
        ...

    def reads(self, dtype: pl.DataType) -> bool:
        """Whether labels of this type are of this kind. They are never cast."""
        ...

    def shortfall(self, labels: pl.Series) -> str | None:
        """What labels there are where a model can neither learn from them nor be judged on them, else None."""
        ...

    def rarest(self, labels: NDArray[Any]) -> int:
        """How many rows have the value of which there are fewest: with few, a metric says more about chance."""
        ...

    def score(self, metric: str, labels: NDArray[Any], answer: NDArray[np.float64]) -> float:
        """The metric by which trials are compared: more is better. Raises KeyError if the task has no such one."""
        ...

    def checked(self, answer: NDArray[np.float32]) -> NDArray[np.float32]:
        """The answers without what rounding added. Raises ModelError if one cannot be an answer."""
        ...

    def columns(self, answer: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """What is answered, by name; each [rows]."""
        ...

    def rows(self, answer: NDArray[np.float32]) -> list[dict[str, Any]]:
        """The same as JSON, a row at a time."""
        ...
