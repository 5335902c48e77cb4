"""Fit: what every candidate is fitted with, in trials and in the last fit alike."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlops_ray.errors import UseCaseError, nearest
from mlops_ray.tasks.task import Task
from mlops_ray.use_case.declared_types import expect_types
from mlops_ray.use_case.features import Feature

_MOST_HELD_OUT = 0.5


@dataclass(frozen=True)
class Fit:
    """How candidates are fitted, all of them.

    class_weights: "balanced", so that each class weighs as much as any other, or how much a row of each class counts
    beside one of weight 1, by the class, True or False for yes and no. The probabilities that come of it are led back
    to how often the classes are (`tasks.scaling.without_weights`), and calibrated by "platt" unless another way is
    declared: of a class with few rows a model that has learned them by heart answers otherwise than its weights
    explain. For kinds of label with classes.
    half_life: a row that is so much older than the newest one counts half as much.
    calibration: what probabilities are passed through, found on the validation period, which needs 20 rows of each
    class, and sealed with the model: "temperature" makes them bolder or more careful all alike, "platt" also moves each
    class up or down.
    held_out: of the rows, the latest share that trees and networks watch to end where more of the same makes them
    worse. Trees are fitted once more, to all rows, with as many as were best.
    time_limit: from then on a fit ends with what it has, and the record says so; a candidate that cannot do that goes
    on.
    most_levels: a category with more values than so many is no code to a model, but what the labels of its value's
    rows were (`training.level_table`); None: each is a code.
    """

    class_weights: Literal["balanced"] | Mapping[str | bool, float] | None = None
    half_life: timedelta | None = None
    calibration: Literal["temperature", "platt"] | None = None
    held_out: float | None = None
    time_limit: timedelta | None = None
    most_levels: int | None = 1_000

    def __post_init__(self) -> None:
        expect_types(self, "Fit")
        if isinstance(self.class_weights, Mapping):
            for name, weight in self.class_weights.items():
                if not 0 < weight < math.inf:
                    raise UseCaseError(f"Fit: the weight of class {name!r} is {weight}. Give a number above 0.")
        for name in ("half_life", "time_limit"):
            value = getattr(self, name)
            if value is not None and value <= timedelta(0):
                raise UseCaseError(f"Fit: {name} is {value}. Give a time above 0, or None.")
        if self.held_out is not None and not 0 < self.held_out <= _MOST_HELD_OUT:
            raise UseCaseError(f"Fit: held_out is {self.held_out}. Give a share above 0, at most {_MOST_HELD_OUT}.")
        if self.most_levels is not None and self.most_levels < 1:
            raise UseCaseError(f"Fit: most_levels is {self.most_levels}. Give 1 or more, or None for codes alone.")

    @property
    def calibrated_by(self) -> Literal["temperature", "platt"] | None:
        return self.calibration or (None if self.class_weights is None else "platt")

    def ends_at(self) -> float | None:
        """For a fit that begins now: see FitData."""
        return None if self.time_limit is None else time.monotonic() + self.time_limit.total_seconds()

    def expect_task(self, task: Task, owner: str) -> None:
        """Raise UseCaseError if something is declared that needs classes, or names another class."""
        classes = task.class_names
        for name in ("class_weights", "calibration"):
            if getattr(self, name) is not None and not classes:
                raise UseCaseError(f"{owner}: Fit: {name} is for labels with classes, and this one is a number.")
        if isinstance(self.class_weights, Mapping):
            for one in self.class_weights:
                if one not in classes:
                    names, shown = [str(name) for name in classes], ", ".join(repr(name) for name in classes)
                    hint = nearest(one, names) if isinstance(one, str) else ""
                    hint = f"Write {one} without quotes." if one in names else hint
                    raise UseCaseError(f"{owner}: Fit: the label has no class {one!r} (it has {shown}). {hint}".strip())


class Blocks(Protocol):
    """Encoded features of rows in the order of prediction time, of which a block is read when it is asked for.

    Another process that is given them can read them too.
    """

    def __len__(self) -> int:
        """How many rows."""
        ...

    def __getitem__(self, rows: slice) -> Self:
        """The rows from one place to another alone, without a step."""
        ...

    @property
    def sizes(self) -> Sequence[int]:
        """The rows of each block."""
        ...

    def read(self, number: int) -> NDArray[np.float32]:
        """A block, [rows, features]. Raises DataError if its file is gone or another."""
        ...


_Matrix = TypeVar("_Matrix", NDArray[np.float32], Blocks)


@dataclass(frozen=True)
class _Given(Generic[_Matrix]):
    matrix: _Matrix
    label: NDArray[Any]
    features: tuple[Feature, ...]
    task: Task
    seed: int
    threads: int
    weights: NDArray[np.float64] | None = None
    held_out: float | None = None
    ends_at: float | None = None

    def is_out_of_time(self) -> bool:
        return self.ends_at is not None and time.monotonic() >= self.ends_at

    def share_of_time(self, fits: int) -> Self:
        """For the next of so many fits that follow one another."""
        if self.ends_at is None:
            return self
        now = time.monotonic()
        return replace(self, ends_at=now + (self.ends_at - now) / fits)

    def divided(self) -> tuple[Self, Self] | None:
        """The earlier rows, and the later ones that are held out; None where none are, or a part lacks a class or has
        rows of no weight alone."""
        if self.held_out is None:
            return None
        border = len(self.label) - round(self.held_out * len(self.label))
        early, late = slice(border), slice(border, None)
        if any(self.task.shortfall(self.label[part]) or self._weight(part) <= 0 for part in (early, late)):
            return None
        return self._rows(early), self._rows(late)

    def _weight(self, which: slice) -> float:
        """On average."""
        return 1.0 if self.weights is None else float(self.weights[which].mean())

    def _rows(self, which: slice) -> Self:
        weights = None if self.weights is None else self.weights[which] / self._weight(which)
        return replace(self, matrix=self.matrix[which], label=self.label[which], weights=weights, held_out=None)


@dataclass(frozen=True)
class FitData(_Given[NDArray[np.float32]]):
    """What a candidate is given to learn from.

    matrix: encoded features, float32 [rows, features], in the order of prediction time; it may be read-only. label: as
    `task` encodes it, [rows]. weights: how much each row counts, float64 [rows], 1 on average; None: all the same.
    held_out: see `Fit`. ends_at: the moment of `time.monotonic` from which on to end with what there is; None: never.
    """


@dataclass(frozen=True)
class FitBlocks(_Given[Blocks]):
    """What a candidate is given to learn from where the matrix is too large for memory; else as `FitData`.

    checkpoints: a URL below which a fit may leave what it goes on from after it was killed. memory_bytes: what a
    process may take.
    """

    checkpoints: str = ""
    memory_bytes: int = 0
