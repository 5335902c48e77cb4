"""Seasons: comparing a window with the reference as it is at the same time of day, of the week or of the year."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.monitoring.sketches import CategoricalSketch, NumericSketch, Sketch
from mlops_ray.use_case import Season as Season

# Of UTC: hours 0 to 23, Monday to Sunday, the hours of the week from Monday on, January to December.
LENGTHS: dict[Season, int] = {"hour": 24, "weekday": 7, "hour_of_week": 168, "month": 12}
# A time of the season with fewer reference rows than this says nothing about it.
_MINIMUM_ROWS = 200


def season_of(moment: NDArray[np.datetime64], season: Season) -> NDArray[np.int64]:
    """Which time of the season each moment (UTC) is in, 0 to LENGTHS[season] - 1."""
    if season == "hour":
        return moment.astype("datetime64[h]").astype(np.int64) % 24
    if season == "weekday":
        return (moment.astype("datetime64[D]").astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday
    if season == "hour_of_week":
        return (moment.astype("datetime64[h]").astype(np.int64) + 3 * 24) % 168
    return moment.astype("datetime64[M]").astype(np.int64) % 12


def count_seasons(moment: NDArray[np.datetime64]) -> dict[Season, NDArray[np.int64]]:
    """Rows at each time of each season."""
    return {season: np.bincount(season_of(moment, season), minlength=length) for season, length in LENGTHS.items()}


@dataclass(frozen=True)
class Seasonal:
    """One reference column by the times of a season: counts[t] of its cells (see `cell_counts`).

    sums: of its values at each time, [times]; None for categories, and where only counts are compared.
    """

    season: Season
    counts: NDArray[Any]
    sums: NDArray[np.float64] | None = None

    def expected(self, whole: Sketch, rows: NDArray[np.int64]) -> Sketch:
        """What the reference has at the times at which the window's `rows` [times] lie, in the window's proportions.

        Direct standardisation (Neison, 1844). Times of which the reference has fewer than 200 rows count like the
        whole reference.
        """
        size, part = self.counts.sum(axis=1), rows / rows.sum()
        known = size >= _MINIMUM_ROWS
        # A product of a vector and a matrix: shares at each time would take most of the time of learning a reference.
        shares = np.where(known, part / np.maximum(size, 1), 0.0) @ self.counts
        shares = shares + part[~known].sum() / whole.rows * cell_counts(whole)
        found = with_cell_counts(whole, shares * whole.rows)
        return replace(found, mean=self._mean(found, rows)) if isinstance(found, NumericSketch) else found

    def known(self, rows: NDArray[np.int64]) -> float:
        """The part of the window's `rows` [times] that lies at times of which the reference has 200 rows or more."""
        return float(rows[self.counts.sum(axis=1) >= _MINIMUM_ROWS].sum() / max(1, rows.sum()))

    def _mean(self, whole: NumericSketch, rows: NDArray[np.int64]) -> float:
        """Of the values at the window's times; the deviation stays that of the whole reference."""
        if self.sums is None:
            return whole.mean
        size, values = self.counts.sum(axis=1), self.counts[:, :-1].sum(axis=1)
        known = (size >= _MINIMUM_ROWS) & (values > 0)
        weight = rows * np.where(known, values / np.maximum(size, 1), whole.values / whole.rows)
        means = np.where(known, self.sums / np.maximum(values, 1), whole.mean)
        return float(weight @ means / weight.sum()) if weight.sum() > 0 else whole.mean


def cell_counts(sketch: Sketch) -> NDArray[Any]:
    """All that a sketch counts in one array: bins and missing, or categories, unseen and missing."""
    last = [sketch.missing] if isinstance(sketch, NumericSketch) else [sketch.unseen, sketch.missing]
    return np.concatenate([sketch.counts, last])


def with_cell_counts(like: Sketch, counts: NDArray[Any]) -> Sketch:
    """A sketch with these counts, possibly fractions, in the cells of `like`, with its moments and no quantiles."""
    if isinstance(like, NumericSketch):
        ends = (like.minimum, like.maximum, like.mean)
        m2 = like.deviation**2 * counts[:-1].sum() if like.values else 0.0
        return NumericSketch(like.edges, counts[:-1], float(counts[-1]), *ends, m2)
    return CategoricalSketch(like.categories, counts[:-2], float(counts[-1]), float(counts[-2]))
