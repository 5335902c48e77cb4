"""Sketches: mergeable summaries of columns in constant memory. References and drift windows are made of them.

    window = reference.empty()      # the same bins, nothing counted
    window.update(values)           # as often as rows come
    window.merge(other)             # what another process counted

Counts, rates and moments are exact, quantiles come from a KLL sketch (Karnin, Lang and Liberty, "Optimal quantile
approximation in streams", 2016). Only those depend on chance: the bits with which the sketch drops values cannot be
seeded, so whatever must come out the same twice is computed from the counts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import inf, nan
from typing import Any

import msgspec
import numpy as np
import polars as pl
from datasketches import frequent_items_error_type, frequent_strings_sketch, kll_floats_sketch
from numpy.typing import ArrayLike, NDArray

from mlops_ray.errors import DataError

KLL_K = 200
BINS = 100
# Values are taken by so many, which fit the processor's caches: a million at once takes three times as long.
_CHUNK = 8192
# The unseen values that hold more than 1.4 % of all unseen ones are surely found (3.5 / 2**8).
_LOG2_HEAVY = 8


@dataclass
class NumericSketch:
    """Numbers as float32, the precision that a model sees them in; null, NaN and infinite are missing.

    edges: float32, ascending and finite. counts[i]: values v with edges[i - 1] < v <= edges[i]; int64 [len(edges) + 1].
    mean, m2: of the values, float64; m2 is the sum of squared deviations. minimum is inf and maximum -inf while there
    is no value. quantiles: a KLL sketch of the values. counts_only: leave that out, which takes half of the time; who
    has the same bins as what it is compared with needs none.
    """

    edges: NDArray[np.float32]
    counts: NDArray[Any]
    missing: float = 0
    minimum: float = inf
    maximum: float = -inf
    mean: float = 0.0
    m2: float = 0.0
    quantiles: Any = field(default_factory=lambda: kll_floats_sketch(KLL_K))
    counts_only: bool = False

    @classmethod
    def with_edges(cls, edges: ArrayLike = ()) -> "NumericSketch":
        """An empty sketch with these bins; without edges it has one, and its distribution only as quantiles."""
        array = np.asarray(edges, dtype=np.float32)
        return cls(array, np.zeros(len(array) + 1, dtype=np.int64))

    @classmethod
    def of(cls, values: ArrayLike) -> "NumericSketch":
        """`values` in bins of their own (see `edges_of`)."""
        sketch = cls.with_edges(edges_of(values))
        sketch.update(values)
        return sketch

    @property
    def values(self) -> float:
        """How many values there are, missing ones left out."""
        return float(self.counts.sum())

    @property
    def rows(self) -> float:
        return self.values + self.missing

    @property
    def deviation(self) -> float:
        """Standard deviation of the values (divided by n), NaN without values."""
        return float(np.sqrt(self.m2 / self.values)) if self.values else nan

    def empty(self) -> "NumericSketch":
        return NumericSketch.with_edges(self.edges)

    def empty_counts(self) -> "NumericSketch":
        """The same bins, for counts only; where there are none, as `empty`."""
        sketch = self.empty()
        sketch.counts_only = len(self.edges) > 0
        return sketch

    def update(self, values: ArrayLike) -> None:
        """Count `values` [n]; any numeric dtype."""
        array = _float32(values)
        for start in range(0, len(array), _CHUNK):
            self._update(array[start : start + _CHUNK])

    def _update(self, values: NDArray[np.float32]) -> None:
        # Sorted, the bins of n values take len(edges) searches instead of n, and the ends are at the ends.
        ordered = np.sort(values)
        infinite = np.float32(inf)  # sorted between the numbers and NaN
        finite = ordered[np.searchsorted(ordered, -infinite, "right") : np.searchsorted(ordered, infinite, "left")]
        self.missing += len(ordered) - len(finite)
        if not len(finite):
            return
        below = np.searchsorted(finite, self.edges, side="right")
        self.counts[:-1] += below
        self.counts[1:] -= below
        self.counts[-1] += len(finite)
        mean = float(finite.mean(dtype=np.float64))
        deviations = finite.astype(np.float64) - mean
        self._add_moments(len(finite), mean, float(deviations @ deviations))
        self.minimum, self.maximum = min(self.minimum, float(finite[0])), max(self.maximum, float(finite[-1]))
        if not self.counts_only:
            self.quantiles.update(finite)

    def merge(self, other: "NumericSketch") -> None:
        """Count all that `other` has counted. Raises DataError if its bins are others."""
        if not np.array_equal(self.edges, other.edges):
            raise DataError(f"Sketches of {len(self.counts)} and {len(other.counts)} bins cannot be merged.")
        self.counts = self.counts + other.counts
        self.missing += other.missing
        self._add_moments(0 if not other.values else other.values, other.mean, other.m2)
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        # Quantiles of a part of the values would be taken for those of all.
        self.counts_only = self.counts_only or other.counts_only
        if self.counts_only:
            self.quantiles = kll_floats_sketch(KLL_K)
        else:
            self.quantiles.merge(other.quantiles)

    def _add_moments(self, values: float, mean: float, m2: float) -> None:
        """Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.

        `counts` already has the added values.
        """
        total = self.values
        if values:
            before, apart = total - values, mean - self.mean
            self.mean += apart * values / total
            self.m2 += m2 + apart * apart * before * values / total

    def like(self, other: "Sketch") -> "NumericSketch":
        """These values in the bins of `other`, as if those of each bin lay evenly between its ends.

        Rows and moments stay exact. The part of the values below an edge is off by at most the part that the bin has in
        which the edge lies: 1 % where it was cut into 100 that hold equally many, more where values repeat or have
        moved together into one bin. Without values, with these edges, and beside categories, it stays as it is.
        """
        if isinstance(other, CategoricalSketch) or not self.values or np.array_equal(self.edges, other.edges):
            return self
        # The first and the last bin end with the values; an edge beyond all of them has nothing or everything below.
        inner = np.clip(self.edges.astype(np.float64), self.minimum, self.maximum)
        at, below = np.concatenate([inner, [self.maximum]]), np.cumsum(self.counts, dtype=np.float64)
        if self.minimum < at[0]:
            at, below = np.concatenate([[self.minimum], at]), np.concatenate([[0.0], below])
        # Of bins that end at the same value the last has counted all up to it.
        last = np.append(np.diff(at) > 0, True)
        found = np.interp(other.edges.astype(np.float64), at[last], below[last], left=0.0, right=self.values)
        counts = np.diff(found, prepend=0.0, append=self.values)
        quantiles = kll_floats_sketch(KLL_K)
        return replace(self, edges=other.edges, counts=counts, quantiles=quantiles, counts_only=True)

    def copy(self) -> "NumericSketch":
        state = (
            self.missing,
            self.minimum,
            self.maximum,
            self.mean,
            self.m2,
            self.quantiles.__copy__(),
            self.counts_only,
        )
        return NumericSketch(self.edges, self.counts.copy(), *state)

    def to_bytes(self) -> bytes:
        moments = [self.missing, self.minimum, self.maximum, self.mean, self.m2]
        arrays = [self.edges.astype("<f4").tobytes(), self.counts.astype("<i8").tobytes()]
        return msgspec.msgpack.encode(["number", *arrays, moments, self.quantiles.serialize()])


@dataclass
class CategoricalSketch:
    """Texts: counts[i] rows have categories[i]; `unseen` rows another value; null and "" are missing."""

    categories: tuple[str, ...]
    counts: NDArray[Any]
    missing: float = 0
    unseen: float = 0
    heavy: Any = field(default_factory=lambda: frequent_strings_sketch(_LOG2_HEAVY))

    @classmethod
    def with_categories(cls, categories: Iterable[str] = ()) -> "CategoricalSketch":
        known = tuple(categories)
        return cls(known, np.zeros(len(known), dtype=np.int64))

    @classmethod
    def of(cls, values: Sequence[str | None] | pl.Series) -> "CategoricalSketch":
        """`values` with all of them as categories, sorted."""
        texts = _texts(values)
        sketch = cls.with_categories(sorted(value for value in texts.drop_nulls().unique() if value != ""))
        sketch.update(texts)
        return sketch

    @property
    def values(self) -> float:
        """How many rows have a value, unseen ones among them."""
        return float(self.counts.sum() + self.unseen)

    @property
    def rows(self) -> float:
        return self.values + self.missing

    def empty(self) -> "CategoricalSketch":
        return CategoricalSketch.with_categories(self.categories)

    def update(self, values: Sequence[str | None] | pl.Series) -> None:
        """Count `values` [n] of any type; they are compared as text."""
        counted = _texts(values).value_counts(name="rows")
        position = {category: index for index, category in enumerate(self.categories)}
        unseen = []
        for value, rows in counted.iter_rows():
            if value in position:
                self.counts[position[value]] += rows
            elif value is None or value == "":
                self.missing += rows
            else:
                unseen.append((value, rows))
        self.unseen += sum(rows for _, rows in unseen)
        for value, rows in sorted(unseen):
            self.heavy.update(value, rows)

    def merge(self, other: "CategoricalSketch") -> None:
        """Count all that `other` has counted. Raises DataError if its categories are others."""
        if self.categories != other.categories:
            raise DataError(f"Sketches of {len(self.counts)} and {len(other.counts)} categories cannot be merged.")
        self.counts = self.counts + other.counts
        self.missing += other.missing
        self.unseen += other.unseen
        self.heavy.merge(other.heavy)

    def frequent_unseen(self, most: int = 5) -> tuple[tuple[str, int], ...]:
        """The most frequent unseen values with about how many rows have them, most frequent first.

        Misra and Gries, "Finding repeated elements", 1982, as in Apache DataSketches: a count is at most 1.4 % of all
        unseen rows too high.
        """
        found = self.heavy.get_frequent_items(frequent_items_error_type.NO_FALSE_NEGATIVES)
        return tuple((value, rows) for value, rows, *_ in sorted(found, key=lambda item: (-item[1], item[0]))[:most])

    def like(self, other: "Sketch") -> "CategoricalSketch":
        """These rows in the categories of `other`; beside numbers it stays as it is."""
        if isinstance(other, NumericSketch):
            return self
        rows = dict(zip(self.categories, self.counts.tolist(), strict=True))
        counts = np.array([rows.pop(category, 0) for category in other.categories])
        return CategoricalSketch(other.categories, counts, self.missing, self.unseen + sum(rows.values()))

    def copy(self) -> "CategoricalSketch":
        return CategoricalSketch(self.categories, self.counts.copy(), self.missing, self.unseen, self.heavy.__copy__())

    def to_bytes(self) -> bytes:
        counted = [self.counts.astype("<i8").tobytes(), self.missing, self.unseen, self.heavy.serialize()]
        return msgspec.msgpack.encode(["category", self.categories, *counted])


Sketch = NumericSketch | CategoricalSketch


def sketch_from_bytes(content: bytes) -> Sketch:
    """What `to_bytes` of either kind wrote. Raises DataError if it is something else."""
    try:
        kind, *parts = msgspec.msgpack.decode(content)
        if kind == "number":
            edges, counts, moments, quantiles = parts
            bins = np.frombuffer(edges, "<f4"), np.frombuffer(counts, "<i8").copy()
            missing, minimum, maximum, mean, m2 = moments
            sketch = kll_floats_sketch.deserialize(quantiles)
            return NumericSketch(*bins, missing, minimum, maximum, mean, m2, sketch)
        categories, counts, missing, unseen, heavy = parts
        counted = np.frombuffer(counts, "<i8").copy()
        heavy = frequent_strings_sketch.deserialize(heavy)
        return CategoricalSketch(tuple(categories), counted, missing, unseen, heavy)
    except (msgspec.DecodeError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{len(content)} bytes are not a sketch of this version: {error}") from error


def edges_of(values: ArrayLike, bins: int = BINS) -> NDArray[np.float32]:
    """Edges of about `bins` bins that hold equally many of `values`; missing values are left out.

    Edges are values (the inverse of the empirical distribution). One that takes the place of several edges has an edge
    just before it as well, as each has if there are at most `bins` different ones: it is then alone in its bin, and
    other bins have what lies below it and between it and the next. So there are at most 2 `bins` edges.
    """
    array = _float32(values)
    finite = np.sort(array[np.isfinite(array)])
    if not len(finite):
        return np.empty(0, dtype=np.float32)
    distinct = np.unique(finite)
    if len(distinct) <= bins:
        return with_edges_before(distinct, distinct)
    positions = np.ceil(np.arange(1, bins) * len(finite) / bins).astype(np.int64) - 1
    edges, taken = np.unique(finite[positions], return_counts=True)
    return with_edges_before(edges, edges[taken > 1])


def with_edges_before(edges: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """`edges`, and one just before each of `values`; ascending, float32."""
    just_before = before(values)
    return np.union1d(edges, just_before[np.isfinite(just_before)])


def before(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The next smaller float32 of each value. Of 0 the next that is normal: some libraries have processors take the
    others for 0."""
    with np.errstate(over="ignore"):
        return np.where(values == 0, -np.finfo(np.float32).tiny, np.nextafter(values, np.float32(-inf)))


def _float32(values: ArrayLike) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float32, copy=False)


def _texts(values: Sequence[str | None] | pl.Series) -> pl.Series:
    series = values if isinstance(values, pl.Series) else pl.Series(values, strict=False)
    return series.cast(pl.String).alias("value")
