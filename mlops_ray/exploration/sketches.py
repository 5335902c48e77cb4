"""Sketches of one column: mergeable summaries in bounded memory, of which most are exact.

    whole = one.merge(other)     # the same as if one had seen both

Counts, ends, moments of time and the sample of repeats come out the same whatever the division and the order. Only
quantiles (KLL) and, beyond 768 different values, the most frequent ones depend on them, within bounds that each states.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from math import ceil, inf, nan, sqrt
from typing import Any

import numpy as np
import polars as pl
from datasketches import frequent_items_error_type, frequent_strings_sketch, kll_doubles_sketch
from numpy.typing import NDArray

KLL_K = 512  # ranks are off by at most 0.53 % in 99 of 100 cases, in 12 KB
REPEAT_SAMPLE = 2048
LOG2_FREQUENT = 10  # up to 768 different values are counted exactly, in 20 KB
# Values are taken by so many, which fit the processor's caches: a million at once takes three times as long.
_CHUNK = 8192
# Of a chunk with more different values, only those that come twice are offered, as one that holds 1 % of a column does.
_MOST_OFFERED = 1000
# What one value holds at most of a chunk whose values, looked at in equal distances, are nearly all different.
_MOST_OF_DIFFERENT = 0.05
_MOST_BUCKETS = 1 << 17
LONGEST_TEXT = 200  # characters of a frequent value; a longer one is its beginning and its hash
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Repeats:
    """How many different values there are, and how often values come again.

    The `REPEAT_SAMPLE` least hashes with how often each came: a uniform sample of the different values, complete for
    each (the bottom-k sketch of Cohen and Kaplan, "Summarizing data using bottom-k sketches", 2007; the estimate is
    that of Bar-Yossef et al., "Counting distinct elements in a data stream", 2002). Exact while there are fewer.
    datasketches' HLL and CPC take one value a call, and do not know how often a value came.
    """

    hashes: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def update(self, hashes: NDArray[np.uint64], counts: NDArray[np.int64]) -> None:
        """Count values by their hashes; the same hash may stand several times."""
        if len(self.hashes) == REPEAT_SAMPLE:
            low = hashes <= self.hashes[-1]
            hashes, counts = hashes[low], counts[low]
        if not len(hashes):
            return
        both = np.concatenate([self.hashes, hashes])
        order = np.argsort(both, kind="stable")
        both, counted = both[order], np.concatenate([self.counts, counts])[order]
        starts = np.flatnonzero(np.concatenate([[True], both[1:] != both[:-1]]))
        self.hashes = both[starts][:REPEAT_SAMPLE]
        self.counts = np.add.reduceat(counted, starts)[:REPEAT_SAMPLE]

    def merge(self, other: "Repeats") -> None:
        self.update(other.hashes, other.counts)

    @property
    def exact(self) -> bool:
        return len(self.hashes) < REPEAT_SAMPLE

    @property
    def different(self) -> int:
        """How many different values there are; beyond `REPEAT_SAMPLE` to 2.2 % (one standard deviation)."""
        if self.exact:
            return len(self.hashes)
        return round((REPEAT_SAMPLE - 1) / (float(self.hashes[-1]) / 2**64))

    @property
    def repeated(self) -> float:
        """The share of the values that came before; 0 without values."""
        total = int(self.counts.sum())
        return 1 - len(self.hashes) / total if total else 0.0


class _WithSketch:
    """Datasketches' objects go between processes as their bytes."""

    def __getstate__(self) -> dict[str, Any]:
        values = {one.name: getattr(self, one.name) for one in fields(self)}  # type: ignore[arg-type]
        return {**values, "sketch": values["sketch"].serialize()}


