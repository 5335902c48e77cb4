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
from mlops_ray.training.encoding import Encoder


@dataclass(frozen=True)
class EncodedRows:
    """See use_case.Blocks."""

    encoder: Encoder
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice) -> Self:
        return replace(self, rows=self.rows[rows])

    @property
    def sizes(self) -> Sequence[int]:
        return [block.rows for block in self.rows.blocks]

    def read(self, number: int) -> NDArray[np.float32]:
        names = [feature.name for feature in self.encoder.features]
        return self.encoder.encode(self.rows.blocks[number].read(names))

    def matrix(self) -> NDArray[np.float32]:
        """All at once, [rows, features]."""
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
