"""Whether a column has really moved between two stretches of time: a test that shares nothing with the watch.

It takes the values themselves, no sketch, bin, window or threshold. Rows of a day and days of a week resemble each
other, so not rows are permuted but whole weeks.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import ks_2samp

WAYS = 2000
_LEAST = 1e-12  # what two ways to sum the same may differ by


@dataclass(frozen=True)
class Moved:
    """distance: Kolmogorov-Smirnov's of the later values from the earlier ones. largest: of all ways to deal the weeks
    out. chance: the part of them that is as far apart, this one among them."""

    distance: float
    largest: float
    chance: float


def moved(rows: pl.DataFrame, time: str, column: str, later: pl.Series, ways: int = WAYS) -> Moved:
    """Compare the rows that are `later` [rows, boolean] with the others, missing values left out.

    Each way deals as many weeks to the later part as it has (permutation test with blocks: Good, "Permutation,
    parametric and bootstrap tests of hypotheses", 2005, section 3.7).
    """
    known = rows.select(pl.col(column).cast(pl.Float64).alias("value"), time, later.alias("later")).drop_nulls()
    week = known[time].dt.epoch("d").rank("dense").to_numpy().astype(np.int64) // 7
    values, cell = np.unique(known["value"].to_numpy(), return_inverse=True)
    part = known["later"].to_numpy()
    # A week that has rows of both is two.
    block = np.unique(2 * week + part, return_inverse=True)[1]
    counts = np.zeros((block.max() + 1, len(values)))
    np.add.at(counts, (block, cell), 1)
    is_later = np.zeros(len(counts), dtype=bool)
    is_later[block[part]] = True
    distance = _distance(counts, is_later)
    assert abs(distance - ks_2samp(*(known.filter(later=one)["value"] for one in (False, True))).statistic) < _LEAST
    random = np.random.default_rng(0)
    dealt = np.array([_distance(counts, random.permutation(is_later)) for _ in range(ways)])
    return Moved(distance, float(dealt.max()), float((1 + (dealt >= distance - _LEAST).sum()) / (ways + 1)))


def _distance(counts: NDArray[np.float64], later: NDArray[np.bool_]) -> float:
    new, old = (counts[part].sum(axis=0).cumsum() for part in (later, ~later))
    return float(np.abs(new / new[-1] - old / old[-1]).max())
