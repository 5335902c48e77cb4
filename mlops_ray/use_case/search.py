"""Search: the candidates, the spaces of their parameters, and how long the search goes on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlops_ray.use_case.features import Feature


@dataclass(frozen=True)
class Uniform:
    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Integer:
    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class Choice:
    values: tuple[str | float | int | bool, ...]


SearchSpace = Mapping[str, Uniform | Integer | Choice]
Parameters = Mapping[str, str | float | int | bool]


class Classifier(Protocol):
    """A fitted binary classifier over an encoded matrix (float32, rows x features; NaN is a missing number)."""

    def predict_probability(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probability of the label, one for each row."""
        ...

    def to_onnx(self) -> bytes:
        """The same function as ONNX: input `matrix` float32 [rows, features], output `probability` float32 [rows]."""
        ...


class Candidate(Protocol):
    """A family of models with the space in which its parameters are searched."""

    @property
    def name(self) -> str: ...

    @property
    def space(self) -> SearchSpace: ...

    def fit(
        self,
        matrix: NDArray[np.float32],
        label: NDArray[np.bool_],
        features: Sequence[Feature],
        parameters: Parameters,
        seed: int,
        threads: int,
    ) -> Iterator[tuple[float, Classifier]]:
        """Fit step by step. Yields (fraction of the budget spent, model so far); the last fraction is 1.0."""
        ...


@dataclass(frozen=True)
class Search:
    """How long the search goes on: trials for each candidate, and how fast ASHA stops the worse ones."""

    trials_per_candidate: int = 4
    reduction_factor: float = 2.0
    seed: int = 13
