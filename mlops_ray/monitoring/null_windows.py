"""Windows of the reference period, each with the rest of the reference it can be compared with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.monitoring.seasons import LENGTHS, Season, Seasonal, season_of
from mlops_ray.monitoring.sketches import NumericSketch, Sketch
from mlops_ray.use_case.window_spec import WindowSpec

# A window is moved on by this part of itself, and at most so many are looked at: more only repeat the same rows.
_STEPS = 8
_MOST = 200
_DAY = timedelta(days=1)
_SEED = 0


@dataclass(frozen=True)
class Pair:
    """A window [first, last) in steps, the steps of the reference it is compared without, and its rows."""

    first: int
    last: int
    without: tuple[int, int]


@dataclass(frozen=True)
class NullWindows:
    """Contiguous windows of the reference period, overlapping, in order of time.

    step: of each row, which step of time it is in. pairs: the windows. independent: how many windows, or days if
    windows are shorter, do not overlap; this many can be learned from, however many there are. begins: of each step,
    in days since the first row. kept: rows that count in windows, None for all; in what they are compared with, all do.
    """

    step: NDArray[np.int64]
    steps: int
    pairs: tuple[Pair, ...]
    independent: int
    overlap: int
    begins: NDArray[np.float64]
    kept: NDArray[np.bool_] | None = None

    def sums(
        self, cell: NDArray[np.int64], cells: int, weight: NDArray[np.float64] | None = None
    ) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """For each window the counts [cells] of its rows, and of the reference without it.

        cell, weight: of each row. With weights their sums are taken in place of counts.
        """
        yield from zip(*self.counts(cell, cells, weight), strict=True)

    def counts(
        self, cell: NDArray[np.int64], cells: int, weight: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """What `sums` gives, of all windows at once: two arrays [windows, cells]."""
        below = self.below(cell, cells, weight)
        inside = below if self.kept is None else self.below(cell, cells, weight, self.kept)
        ends = np.array([(p.first, p.last, *p.without) for p in self.pairs], dtype=np.int64).reshape(-1, 4)
        first, last, low, high = ends.T
        return inside[last] - inside[first], below[-1] - (below[high] - below[low])

    def below(
        self,
        cell: NDArray[np.int64],
        cells: int,
        weight: NDArray[np.float64] | None = None,
        kept: NDArray[np.bool_] | None = None,
    ) -> NDArray[Any]:
        """Counts of the rows before each step, [steps + 1, cells]."""
        at = self.step * cells + cell
        if kept is not None:
            at, weight = at[kept], None if weight is None else weight[kept]
        flat = np.bincount(at, weight, minlength=self.steps * cells).reshape(self.steps, cells)
        return np.vstack([np.zeros((1, cells), dtype=flat.dtype), np.cumsum(flat, axis=0)])


def null_windows(moment: NDArray[np.datetime64], spec: WindowSpec, one_in: int = 1) -> NullWindows:
    """Windows of `spec` of the rows at `moment` [rows], sorted. one_in: of so many rows one, by chance, is in a window.

    This is the moving block bootstrap (Künsch, "The jackknife and the bootstrap for general stationary observations",
    1989) with blocks as long as a window and at least a day: rows of a day resemble each other, and days of a week
    do, so a window put together from rows or days of anywhere would look more like the reference than any real one.
    A window is compared with the reference without itself and without all within a sixth of the period, at most 30
    days, around it: a window after training has no rows in the reference either, nor has its season's every week.
    """
    if not len(moment):
        return NullWindows(np.empty(0, dtype=np.int64), 0, (), 0, 1, np.empty(0))
    micros = moment.astype("datetime64[us]").astype(np.int64)
    span = timedelta(microseconds=int(micros[-1] - micros[0]))
    if spec.rows is not None:
        step = np.arange(len(micros)) * _STEPS // spec.rows
        windows = len(micros) // spec.rows
    else:
        assert spec.length is not None
        step = (micros - micros[0]) * _STEPS // (spec.length // timedelta(microseconds=1))
        windows = span // spec.length
    steps = int(step[-1]) + 1
    starts = np.searchsorted(step, np.arange(steps + 1))
    apart = min(span / 6, 30 * _DAY) // timedelta(microseconds=1)
    firsts = range(0, steps - _STEPS + 1, max(1, (steps - _STEPS) // _MOST))
    pairs = (_pair(first, starts, micros, apart) for first in firsts)
    kept = tuple(p for p in pairs if starts[p.last] - starts[p.first] >= spec.minimum_rows)
    begins = (micros[np.minimum(starts[:-1], len(micros) - 1)] - micros[0]) / (_DAY / timedelta(microseconds=1))
    chosen = None if one_in == 1 else np.random.default_rng(_SEED).random(len(micros)) * one_in < 1
    overlap = -(-_STEPS // firsts.step)
    return NullWindows(step, steps, kept, min(windows, span // _DAY + 1), overlap, begins, chosen)


def _pair(first: int, starts: NDArray[np.intp], micros: NDArray[np.int64], apart: int) -> Pair:
    last = first + _STEPS
    top = len(micros) - 1
    low = np.searchsorted(micros, micros[min(starts[first], top)] - apart)
    high = np.searchsorted(micros, micros[min(starts[last] - 1, top)] + apart, side="right")
    without = np.searchsorted(starts, [low, high])
    return Pair(first, last, (int(min(without[0], first)), int(max(min(without[1], len(starts) - 1), last))))


def cells_of(values: pl.Series, sketch: Sketch) -> NDArray[np.int64]:
    """Of each row, the position of its cell in `seasons.cell_counts(sketch)`."""
    if isinstance(sketch, NumericSketch):
        with np.errstate(over="ignore"):
            numbers = values.cast(pl.Float64).to_numpy().astype(np.float32)
        found = np.searchsorted(sketch.edges, numbers)
        return np.where(np.isfinite(numbers), found, len(sketch.counts)).astype(np.int64)
    position: Mapping[str, int] = {category: index for index, category in enumerate(sketch.categories)}
    unseen, missing = len(position), len(position) + 1
    texts = values.cast(pl.String).fill_null("")
    codes = texts.replace_strict({"": missing, **position}, default=unseen, return_dtype=pl.Int64)
    return codes.to_numpy()


def seasonal_sums(
    windows: NullWindows, cell: NDArray[np.int64], cells: int, moment: NDArray[np.datetime64], season: Season
) -> Iterator[tuple[NDArray[np.int64], Seasonal]]:
    """For each window its rows at each time of the season, and the rest of the reference by those times.

    What is left out moves on with the windows, so each row is added once and taken away once.
    """
    times = LENGTHS[season]
    at = season_of(moment, season)
    both, size = at * cells + cell, times * cells
    inside, _ = windows.counts(at, times)
    starts = np.searchsorted(windows.step, np.arange(windows.steps + 1))
    rest, left = np.bincount(both, minlength=size), (0, 0)
    for window, pair in zip(inside, windows.pairs, strict=True):
        low, high = (int(starts[step]) for step in pair.without)
        rest = rest - np.bincount(both[left[1] : high], minlength=size)
        rest = rest + np.bincount(both[left[0] : low], minlength=size)
        left = (low, high)
        yield window, Seasonal(season, rest.reshape(times, cells))
