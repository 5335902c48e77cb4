"""Search: the candidates, the spaces of their parameters, and how long the search goes on."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlops_ray.errors import UseCaseError
from mlops_ray.use_case.declared_types import expect_types
from mlops_ray.use_case.fit import FitData

_FEWEST_ROWS = 1_000


@dataclass(frozen=True)
class Uniform:
    """A number between `low` and `high`, with `log` uniform in its logarithm."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        _expect_range(self)


@dataclass(frozen=True)
class Integer:
    """A whole number from `low` to `high`, both included; with `log` uniform in its logarithm."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        _expect_range(self)


@dataclass(frozen=True)
class Choice:
    """One of `values`."""

    values: tuple[str | float | int | bool, ...]

    def __post_init__(self) -> None:
        expect_types(self, "Choice")
        if not self.values:
            raise UseCaseError("Choice: values is empty. Give at least one value.")
        if len(set(map(repr, self.values))) < len(self.values):
            raise UseCaseError(f"Choice: values are {self.values!r}. Give each of them once.")


def _expect_range(space: Uniform | Integer) -> None:
    owner = type(space).__name__
    expect_types(space, owner)
    if not (math.isfinite(space.low) and math.isfinite(space.high) and space.low < space.high):
        raise UseCaseError(f"{owner}: low is {space.low} and high is {space.high}. Give a low below it, both finite.")
    if space.log and space.low <= 0:
        raise UseCaseError(f"{owner}: low is {space.low}, which has no logarithm. Give a low above 0, or no log.")


SearchSpace = Mapping[str, Uniform | Integer | Choice]
Parameters = Mapping[str, str | float | int | bool]


class FittedModel(Protocol):
    """A fitted model over an encoded matrix (float32, rows x features; NaN is a missing number)."""

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """The answer to each row as the label's task has it: probability of yes, of each class, or a number."""
        ...

    def to_onnx(self) -> bytes:
        """The same function as ONNX: input `matrix` float32 [rows, features], output float32 of the name and width that
        the task asks for (`Task.output`, `Task.width`)."""
        ...


class Candidate(Protocol):
    """A family of models with the space in which its parameters are searched."""

    @property
    def name(self) -> str: ...

    @property
    def space(self) -> SearchSpace: ...

    def fit(self, data: FitData, parameters: Parameters) -> Iterator[tuple[float, FittedModel]]:
        """Fit step by step. Yields (fraction of the budget spent, model so far); the last fraction is 1.0.

        The weights and the limits of `data` are the candidate's to heed (see FitData). Raises UseCaseError if it has no
        models for this kind of label.
        """
        ...


@dataclass(frozen=True)
class Search:
    """How long the search goes on: trials for each candidate, and how fast ASHA stops the worse ones.

    rows: of training and validation together about so many are looked at, chosen evenly in time; None: all. The last
    fit takes all rows either way.
    """

    trials_per_candidate: int = 4
    reduction_factor: float = 2.0
    seed: int = 13
    rows: int | None = None

    def __post_init__(self) -> None:
        expect_types(self, "Search")
        if self.trials_per_candidate < 1:
            raise UseCaseError(f"Search: trials_per_candidate is {self.trials_per_candidate}. Give 1 or more.")
        if not 1 < self.reduction_factor < math.inf:
            raise UseCaseError(
                f"Search: reduction_factor is {self.reduction_factor}, and one in so many trials goes on. "
                f"Give a number above 1."
            )
        if self.rows is not None and self.rows < _FEWEST_ROWS:
            raise UseCaseError(
                f"Search: rows is {self.rows}, too few to tell candidates apart (at least {_FEWEST_ROWS:,}). "
                f"Give more, or None for all."
            )
        if not 0 <= self.seed < 2**32:
            raise UseCaseError(f"Search: seed is {self.seed}. Give a number from 0 to 4,294,967,295.")
