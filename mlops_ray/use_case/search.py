"""Search: the candidates, the spaces of their parameters, and how long the search goes on."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mlops_ray.errors import UseCaseError
from mlops_ray.use_case.declared_types import expect_types
from mlops_ray.use_case.fit import FitBlocks, FitData

# What the average of several trials is called, where a candidate has its name.
ENSEMBLE = "ensemble"
_FEWEST_ROWS = 1_000
# Every one of them is in the sealed model, and answers every request.
_MOST_AVERAGED = 10


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
        if len(set(self.values)) < len(self.values):
            raise UseCaseError(f"Choice: values are {self.values!r}. Give each of them once (1 and True are equal).")
        if any(value != value for value in self.values):
            raise UseCaseError(f"Choice: values are {self.values!r}, and NaN is equal to nothing. Leave it out.")


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


@runtime_checkable
class LargeCandidate(Candidate, Protocol):
    """A candidate that can also be fitted to rows that do not fit in memory, a block at a time. Others are fitted to a
    sample of them."""

    def fit_blocks(self, data: FitBlocks, parameters: Parameters) -> Iterator[tuple[float, FittedModel]]:
        """As `fit`."""
        ...

    def bytes_for(self, rows: int, features: int) -> int:
        """What its largest process holds while it is fitted to so many rows, beside the block that it reads."""
        ...


@dataclass(frozen=True)
class Resources:
    """What one trial holds of a node while it runs.

    cpus: also the threads that it is fitted with; None: an even share of what is free. gpus: may be a part of one.
    memory_gb: 10^9 bytes of memory that Ray sets aside; None: Ray does not count it.
    """

    cpus: int | None = None
    gpus: float = 0.0
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        expect_types(self, "Resources")
        if self.cpus is not None and self.cpus < 1:
            raise UseCaseError(f"Resources: cpus is {self.cpus}. Give 1 or more, or None for a share of what is free.")
        if not 0 <= self.gpus < math.inf or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise UseCaseError(f"Resources: gpus is {self.gpus}. Give a part of one, such as 0.5, or a whole number.")
        if self.memory_gb is not None and not 0 < self.memory_gb < math.inf:
            raise UseCaseError(f"Resources: memory_gb is {self.memory_gb}. Give a number above 0, or None.")


@dataclass(frozen=True)
class Search:
    """How long the search goes on, and what each trial may take.

    trials_per_candidate: times the number of candidates are all trials there are; a candidate that does worse gets
    fewer of them, and one that does better more (training.turns). seconds, cpu_seconds, cost: the search ends with the
    best found so far when it has taken so long, or its trials so many seconds of CPU, or what they used costs so much
    by the setting `prices`, in its currency; what earlier attempts took counts.
    trial_seconds: a trial that takes longer is killed, and counts as failed. last_fit_seconds: the fits of the chosen
    model on all rows are killed after so long together, and the run fails; None: what trials say of it
    (training.last_fit). Another value searches nothing again.
    reduction_factor: one in so many trials of a candidate goes on at ASHA's rung, which is at that part of its budget,
    and one in so many candidates in each round.
    rows: of training and validation together about so many are looked at, chosen evenly in time; None: all. The last
    fit takes all rows either way.
    resources: of every trial, or by the name of the candidate; those not named share what is free.
    ensemble: so many of the best trials may be averaged; the average is chosen where it is better on the validation
    period beyond chance. 1: never.
    """

    trials_per_candidate: int = 4
    reduction_factor: float = 2.0
    seed: int = 13
    rows: int | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    cost: float | None = None
    trial_seconds: float = 14_400.0
    last_fit_seconds: float | None = None
    resources: Resources | Mapping[str, Resources] = Resources()
    ensemble: int = 1

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
        for name in ("seconds", "cpu_seconds", "cost", "trial_seconds", "last_fit_seconds"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not 0 < value < math.inf):
                raise UseCaseError(f"Search: {name} is {value}. Give a number above 0.")
        if not 1 <= self.ensemble <= _MOST_AVERAGED:
            raise UseCaseError(
                f"Search: ensemble is {self.ensemble}. Give how many trials may be averaged, from 1 (none) to "
                f"{_MOST_AVERAGED}."
            )

    def resources_of(self, candidate: str) -> Resources:
        if isinstance(self.resources, Resources):
            return self.resources
        return self.resources.get(candidate, Resources())
