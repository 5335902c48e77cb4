"""Segments of the inputs: a feature among the predictions that share a value of a category, compared for itself.

A shift in one part of the inputs is lost among the others, or made up for by them. Each segment is a column more, empty
outside it, whose values are judged as those of features are: all columns share the promise, so it holds however many
segments there are. How many predictions are in a segment is what the category itself shows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.monitoring.learn_normal import Column
from mlops_ray.monitoring.seasons import cell_counts, with_cell_counts
from mlops_ray.monitoring.sketches import CategoricalSketch, NumericSketch, Sketch

# Of each category the most frequent values, that have at least this part of the reference's rows.
MOST_VALUES, LEAST_SHARE = 20, 0.01


@dataclass(frozen=True)
class InputSegment:
    """`feature` where `category` is `value`. share: of the reference's rows."""

    feature: str
    category: str
    value: str
    share: float

    @property
    def name(self) -> str:
        """Of its column."""
        return f"{self.feature} [{self.category}={self.value}]"


def with_segments(rows: pl.DataFrame, segments: Iterable[InputSegment]) -> pl.DataFrame:
    """The rows with a column for each segment; none for those whose features they do not have."""
    there = [one for one in segments if one.feature in rows.columns and one.category in rows.columns]
    return rows.with_columns(
        pl.when(pl.col(one.category).cast(pl.String) == one.value).then(one.feature).alias(one.name) for one in there
    )


@dataclass(frozen=True)
class Segmented:
    """columns, numbers: of the segments, as `Past` has them. segments: by the names of their columns."""

    columns: Sequence[Column]
    numbers: Mapping[str, NDArray[np.float64]]
    segments: Mapping[str, InputSegment]


def segmented(
    columns: Sequence[Column], numbers: Mapping[str, NDArray[np.float64]], wanted: Mapping[str, Sequence[str]]
) -> Segmented:
    """The segments of a past: of each category in `wanted` its values, with these features, in their bins."""
    by_name = {column.name: column for column in columns}
    made, values, segments = list[Column](), dict[str, NDArray[np.float64]](), dict[str, InputSegment]()
    for category, features in wanted.items():
        for cell, value, share in _values(by_name[category]):
            inside = by_name[category].cell == cell
            for feature in features:
                one, name = by_name[feature], InputSegment(feature, category, value, share).name
                within = numbers[feature][inside] if feature in numbers else None
                if feature in numbers:
                    values[name] = np.where(inside, numbers[feature], np.nan)
                cells = np.where(inside, one.cell, one.cells - 1)
                made.append(replace(one, name=name, sketch=_counted(one, cells, within), cell=cells, is_segment=True))
                segments[name] = InputSegment(feature, category, value, share)
    return Segmented(made, values, segments)


def _values(category: Column) -> list[tuple[int, str, float]]:
    """The cell of each value that makes a segment, the value, and its share of the rows; the most frequent first."""
    sketch = category.sketch
    assert isinstance(sketch, CategoricalSketch)
    counts = np.bincount(category.cell, minlength=category.cells)[: len(sketch.categories)]
    order = np.argsort(-counts, kind="stable")[:MOST_VALUES]
    shares = counts / max(1, len(category.cell))
    return [(int(at), sketch.categories[at], float(shares[at])) for at in order if shares[at] >= LEAST_SHARE]


def _counted(feature: Column, cells: NDArray[np.int64], within: NDArray[np.float64] | None) -> Sketch:
    """The feature's sketch with what is in the segment. within: of a number its values there."""
    found = with_cell_counts(feature.sketch, np.bincount(cells, minlength=len(cell_counts(feature.sketch))))
    if not isinstance(found, NumericSketch) or within is None:
        return found
    finite = within[np.isfinite(within)]
    if not len(finite):
        return found
    mean = float(finite.mean())
    return replace(
        found, minimum=float(finite.min()), maximum=float(finite.max()), mean=mean,
        m2=float(((finite - mean) ** 2).sum()),
    )  # fmt: skip
