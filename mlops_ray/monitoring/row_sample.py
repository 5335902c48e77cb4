"""A sample of a window's rows in constant memory: what alarms show as examples, and a domain classifier learns from."""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.monitoring.null_windows import cells_of
from mlops_ray.monitoring.sketches import NumericSketch, Sketch

NAMES = ("request_id", "row")
_HASH = "__hash"


@dataclass(frozen=True)
class RowSample:
    """The `size` rows with the smallest hashes: which rows these are depends neither on their order nor on their parts.

    Bottom-k sampling (Cohen and Kaplan, "Summarizing data using bottom-k sketches", 2007). The hash is of request id
    and row where there are any, else of the whole row, so that equal rows are then taken together.

    rows: request_id and row, if there, and a column for each feature (float32 or text).
    """

    size: int
    rows: pl.DataFrame

    @classmethod
    def of(cls, rows: pl.DataFrame, columns: Mapping[str, Sketch], size: int) -> "RowSample":
        """A sample of `rows` with the named columns that they have."""
        if not size or rows.is_empty():
            return cls(size, pl.DataFrame())
        named = [name for name in NAMES if name in rows.columns]
        hashed = rows.select(named) if named else rows
        found = hashed.hash_rows(seed=1).alias(_HASH)
        first = found.arg_sort()[:size] if len(rows) > size else pl.Series(range(len(rows)))
        features = [name for name in columns if name in rows.columns]
        picked = rows.select(*named, *features)[first].with_columns(found[first])
        types = {name: pl.Float32() if isinstance(columns[name], NumericSketch) else pl.String() for name in features}
        return cls(size, picked.with_columns(pl.col(n).cast(type_, strict=False) for n, type_ in types.items()))

    def plus(self, other: "RowSample") -> "RowSample":
        """The sample of both together."""
        parts = [part for part in (self.rows, other.rows) if len(part)]
        if len(parts) < 2:
            return RowSample(self.size, parts[0] if parts else self.rows)
        return RowSample(self.size, pl.concat(parts, how="diagonal").bottom_k(self.size, by=_HASH))

    def values(self) -> pl.DataFrame:
        """The rows without their hashes."""
        return self.rows.drop(_HASH, strict=False)

    def to_bytes(self) -> bytes:
        stream = io.BytesIO()
        self.rows.write_ipc(stream, compression="zstd")
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, size: int, content: bytes) -> "RowSample":
        return cls(size, pl.read_ipc(io.BytesIO(content)))


def matrix(rows: pl.DataFrame, columns: Mapping[str, Sketch]) -> NDArray[np.float32]:
    """Rows as numbers [rows, columns], for a classifier: categories by their place in the reference, NaN for missing.

    A column that the rows do not have is missing throughout.
    """
    found = np.full((len(rows), len(columns)), np.nan, dtype=np.float32)
    for at, (name, sketch) in enumerate(columns.items()):
        if name not in rows.columns:
            continue
        if isinstance(sketch, NumericSketch):
            with np.errstate(over="ignore"):
                numbers = rows[name].cast(pl.Float64, strict=False).to_numpy().astype(np.float32)
            found[:, at] = np.where(np.isfinite(numbers), numbers, np.nan)
        else:
            cell = cells_of(rows[name], sketch)
            found[:, at] = np.where(cell > len(sketch.categories), np.nan, cell)
    return found
