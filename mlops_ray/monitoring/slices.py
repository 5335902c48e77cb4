"""Slices: the rows that share a value of a column, judged for themselves."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

ALL_ROWS = "all"
# A slice with fewer rows with labels in a window is not judged.
MINIMUM_SLICE_ROWS = 200


def slice_rows(rows: pl.DataFrame, slices: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """Which rows are in each slice: "all", and those with each value of each column of `slices` as "column=value"."""
    found = {ALL_ROWS: np.ones(len(rows), dtype=np.bool_)}
    for column in slices:
        values = rows[column].cast(pl.String).fill_null("")
        found |= {f"{column}={value}": (values == value).to_numpy() for value in values.unique().sort()}
    return found