@dataclass
class Numbers(_WithSketch):
    """Finite numbers as float64: exact count, ends, mean and deviation; quantiles by a KLL sketch (Karnin, Lang and
    Liberty, "Optimal quantile approximation in streams", 2016)."""

    count: int = 0
    whole: int = 0
    minimum: float = inf
    maximum: float = -inf
    mean: float = 0.0
    m2: float = 0.0
    sketch: Any = field(default_factory=lambda: kll_doubles_sketch(KLL_K))

    def update(self, values: NDArray[np.float64]) -> None:
        """Count `values`, all finite."""
        for start in range(0, len(values), _CHUNK):
            part = np.array(values[start : start + _CHUNK])  # datasketches takes none that cannot be written
            mean = float(part.mean())
            apart = part - mean
            self._add_moments(len(part), mean, float(apart @ apart))
            self.whole += int(np.count_nonzero(np.floor(part) == part))
            self.minimum, self.maximum = min(self.minimum, float(part.min())), max(self.maximum, float(part.max()))
            self.sketch.update(part)

    def merge(self, other: "Numbers") -> None:
        self._add_moments(other.count, other.mean, other.m2)
        self.whole += other.whole
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        self.sketch.merge(other.sketch)

    def _add_moments(self, count: int, mean: float, m2: float) -> None:
        """Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for sample variances", 1979."""
        if count:
            before, apart = self.count, mean - self.mean
            self.count += count
            self.mean += apart * count / self.count
            self.m2 += m2 + apart * apart * before * count / self.count

    @property
    def deviation(self) -> float:
        """Standard deviation (divided by n), NaN without values."""
        return sqrt(self.m2 / self.count) if self.count else nan

    def percentiles(self) -> list[float]:
        """The 101 quantiles from 0 to 100 %; none without values. The ends are exact."""
        if not self.count:
            return []
        return [float(value) for value in self.sketch.get_quantiles([rank / 100 for rank in range(101)], True)]

    def histogram(self, bins: int) -> tuple[list[float], list[float]]:
        """Edges, and between them about how many values; of the middle 98 % where the ends lie far out."""
        if not self.count:
            return [], []
        low, high = self.minimum, self.maximum
        inner = self.sketch.get_quantiles([0.01, 0.99], True)
        if high - low > 4 * (inner[1] - inner[0]) > 0:
            low, high = float(inner[0]), float(inner[1])
        if not high > low or not np.isfinite(high - low):
            return [low, high], [float(self.count)]
        if self.whole == self.count:  # as many whole numbers in each bin
            width = np.ceil((high - low + 1) / bins)
            edges = np.unique(np.arange(low - 0.5, high + width, width))
        else:
            edges = np.unique(np.linspace(low, high, bins + 1))
        below = np.array(self.sketch.get_cdf(edges.tolist(), True)[:-1])
        below[0] = 0.0 if low == self.minimum else below[0]
        return edges.tolist(), (np.diff(below) * self.count).round(1).tolist()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"sketch": kll_doubles_sketch.deserialize(state["sketch"])})


@dataclass
class Frequent(_WithSketch):
    """The most frequent values, as texts (Misra and Gries, "Finding repeated elements", 1982, as in datasketches).

    withheld: how many rows of one value were not offered to the sketch, at most.
    """

    withheld: int = 0
    sketch: Any = field(default_factory=lambda: frequent_strings_sketch(LOG2_FREQUENT))

    def update(self, texts: pl.Series | None, counts: pl.Series) -> None:
        """Count different values, each given once. Of many, those that come once are not offered; None: none is."""
        if texts is None:
            self.withheld += ceil(_MOST_OF_DIFFERENT * len(counts))
            return
        if len(texts) > _MOST_OFFERED:
            order = counts.arg_sort(descending=True)
            offered = order.head(min(_MOST_OFFERED, int((counts > 1).sum())))
            self.withheld += int(counts[int(order[len(offered)])])
            texts, counts = texts.gather(offered), counts.gather(offered)
        for text, count in sorted(zip(_short(texts).to_list(), counts.to_list(), strict=True)):
            self.sketch.update(text, count)

    def merge(self, other: "Frequent") -> None:
        self.withheld += other.withheld
        self.sketch.merge(other.sketch)

    def top(self, most: int) -> tuple[list[tuple[str, int]], int]:
        """Values with how many rows have them at least, most frequent first; and how many more may have each of them,
        or a value that is not among them. Zero: the counts are exact, whatever the division and the order."""
        found = self.sketch.get_frequent_items(frequent_items_error_type.NO_FALSE_NEGATIVES)
        counts = [(value, int(low)) for value, _, low, _ in found]
        unseen = int(self.sketch.get_upper_bound(""))  # of what was never offered, as an empty text never is
        return sorted(counts, key=lambda one: (-one[1], one[0]))[:most], unseen + self.withheld

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"sketch": frequent_strings_sketch.deserialize(state["sketch"])})


def _short(texts: pl.Series) -> pl.Series:
    long = texts.str.len_chars() > LONGEST_TEXT
    if not bool(long.any()):
        return texts
    digests = texts.hash(0).cast(pl.String).str.pad_start(21, "…")  # of 20 digits at most
    return texts.zip_with(~long, texts.str.slice(0, LONGEST_TEXT - 21) + digests)


