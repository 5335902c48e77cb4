"""What is normal: thresholds that keep a promise in time, "at most one false alarm about the endpoint in 30 days"."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import cbrt, ceil, inf, isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.monitoring.coverage import TOLERANCE, Coverage

_Float = NDArray[np.float64]
DAY_S = 86_400.0
# Fewer independent windows than this say nothing about what is normal; fewer than the second say it so vaguely that
# nobody acts on it.
MINIMUM_WINDOWS, MINIMUM_TO_ACT = 5, 10
_FOLDS = 20
_HIGH = 0.95
# A column that never changed in the reference would alarm at the first row that differs: scores of less than this are
# no alarm, and a scale is at least a fifth of what the floor makes. Together, 1.2 times the floor is no alarm.
_SMALLEST_THRESHOLD, _SMALLEST_SCALE = 1.5, 0.2
# The tail of the largest scores begins where a quarter of them is above.
_TAIL = 0.25
# A trend is taken for one if its t value is above this, and if there are so many independent windows to see it in.
_CLEAR_TREND, _TREND_WINDOWS = 4.0, 6


@dataclass(frozen=True)
class Promise:
    """At most one false alarm in `days` about the endpoint, shared out equally among `shares` tests.

    A test is a family of statistics on a kind of window. It spends in proportion to the time that its windows cover
    (alpha spending over time instead of looks: Lan and DeMets, "Discrete sequential boundaries for clinical trials",
    1983), so the rate is the same whether a window lasts five seconds or a week.
    """

    days: float = 30.0
    shares: int = 1

    def rate(self, step_s: float) -> float:
        """The chance of a false alarm that a window may have of which one begins every `step_s` seconds."""
        return min(0.5, step_s / (self.days * DAY_S * self.shares) / TOLERANCE)


@dataclass(frozen=True)
class Null:
    """One statistic on the windows of the reference period: `values` [windows], NaN where it could not be taken.

    floor: what a handful of rows could make of it; smaller differences are noise.
    """

    column: str
    detector: str
    family: str
    floor: float
    values: _Float


@dataclass(frozen=True)
class Normal:
    """What is normal for one statistic of one column: the cube root of (value + floor) has this centre and scale.

    Cube roots of sums of squares are nearly normal (Wilson and Hilferty, "The distribution of chi-square", 1931), and
    bring statistics with tails of different weight onto one scale.

    usual, high: its median and its 95 % quantile in the reference period, for people.
    """

    column: str
    detector: str
    family: str
    floor: float
    centre: float
    scale: float
    usual: float
    high: float

    def score(self, value: float) -> float:
        """How many scales above normal; -inf for NaN."""
        return -inf if isnan(value) else (cbrt(value + self.floor) - self.centre) / self.scale

    def value_at(self, score: float) -> float:
        """The value that has this score: a threshold in the statistic's own unit."""
        return max(0.0, (self.centre + score * self.scale) ** 3 - self.floor)


