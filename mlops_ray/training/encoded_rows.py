"""Encoded rows: a stretch of a training set as blocks of the matrix that candidates learn from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import DataError
from mlops_ray.features.blocks import Rows
from mlops_ray.features.columns import LABEL, PREDICTION_TIME
from mlops_ray.tasks.task import Task
from mlops_ray.training.encoding import Encoder, OfLevels


@dataclass(frozen=True)
class EncodedRows:
    """See use_case.Blocks. of_levels: of rows that the encoder was fitted to, see `Encoder.of_fitted`; None: of
    others."""

    encoder: Encoder
    rows: Rows
    of_levels: OfLevels | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice) -> Self:
        of_levels = self.of_levels and {name: numbers[rows] for name, numbers in self.of_levels.items()}
        return replace(self, rows=self.rows[rows], of_levels=of_levels)

    @property
    def sizes(self) -> Sequence[int]:
        return [block.rows for block in self.rows.blocks]

    def read(self, number: int) -> NDArray[np.float32]:
        names = [feature.name for feature in self.encoder.features]
        frame, before = self.rows.blocks[number].read(names), sum(self.sizes[:number])
        inside = slice(before, before + frame.height)
        of_levels = None if self.of_levels is None else {name: one[inside] for name, one in self.of_levels.items()}
        return self.encoder.encode(frame, of_levels)

    def matrix(self) -> NDArray[np.float32]:
        """All at once, [rows, columns]."""
        parts = [self.read(number) for number in range(len(self.sizes))]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def labels_of(rows: Rows, task: Task) -> NDArray[Any]:
    """The labels of all rows as the task encodes them. Raises DataError naming the stretch with one that can be
    none."""
    found = list[NDArray[Any]]()
    for frame in rows.frames([PREDICTION_TIME, LABEL]):
        try:
            found.append(task.encoded(frame[LABEL]))
        except DataError as error:
            if len(rows.blocks) == 1:
                raise
            raise DataError(f"Of the rows from {_first(frame)} to {_last(frame)}: {error}") from error
    return np.concatenate(found)


def moments_of(rows: Rows) -> pl.Series:
    """The moments of prediction of all rows."""
    return rows.whole([PREDICTION_TIME])[PREDICTION_TIME]


def _first(frame: pl.DataFrame) -> Any:
    return frame[PREDICTION_TIME].min()


def _last(frame: pl.DataFrame) -> Any:
    return frame[PREDICTION_TIME].max()
