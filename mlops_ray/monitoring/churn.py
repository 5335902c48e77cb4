"""Identifiers that are replaced by new ones: how many values nobody has seen are to be expected after so many days."""

from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.monitoring.null_windows import NullWindows

_Float = NDArray[np.float64]
# What is known begins with at least this part of the reference; a window is looked at from after it, with these gaps.
_KNOWN = 0.25
_GAPS = (0.0, 0.1, 0.2, 0.35, 0.5)
# Of the rate, as it is extrapolated.
_MARGIN = 1.25
_MOST, _MOSTLY_NEW = 0.999, 0.9
_REPLACED, _MONTH_DAYS = 0.02, 30.0


@dataclass(frozen=True)
class Churn:
    """-ln(1 - the share of values never seen) is `base` + `per_day` * the days since the reference ended.

    So it is where each day the same part of the traffic moves to values that are new.
    """

    base: float = 0.0
    per_day: float = 0.0

    def expected(self, days: float) -> float:
        """The share of values never seen, so many days after the reference."""
        return min(_MOST, 1 - exp(-(self.base + self.per_day * max(0.0, days))))

    @property
    def replaces(self) -> bool:
        """Whether so much is replaced in a month that shares of single values have no meaning."""
        return 1 - exp(-self.per_day * _MONTH_DAYS) > _REPLACED


def learn_churn(
    windows: NullWindows, cell: NDArray[np.int64], cells: int, declared: bool = False
) -> tuple[Churn, _Float]:
    """How fast values are replaced, and by how much the windows of the reference exceed that, [windows].

    Each window is held out with all that is later and, for several gaps, with a stretch before it: what stands in it
    and not before the gap is new, as it will be after the reference's end. NaN for windows of the first part.

    cell: of each row, with the values never seen and what is missing as the last two of `cells`. declared: all values
    are known from the start, whether they have come or not.
    """
    gap, new = _held_out(windows, windows.below(cell, cells), declared)
    usable = new < _MOSTLY_NEW  # not NaN; where nearly all is new, the rate does not show
    days, exposure = gap[usable], -np.log1p(-new[usable])
    if not len(days) or not exposure.any():
        return Churn(), new[:, 0]
    apart = days - days.mean()
    slope = float(apart @ exposure / (apart @ apart)) if apart.any() else 0.0
    slope = max(0.0, slope)
    churn = Churn(max(0.0, float(exposure.mean() - slope * days.mean())), _MARGIN * slope)
    expected = 1 - np.exp(-(churn.base + churn.per_day * gap))
    return churn, np.maximum(0.0, new - expected)[:, 0]


def _held_out(windows: NullWindows, below: NDArray[Any], declared: bool) -> tuple[_Float, _Float]:
    """Of each window and gap: the days between what is known and the window, and the share that is new.
    [windows, gaps].
    """
    begins = windows.begins
    length = float(begins[-1]) if len(begins) else 0.0
    gap = np.full((len(windows.pairs), len(_GAPS)), np.nan)
    new = np.full_like(gap, np.nan)
    for at, pair in enumerate(windows.pairs):
        inside = below[pair.last] - below[pair.first]
        values = inside[:-1].sum()
        middle = (begins[pair.first] + begins[min(pair.last, len(begins) - 1)]) / 2
        for index, part in enumerate(_GAPS):
            until = begins[pair.first] - part * length
            if until < _KNOWN * length or not values:
                break
            known = (below[np.searchsorted(begins, until)][:-2] > 0) | declared
            gap[at, index] = middle - until
            new[at, index] = (inside[:-2][~known].sum() + inside[-2]) / values
    return gap, new
