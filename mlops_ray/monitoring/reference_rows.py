"""The rows behind a reference, as far as it looks at them: sealed beside it, so that another can be made of them.

Of each row its moment and, of each feature that is watched, the bin or category that it is in; of the rows that were
held out the answers, labels and categories. No value is stored that the reference does not have as an edge or category.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import IntegrityError
from mlops_ray.monitoring.answers import EXPECTED, answer_columns, answer_in
from mlops_ray.monitoring.build_reference import Past, Scored, Wanted, learn
from mlops_ray.monitoring.error_estimation import ErrorEstimator
from mlops_ray.monitoring.learn_normal import Column
from mlops_ray.monitoring.null_windows import cells_of
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.seasons import cell_counts
from mlops_ray.monitoring.sketches import NumericSketch
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import Feature

ROWS_FILE = "reference.rows"
# Of a reference with more values than this no rows are sealed: they would be larger than most models.
MOST_VALUES = 100_000_000
_FORMAT = 1
_TIME, _LABEL, _UNKNOWN = "time", "label", -1


@dataclass(frozen=True)
class ReferenceRows:
    """moment [rows], in order. cells: of each feature, which of `seasons.cell_counts` each row is in, [rows]. means: of
    the numbers in each cell, [cells]. declared: features whose categories the use case declares. scored: rows that were
    held out, with `time`, the answer, `label`, `EXPECTED` (see `foretell`) and the columns that can be slices. task:
    the kind of their labels."""

    moment: NDArray[np.datetime64]
    cells: Mapping[str, NDArray[np.integer[Any]]]
    means: Mapping[str, NDArray[np.float64]]
    declared: tuple[str, ...]
    scored: pl.DataFrame
    task: Task = BINARY

    @classmethod
    def of(
        cls, rows: pl.DataFrame, time: str, features: Sequence[Feature], scored: pl.DataFrame, reference: Reference
    ) -> "ReferenceRows | None":
        """What of `rows` the reference was made of. None if that is too much to seal."""
        if len(rows) * len(features) > MOST_VALUES:
            return None
        rows = rows.sort(time, maintain_order=True)
        cells, means = {}, {}
        for feature in features:
            sketch = reference.columns[feature.name]
            cell, number = cells_of(rows[feature.name], sketch), len(cell_counts(sketch))
            cells[feature.name] = cell.astype(_smallest(number))
            if isinstance(sketch, NumericSketch):
                means[feature.name] = _means(rows[feature.name].cast(pl.Float64).to_numpy(), cell, number)
        return cls(
            _moments(rows[time]), cells, means, tuple(feature.name for feature in features if feature.categories),
            scored.rename({time: _TIME}).sort(_TIME, maintain_order=True), reference.task,
        )  # fmt: skip

    @property
    def slices(self) -> tuple[str, ...]:
        """The columns by whose values rows with labels can be judged for themselves."""
        return tuple(name for name in self.scored.columns if name not in self._own)

    @property
    def _own(self) -> tuple[str, ...]:
        return (_TIME, *self.task.ledger_types, _LABEL, EXPECTED)

    def reference(self, sealed: Reference, wanted: Wanted) -> Reference:
        """The reference for other windows, slices, detectors or another promise, of the same rows and bins."""
        columns = [
            Column(name, sketch, self.cells[name].astype(np.int64), declared=name in self.declared)
            for name, sketch in sealed.inputs.items()
        ]
        numbers = {name: means[self.cells[name]] for name, means in self.means.items()}
        tree = sealed.estimator.tree if isinstance(sealed.estimator, ErrorEstimator) else None
        scored = Scored(self.scored if len(self.scored) else None, self.task, tree)
        return learn(Past(self.moment, columns, numbers), scored, _TIME, wanted)

    def to_bytes(self) -> bytes:
        """The same rows give the same bytes. No pickle."""
        answer = answer_in(self.scored, self.task).ravel()
        scored = {_TIME: _packed(_moments(self.scored[_TIME]).astype(np.int64)), self.task.output: _packed(answer)}
        if EXPECTED in self.scored.columns:
            scored[EXPECTED] = _packed(self.scored[EXPECTED].to_numpy())
        return msgspec.msgpack.encode(
            {
                "format": _FORMAT,
                "moment": _packed(self.moment.astype(np.int64)),
                "cells": {name: _packed(cell) for name, cell in self.cells.items()},
                "means": {name: _packed(means) for name, means in self.means.items()},
                "declared": self.declared,
                "scored": {**scored, _LABEL: _labels(self.scored[_LABEL])},
                "slices": {name: _codes(self.scored[name]) for name in self.slices},
            }
        )

    @classmethod
    def from_bytes(cls, content: bytes, task: Task = BINARY) -> "ReferenceRows":
        """What `to_bytes` gave, of a model of this task. Raises IntegrityError if it is something else."""
        try:
            found = msgspec.msgpack.decode(content)
            if found["format"] != _FORMAT:
                raise ValueError(f"format {found['format']!r}")
            scored = {name: _unpacked(*part) for name, part in found["scored"].items() if name != _LABEL}
            frame = pl.DataFrame(
                {
                    _TIME: pl.Series(scored[_TIME]).cast(pl.Datetime("us", "UTC")),
                    **{one.name: one for one in answer_columns(scored[task.output].reshape(-1, task.width), task)},
                    _LABEL: _labels_from(found["scored"][_LABEL], task.label_type),
                    **({EXPECTED: scored[EXPECTED]} if EXPECTED in scored else {}),
                    **{name: _texts(*part) for name, part in found["slices"].items()},
                }
            )
            return cls(
                _unpacked(*found["moment"]).astype("datetime64[us]"),
                {name: _unpacked(*part) for name, part in found["cells"].items()},
                {name: _unpacked(*part) for name, part in found["means"].items()},
                tuple(found["declared"]),
                frame,
                task,
            )
        except (KeyError, TypeError, ValueError, zlib.error, msgspec.MsgspecError) as error:
            raise IntegrityError(f"{ROWS_FILE} of the sealed model does not fit this version: {error!r}.") from error


def _moments(values: pl.Series) -> NDArray[np.datetime64]:
    return values.cast(pl.Datetime("us")).to_physical().to_numpy().astype("datetime64[us]")


def _means(values: NDArray[np.float64], cell: NDArray[np.int64], cells: int) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32).astype(np.float64)
    sums = np.bincount(cell, np.where(np.isfinite(numbers), numbers, 0.0), minlength=cells)
    return np.asarray(sums / np.maximum(1, np.bincount(cell, minlength=cells)), dtype=np.float64)


def _smallest(cells: int) -> type[np.integer[Any]]:
    return np.uint8 if cells <= 256 else np.uint16 if cells <= 65_536 else np.uint32


def _packed(values: NDArray[Any]) -> tuple[str, bytes]:
    little = values.astype(values.dtype.newbyteorder("<"))
    return little.dtype.str, zlib.compress(little.tobytes())


def _unpacked(dtype: str, content: bytes) -> NDArray[Any]:
    return np.frombuffer(zlib.decompress(content), np.dtype(dtype))


def _labels(labels: pl.Series) -> tuple[Any, ...]:
    """Yes and no as numbers, null as -1; texts as `_codes`; other numbers as they are, null as NaN."""
    if labels.dtype == pl.Boolean:
        return _packed(labels.cast(pl.Int8).fill_null(_UNKNOWN).to_numpy())
    return _packed(labels.cast(pl.Float64).to_numpy()) if labels.dtype.is_numeric() else _codes(labels)


def _labels_from(stored: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    if dtype == pl.Boolean:
        return pl.Series(_unpacked(*stored)).replace(_UNKNOWN, None).cast(pl.Boolean)
    return pl.Series(_unpacked(*stored)).fill_nan(None) if dtype.is_numeric() else _texts(*stored)


def _codes(values: pl.Series) -> tuple[list[str], str, bytes]:
    """Texts by their place among the different ones, null behind the last."""
    texts = values.cast(pl.String)
    known = texts.drop_nulls().unique().sort().to_list()
    places = {text: at for at, text in enumerate(known)}
    code = texts.replace_strict(places, default=len(known), return_dtype=pl.Int64).to_numpy()
    return (known, *_packed(code.astype(_smallest(len(known) + 1))))


def _texts(known: Sequence[str], dtype: str, content: bytes) -> pl.Series:
    places = pl.Series(_unpacked(dtype, content).astype(np.int64))
    return pl.Series([*known, None], dtype=pl.String).gather(places)