@dataclass(frozen=True)
class Calibration:
    """Thresholds of one kind of window where it covers so much.

    thresholds: of each family, the score above which any of its statistics is an alarm; empty where the reference is
    too short. rate: the chance of a false alarm that a window has on average over models. rate_low, rate_high: where
    this model's own lies with 95 % certainty, as it knows only `independent` windows. days: the promise.
    """

    window: str
    coverage: Coverage
    normals: tuple[Normal, ...]
    thresholds: Mapping[str, float]
    days: float
    rate: float
    rate_low: float
    rate_high: float
    independent: int

    def acts(self, calm: int = 0) -> bool:
        """Whether it is sure enough of its thresholds for somebody to act on them; calm: windows that came since."""
        return self.independent + calm >= MINIMUM_TO_ACT

    @property
    def words(self) -> str:
        there = f"The reference holds {self.independent} windows of {self.coverage.words} that do not overlap"
        if not self.thresholds:
            return f"{there}, and {MINIMUM_WINDOWS} are needed to know what is normal. Nothing is judged."
        said = f"Its share of at most one false alarm in {self.days:g} days about the endpoint."
        said += f" {there}: for this model, one window in {_one_in(self.rate_high)} to {_one_in(self.rate_low)} (95 %)."
        return (
            said
            if self.acts()
            else f"{said} That is too vague to act on: calm windows count as well, up to {MINIMUM_TO_ACT}."
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Calibration":
        normals = tuple(Normal(**normal) for normal in value["normals"])
        return cls(**{**value, "normals": normals, "coverage": Coverage(**value["coverage"])})


def _one_in(rate: float) -> str:
    return f"{1 / rate:,.0f}" if rate > 1e-9 else "any number"


def calibrate(
    nulls: Sequence[Null], window: str, coverage: Coverage, independent: int, overlap: int, promise: Promise
) -> Calibration:
    """Learn what is normal from the windows of the reference period, which lie in order of time in each Null.

    The statistic of a window is the largest score of a family, so the rate holds for all columns together (the maximum
    statistic of Westfall and Young, "Resampling-based multiple testing", 1993, section 2.3). The scores of a stretch
    of windows are taken with centres and scales from all windows that share no rows with it; otherwise each column
    would know its own worst window, and the next would be an alarm. See `_threshold` for how far above them an alarm
    is. A column with a trend in it is expected to be where the trend has left it (see `_without_trend`).
    """
    nulls = [_without_trend(null, independent) for null in nulls]
    normals = tuple(_normal(null) for null in nulls)
    families = list(dict.fromkeys(null.family for null in nulls))
    rate = promise.rate(coverage.step_s)
    if independent < MINIMUM_WINDOWS or not families:
        return Calibration(window, coverage, normals, {}, promise.days, 0.0, 0.0, 0.0, independent)
    found = {}
    for family in families:
        worst = np.max([_scores(null, independent, overlap) for null in nulls if null.family == family], axis=0)
        found[family] = _threshold(np.sort(worst[worst > -inf]), rate, independent)
    low, high = (sum(getattr(one, name) for one in found.values()) for name in ("low", "high"))
    thresholds = {family: one.score for family, one in found.items()}
    total = rate * max(1, moving_families(nulls))
    return Calibration(window, coverage, normals, thresholds, promise.days, total, low, high, independent)


def moving_families(nulls: Sequence[Null]) -> int:
    """How many families of statistics ever moved: those that never did cannot be wrong by chance, and need no share."""
    return len({null.family for null in nulls if np.nanmax(null.values, initial=0.0) > 0})


@dataclass(frozen=True)
class _Threshold:
    """score: of an alarm. low, high: the rate of this model, with 95 % certainty."""

    score: float
    low: float
    high: float


def _threshold(worst: _Float, rate: float, independent: int) -> _Threshold:
    """The score that a new window exceeds with the chance `rate`; worst: the largest scores of windows, sorted.

    Where so rare an event can be seen in the reference, at least the order statistic that a new exchangeable window
    exceeds with this chance (Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", 2005, proposition
    2.3). Beyond, the tail is taken for exponential (Pickands, "Statistical inference using extreme order statistics",
    1975, with shape 0, to which all lighter tails come). That its scale is known from k windows only is paid for: with
    an exponential tail the predictive chance of u + k b ((p / rate)^(1/k) - 1) to be exceeded is `rate`, averaged over
    models, b being the mean excess over u, which the share p is above.
    """
    if not len(worst):
        return _Threshold(_SMALLEST_THRESHOLD, 0.0, 0.0)
    start = float(np.quantile(worst, 1 - _TAIL))
    above = worst[worst > start]
    excess = float((above - start).mean()) if len(above) else 0.0
    known = max(2.0, _TAIL * independent)
    tail = start + excess * known * ((_TAIL / min(rate, _TAIL)) ** (1 / known) - 1)
    order = ceil((1 - rate) * (len(worst) + 1))
    seen = float(worst[order - 1]) if rate * (independent + 1) >= 1 and order <= len(worst) else -inf
    score = max(tail, seen, _SMALLEST_THRESHOLD)
    return _Threshold(score, *_rates(score - start, excess, known))


def _rates(above: float, excess: float, known: float) -> tuple[float, float]:
    """Where the rate lies: the inverse of the tail's scale has a gamma distribution around 1 / excess."""
    from scipy.special import gammaincinv  # type: ignore[import-untyped]

    if excess <= 0:
        return 0.0, 0.0
    inverse = [float(gammaincinv(known, side)) / (known * excess) for side in (0.975, 0.025)]
    low, high = (_TAIL * float(np.exp(-above * one)) for one in inverse)
    return low, high


def _without_trend(null: Null, independent: int) -> Null:
    """If the statistic rises in the second half of the reference, its values there as they were at the trend's end.

    The others are left out. What comes after a trend is as far from the reference as its last windows are, and not as
    the middle ones. A trend that goes on beyond the reference is a change, and is told.
    """
    roots = np.cbrt(null.values + null.floor)
    there = np.flatnonzero(~np.isnan(roots) & (np.arange(len(roots)) >= len(roots) // 2))
    known = independent / 2
    if known < _TREND_WINDOWS or len(there) < _TREND_WINDOWS:
        return null
    at, found = there - there.mean(), roots[there]
    spread = float(np.sqrt((at @ at) * ((found - found.mean()) @ (found - found.mean()))))
    r = float(at @ found) / spread if spread > 0 else 0.0
    if r <= 0 or r * np.sqrt((known - 2) / max(1e-12, 1 - r * r)) < _CLEAR_TREND:
        return null
    slope = float(at @ found) / float(at @ at)
    values = np.full(len(roots), np.nan)
    values[there] = np.maximum(0.0, (found + slope * (there[-1] - there)) ** 3 - null.floor)
    return Null(null.column, null.detector, null.family, null.floor, values)


def _normal(null: Null) -> Normal:
    values = null.values[~np.isnan(null.values)]
    centre, scale = _centre_and_scale(values, null.floor)
    usual, high = np.quantile(values, [0.5, _HIGH]) if len(values) else (0.0, 0.0)
    return Normal(null.column, null.detector, null.family, null.floor, centre, scale, float(usual), float(high))


def _centre_and_scale(values: _Float, floor: float) -> tuple[float, float]:
    """Of the values that are not NaN; as if all were 0 if there are fewer than two."""
    roots = np.cbrt(values[~np.isnan(values)] + floor)
    smallest = _SMALLEST_SCALE * cbrt(floor)
    if len(roots) < 2:
        return cbrt(floor), smallest
    return float(roots.mean()), max(float(roots.std(ddof=1)), smallest)


def _scores(null: Null, independent: int, overlap: int) -> _Float:
    """The score of each window by what the windows beyond its own fold, and its neighbours, say is normal.

    Means and deviations of all folds at once, from sums of what lies before each window: one by one they take a third
    of the time of learning a reference.
    """
    windows = len(null.values)
    folds = [fold for fold in np.array_split(np.arange(windows), min(independent, _FOLDS)) if len(fold)]
    low = np.maximum(0, np.array([fold[0] for fold in folds], dtype=np.int64) - overlap)
    high = np.minimum(windows, np.array([fold[-1] for fold in folds], dtype=np.int64) + 1 + overlap)
    roots = np.cbrt(null.values + null.floor)
    there = ~np.isnan(roots)
    middle = float(roots[there].mean()) if there.any() else 0.0
    apart = np.where(there, roots - middle, 0.0)
    sums = [np.concatenate([[0.0], np.cumsum(part)]) for part in (there, apart, apart**2)]
    rows, first, second = (below[-1] - (below[high] - below[low]) for below in sums)
    enough, known = rows >= 2, np.maximum(rows, 2)
    deviation = np.sqrt(np.maximum(0.0, second - first**2 / known) / (known - 1))
    smallest = _SMALLEST_SCALE * cbrt(null.floor)
    centre = np.where(enough, middle + first / known, cbrt(null.floor))
    scale = np.where(enough, np.maximum(deviation, smallest), smallest)
    of = np.repeat(np.arange(len(folds)), [len(fold) for fold in folds])
    scores = (roots - centre[of]) / scale[of]
    return np.where(np.isnan(scores), -inf, scores)
