"""Cycles: which features differ with the hour of the day or the day of the week, found in the reference by itself."""

import numpy as np
from numpy.typing import NDArray

from mlops_ray.monitoring.seasons import LENGTHS, Season, season_of

# Columns are compared by so many cells: cycles show in tenths as well, and columns are many.
_CELLS = 10
_ROTATIONS = 39
_FEWEST_BLOCKS = 6
_SEED = 0


def cycle_of(cell: NDArray[np.int64], cells: int, moment: NDArray[np.datetime64]) -> Season | None:
    """The cycle of a column; `cell` [rows]: its cells of `seasons.cell_counts`, `moment` [rows]: sorted, UTC.

    None if it has neither a daily nor a weekly one, or if there are too few days to tell.
    """
    coarse, few = _coarse(cell, cells)
    day = moment.astype("datetime64[D]").astype(np.int64)
    daily = _cyclic(coarse, few, day, season_of(moment, "hour"), LENGTHS["hour"])
    weekly = _cyclic(coarse, few, (day + 3) // 7, season_of(moment, "weekday"), LENGTHS["weekday"])
    if daily and weekly:
        return "hour_of_week"
    return "hour" if daily else "weekday" if weekly else None


def _cyclic(cell: NDArray[np.int64], cells: int, block: NDArray[np.int64], time: NDArray[np.int64], times: int) -> bool:
    """Whether even and odd blocks (days, or weeks) differ from their means at the same times.

    A permutation test: the times of each block are rotated by chance, 39 times, and none of them may show as much.
    Blocks stay whole, so rows of one day may resemble each other. Wrongly called cyclic, a column is compared with a
    smaller part of the reference, and its windows of the past are too.
    """
    _, number = np.unique(block, return_inverse=True)
    blocks = int(number.max()) + 1 if len(number) else 0
    if blocks < _FEWEST_BLOCKS:
        return False
    flat = (number * times + time) * cells + cell
    counts = np.bincount(flat, minlength=blocks * times * cells).reshape(blocks, times, cells).astype(np.float32)
    random, rows = np.random.default_rng(_SEED), np.arange(blocks)[:, None]
    found = _shared(counts)
    for _ in range(_ROTATIONS):
        turned = (np.arange(times)[None, :] + random.integers(0, times, (blocks, 1))) % times
        if _shared(counts[rows, turned]) >= found:
            return False
    return found > 0


def _shared(counts: NDArray[np.float32]) -> float:
    """How far the times of a cycle differ from their mean in the same way in even and in odd blocks."""
    apart = []
    for first in (0, 1):
        total = counts[first::2].sum(axis=0, dtype=np.float64)
        size = total.sum(axis=1, keepdims=True)
        mean = total.sum(axis=0) / max(1.0, float(total.sum()))
        apart.append(np.where(size > 0, total / np.maximum(size, 1) - mean, 0.0))
    weight = counts.sum(axis=(0, 2), dtype=np.float64)
    return float(weight @ (apart[0] * apart[1]).sum(axis=1))


def _coarse(cell: NDArray[np.int64], cells: int) -> tuple[NDArray[np.int64], int]:
    """Cells joined to at most ten with about equally many rows, in their order; the most frequent stay alone."""
    if cells <= _CELLS:
        return cell, cells
    rows = np.bincount(cell, minlength=cells)
    joined = np.minimum((np.cumsum(rows) - rows // 2) * _CELLS // max(1, int(rows.sum())), _CELLS - 1)
    return joined[cell], _CELLS