@dataclass
class Shapes:
    """What texts are made of: their lengths in characters, and which kinds of characters occur."""

    shortest: int = -1
    longest: int = -1
    kinds: frozenset[str] = frozenset()
    untidy: int = 0

    def update(self, texts: pl.Series, counts: pl.Series) -> None:
        """Count different texts, each given once."""
        lengths: Any = texts.str.len_chars()
        if not len(texts):
            return
        self._span(lengths.min(), lengths.max())
        absent = [kind for kind in CHARACTERS if kind not in self.kinds]
        self.kinds |= {kind for kind in absent if bool(texts.str.contains(CHARACTERS[kind]).any())}
        self.untidy += int(counts.filter(texts.str.contains(r"\A\s|\s\z")).sum() or 0)

    def merge(self, other: "Shapes") -> None:
        if other.shortest >= 0:
            self._span(other.shortest, other.longest)
        self.kinds, self.untidy = self.kinds | other.kinds, self.untidy + other.untidy

    def _span(self, shortest: int, longest: int) -> None:
        self.shortest = shortest if self.shortest < 0 else min(self.shortest, shortest)
        self.longest = max(self.longest, longest)


CHARACTERS: Mapping[str, str] = {"A-Z": "[A-Z]", "a-z": "[a-z]", "0-9": "[0-9]", "other": "[^A-Za-z0-9]"}


@dataclass
class Times:
    """Moments (UTC) by the hour; by the day, and then the month, where these are too many. All of it is exact."""

    first_us: int | None = None
    last_us: int | None = None
    unit: str = "hour"
    buckets: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def update(self, moments_us: NDArray[np.int64]) -> None:
        """Count moments in microseconds since 1970."""
        if not len(moments_us):
            return
        self._span(int(moments_us.min()), int(moments_us.max()))
        hours = pl.Series("hour", moments_us // 3_600_000_000).value_counts(name="rows")
        self._add(in_unit(hours["hour"].to_numpy(), self.unit), hours["rows"].cast(pl.Int64).to_numpy())

    def merge(self, other: "Times") -> None:
        if other.first_us is None or other.last_us is None:
            return
        self._span(other.first_us, other.last_us)
        unit = max(self.unit, other.unit, key=list(UNITS).index)
        self._coarsen(unit)
        coarser = other.unit if other.unit == unit else unit
        self._add(other.buckets if other.unit == coarser else _coarser(other.buckets, other.unit, unit), other.counts)

    def _span(self, first: int, last: int) -> None:
        self.first_us = first if self.first_us is None else min(self.first_us, first)
        self.last_us = last if self.last_us is None else max(self.last_us, last)

    def _add(self, buckets: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        both, places = np.unique(np.concatenate([self.buckets, buckets]), return_inverse=True)
        total = np.zeros(len(both), np.int64)
        np.add.at(total, places, np.concatenate([self.counts, counts]))
        self.buckets, self.counts = both, total
        while len(self.buckets) > _MOST_BUCKETS and self.unit != "month":
            self._coarsen("day" if self.unit == "hour" else "month")

    def _coarsen(self, unit: str) -> None:
        if unit != self.unit:
            buckets, counts = _coarser(self.buckets, self.unit, unit), self.counts
            self.unit, self.buckets, self.counts = unit, np.empty(0, np.int64), np.empty(0, np.int64)
            self._add(buckets, counts)


UNITS = {"hour": 1, "day": 24, "month": 720}


def in_unit(hours: NDArray[np.int64], unit: str) -> NDArray[np.int64]:
    """Hours since 1970 as hours, days or months since then."""
    if unit == "hour":
        return hours
    days = hours // 24
    return days if unit == "day" else days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)


def _coarser(buckets: NDArray[np.int64], unit: str, to: str) -> NDArray[np.int64]:
    return in_unit(buckets if unit == "hour" else buckets * 24, to)


def bucket_start(bucket: int, unit: str) -> datetime | None:
    """The moment at which a bucket begins; None beyond the years that Python has."""
    try:
        if unit == "month":
            return datetime(1970 + bucket // 12, bucket % 12 + 1, 1, tzinfo=UTC)
        return _EPOCH + timedelta(hours=bucket * UNITS[unit])
    except (OverflowError, ValueError):
        return None


def moment(since_1970_us: int | None) -> datetime | None:
    """A moment, the nearest that Python has."""
    if since_1970_us is None:
        return None
    low, high = -62_135_596_800_000_000, 253_402_300_799_999_999
    return _EPOCH + timedelta(microseconds=min(high, max(low, since_1970_us)))
