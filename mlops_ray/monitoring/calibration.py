"""What is normal: thresholds that a person can mean, "at most one false alarm in 100 windows"."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import cbrt, ceil, inf, isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Float = NDArray[np.float64]
# Fewer independent windows than this say nothing about what is normal.
MINIMUM_WINDOWS = 5
_FOLDS = 20
_HIGH = 0.95
# A column that never changed in the reference would alarm at the first row that differs: scores of less than this are
# no alarm, and a scale is at least a fifth of what the floor makes. Together, 1.2 times the floor is no alarm.
_SMALLEST_THRESHOLD, _SMALLEST_SCALE = 1.5, 0.2


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
    """Thresholds of one kind of window.

    thresholds: of each family, the score above which any of its statistics is an alarm; empty where the reference is
    too short. wanted, one_in: at most one false alarm in so many windows, as asked for and as supported.
    """

    window: str
    normals: tuple[Normal, ...]
    thresholds: Mapping[str, float]
    wanted: int
    one_in: int
    independent: int

    @property
    def words(self) -> str:
        there = f"The reference holds {self.independent} windows of {self.window} that do not overlap"
        if not self.thresholds:
            return f"{there}, and {MINIMUM_WINDOWS} are needed to know what is normal. Nothing is judged."
        if self.one_in >= self.wanted:
            return f"At most one false alarm in {self.wanted} windows over all columns together."
        return (
            f"At most one false alarm in {self.one_in} windows over all columns together; {self.wanted} were asked "
            f"for. {there}, which supports no finer rate. Take a longer reference or shorter windows."
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Calibration":
        return cls(**{**value, "normals": tuple(Normal(**normal) for normal in value["normals"])})


def calibrate(
    nulls: Sequence[Null], window: str, independent: int, overlap: int, wanted: int, besides: int = 0
) -> Calibration:
    """Learn what is normal from the windows of the reference period, which lie in order of time in each Null.

    The statistic of a window is the largest score of a family, so the rate holds for all columns together (the maximum
    statistic of Westfall and Young, "Resampling-based multiple testing", 1993, section 2.3). The scores of a stretch
    of windows are taken with centres and scales from all windows that share no rows with it; otherwise each column
    would know its own worst window, and the next would be an alarm. The threshold is the order statistic that a new
    exchangeable window exceeds with the wanted chance (Vovk, Gammerman and Shafer, "Algorithmic learning in a random
    world", 2005, proposition 2.3), which is shared out equally between the families that ever moved; from n
    independent windows no rate below 1 / (n + 1) can be told. Deviation: windows that follow one another are not quite
    exchangeable.

    besides: how many other tests share the rate.
    """
    normals = tuple(_normal(null) for null in nulls)
    families = list(dict.fromkeys(null.family for null in nulls))
    if independent < MINIMUM_WINDOWS or not families:
        return Calibration(window, normals, {}, wanted, 0, independent)
    moving = {null.family for null in nulls if np.nanmax(null.values, initial=0.0) > 0}
    shares = max(1, len(moving) + besides)
    rate = max(1 / (wanted * shares), 1 / (independent + 1))
    thresholds = {}
    for family in families:
        worst = np.max([_scores(null, independent, overlap) for null in nulls if null.family == family], axis=0)
        worst = np.sort(worst[worst > -inf])  # where nothing could be compared is no calm window
        order = min(len(worst), ceil((1 - rate) * (len(worst) + 1)))
        thresholds[family] = max(float(worst[order - 1]) if order else 0.0, _SMALLEST_THRESHOLD)
    return Calibration(window, normals, thresholds, wanted, int(1 / (rate * shares) + 1e-9), independent)


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
    """The score of each window by what the windows beyond its own fold, and its neighbours, say is normal."""
    scores = np.full(len(null.values), -inf)
    for fold in np.array_split(np.arange(len(scores)), min(independent, _FOLDS)):
        if len(fold):
            others = np.r_[null.values[: max(0, fold[0] - overlap)], null.values[fold[-1] + 1 + overlap :]]
            centre, scale = _centre_and_scale(others, null.floor)
            scores[fold] = (np.cbrt(null.values[fold] + null.floor) - centre) / scale
    return np.where(np.isnan(scores), -inf, scores)
