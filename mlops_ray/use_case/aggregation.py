"""Aggregation: one statistic of recent rows, and the moment at which each row's value became known."""

from dataclasses import dataclass
from typing import Literal

import polars as pl

Statistic = Literal["count", "sum", "mean", "min", "max", "std", "last"]


@dataclass(frozen=True)
class Aggregation:
    """A statistic of the values that became known within a window.

    statistic: `count` is the number of values, an Int64 and 0 where there are none; the others are null then. `sum` of
    whole numbers and conditions is an Int64; `mean` and `std` (of a sample, null below two values) are Float64. The
    mean of a condition is its rate. `min`, `max` and `last` are of the values' type; `last` is the newest value, of
    several of one moment the last in the order of the source's rows.
    of: the values, over one row of the source; null and NaN are none.
    known_at: when a row's value becomes known; a row without such a moment has none. None: as the view says.
    """

    statistic: Statistic
    of: pl.Expr
    known_at: pl.Expr | None = None
