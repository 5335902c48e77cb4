"""The arithmetic of windows: statistics of the events of a key over the time that ends at each of them.

A sum that is carried from event to event, adding what comes and taking off what goes, depends on all that ever came:
computed from another beginning, its last digits are others. Here a window's value is a function of the events in it.
Time is cut at the multiples of the window's length, counted from 1970, so that a window touches two such tiles: the end
of one and the beginning of the next. What runs from a tile's beginning up to each event, and from each event to its
tile's end, is computed once for each; a window's value is of two such numbers, and its cost does not depend on how many
events it has. (M. van Herk, "A fast algorithm for local minimum and maximum filters", 1992; J. Gil and M. Werman,
"Computing 2-D min, median, and max filters", 1993: there for minima of images, here for any statistic that can be
merged.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.use_case.aggregation import Statistic

MOMENT = "event_timestamp"
_KEY = "__key"
_LONG = 512  # events of a tile, above which it is summed by itself and not beside others
_LARGEST = 2**62
_Integers = NDArray[np.int64]
_Numbers = NDArray[Any]


@dataclass(frozen=True)
class Value:
    """statistic: of the values in `column`."""

    statistic: Statistic
    column: str


def window_values(
    events: pl.DataFrame, keys: Sequence[str], window: timedelta, values: Mapping[str, Value]
) -> pl.DataFrame:
    """One row for each key and moment of the events: keys, `event_timestamp`, and what `values` says, over
    (moment - window, moment].

    events: keys (without nulls), `event_timestamp` (UTC, microseconds, no nulls), and the columns of `values`, in an
    order by which those of one moment are told apart. See `Aggregation` for the types and for what nothing gives.
    """
    ordered = events.with_columns(_numbered(events.select(keys))).sort(_KEY, MOMENT, maintain_order=True)
    spans = _spans(ordered, window // timedelta(microseconds=1))
    found = ordered[spans.last].select(*keys, MOMENT)
    columns = {value.column: _Column(ordered[value.column], spans) for value in values.values()}
    return found.with_columns(columns[value.column].of(value.statistic).alias(name) for name, value in values.items())


def value_dtype(statistic: Statistic, of: pl.DataType) -> pl.DataType:
    """The type of a statistic over values of a type."""
    if statistic == "count":
        return pl.Int64()
    if statistic in ("mean", "std") or of.is_float():
        return pl.Float64()
    return pl.Int64() if of.is_integer() or statistic == "sum" else of


def _numbered(keys: pl.DataFrame) -> pl.Series:
    """A number for each row, the same where all keys are; which one means nothing."""
    found = pl.Series(_KEY, np.zeros(keys.height, np.int64))
    for key in keys:
        number = key.rank("dense").cast(pl.Int64)
        found = (found * (number.len() + 1) + number).rank("dense").cast(pl.Int64)
    return found.alias(_KEY)


@dataclass(frozen=True)
class _Spans:
    """first, last: the positions of the events of each window. tiles: where tiles begin. tile: that of each event."""

    first: _Integers
    last: _Integers
    tiles: _Integers
    tile: _Integers

    @property
    def are_two(self) -> NDArray[np.bool_]:
        """Whether a window begins in the tile before that of its end."""
        two: NDArray[np.bool_] = self.tile[self.first] != self.tile[self.last]
        return two


def _spans(ordered: pl.DataFrame, length_us: int) -> _Spans:
    """Of events in the order of key and moment: events of one key and moment have one window."""
    key, at_us = ordered[_KEY].to_numpy(), ordered[MOMENT].dt.epoch("us").to_numpy()
    if not len(key):
        nothing = np.zeros(0, np.int64)
        return _Spans(nothing, nothing, nothing, nothing)
    ends = np.append((key[1:] != key[:-1]) | (at_us[1:] != at_us[:-1]), True)
    last = np.flatnonzero(ends)
    tile = at_us // length_us
    begins = np.append(True, (key[1:] != key[:-1]) | (tile[1:] != tile[:-1]))
    return _Spans(_first_after(key, at_us, last, length_us), last, np.flatnonzero(begins), np.cumsum(begins) - 1)


def _first_after(key: _Integers, at_us: _Integers, last: _Integers, length_us: int) -> _Integers:
    """For each position the first one of its key that is less than `length_us` before it.

    Key and moment are searched as one number, for as many keys at a time as it has room for.
    """
    start_us = int(at_us.min())
    room_us = int(at_us.max()) - start_us + length_us + 2
    at_a_time = max(1, _LARGEST // room_us)
    found = np.empty(len(last), np.int64)
    for lowest in range(int(key[0]), int(key[-1]) + 1, at_a_time):
        begin, end = np.searchsorted(key, [lowest, lowest + at_a_time])
        place = (key[begin:end] - lowest) * room_us + (at_us[begin:end] - start_us)
        mine = slice(*np.searchsorted(last, [begin, end]))
        found[mine] = begin + np.searchsorted(place, place[last[mine] - begin] - length_us, side="right")
    return found


class _Column:
    """The values of one column of events, and their statistics in windows."""

    def __init__(self, values: pl.Series, spans: _Spans):
        self._values = values.fill_nan(None) if values.dtype.is_float() else values
        self._spans = spans
        self._known = self._values.is_not_null().to_numpy()
        self._count = self._difference(self._known.astype(np.int64))

    def of(self, statistic: Statistic) -> pl.Series:
        """One value for each window, null where nothing gives one."""
        dtype, count = value_dtype(statistic, self._values.dtype), self._count
        match statistic:
            case "count":
                return pl.Series(count, dtype=dtype)
            case "last":
                newest = np.maximum.accumulate(np.where(self._known, np.arange(len(self._known)), -1))
                place = newest[self._spans.last]
                inside = pl.Series(np.where(place >= self._spans.first, place, -1))
                return self._values.gather(inside.set(inside < 0, None)).cast(dtype)
            case "sum":
                return self._where(count > 0, self._sum(), dtype)
            case "mean":
                return self._where(count > 0, self._sum() / np.maximum(count, 1), dtype)
            case "std":
                return self._where(count > 1, self._std(), dtype)
            case _:
                return self._where(count > 0, self._extreme(statistic == "min"), dtype)

    def _where(self, known: NDArray[np.bool_], values: _Numbers, dtype: pl.DataType) -> pl.Series:
        return pl.Series(values).cast(dtype).set(pl.Series(~known), None)

    def _numbers(self, nothing: float) -> _Numbers:
        """The values with a number in place of nulls; conditions as 0 and 1."""
        wide = self._values.cast(pl.Float64 if self._values.dtype.is_float() else pl.Int64)
        return wide.fill_null(nothing).to_numpy()

    def _sum(self) -> _Numbers:
        numbers = self._numbers(0)
        if numbers.dtype == np.int64:  # exact, so that what came before can be taken off
            return self._difference(numbers)
        return self._merged(np.add, numbers, numbers, np.float64(0))

    def _extreme(self, least: bool) -> _Numbers:
        whole = np.iinfo(np.int64)
        nothing: Any = np.inf if self._values.dtype.is_float() else whole.max
        numbers = self._numbers(nothing if least else -nothing)
        return self._merged(np.minimum if least else np.maximum, numbers, numbers, nothing if least else -nothing)

    def _std(self) -> _Numbers:
        """Of a sample, from the two parts of each window (T. Chan, G. Golub and R. LeVeque, "Algorithms for computing
        the sample variance", 1983: equation 2.1, and section 3 for the distances: squares of what is far from 0 lose
        the digits that make the difference, those of distances from a value of the window do not)."""
        numbers, spans = self._numbers(0).astype(np.float64), self._spans
        place = np.arange(len(numbers))
        newest = np.maximum.reduceat(np.where(self._known, place, -1), spans.tiles)[spans.tile]
        oldest = np.minimum.reduceat(np.where(self._known, place, len(place)), spans.tiles)[spans.tile]
        ones = self._known.astype(np.float64)
        parts = []
        for origin, backwards, at in ((newest, True, spans.first), (oldest, False, spans.last)):
            start = numbers[np.clip(origin, 0, len(place) - 1)]
            apart = np.where(self._known, numbers - start, 0.0)
            count, total, squares = (
                _running(np.add, one, spans.tiles, backwards)[at] for one in (ones, apart, apart * apart)
            )
            used = spans.are_two if backwards else np.ones(len(at), bool)
            some = np.maximum(count, 1)
            parts.append(
                (np.where(used, count, 0), start[at] + total / some, np.maximum(squares - total * total / some, 0))
            )
        (count_a, mean_a, apart_a), (count_b, mean_b, apart_b) = parts
        count = np.maximum(count_a + count_b, 1)
        both = (count_a > 0) & (count_b > 0)
        between = np.where(both, (mean_b - mean_a) ** 2 * count_a * count_b / count, 0)
        squares = np.where(count_a > 0, apart_a, 0) + np.where(count_b > 0, apart_b, 0) + between
        found: _Numbers = np.sqrt(squares / np.maximum(count - 1, 1))
        return found

    def _difference(self, numbers: _Integers) -> _Integers:
        """The sums of whole numbers, which wrap as 64 bits do."""
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(numbers)])
        found: _Integers = before[self._spans.last + 1] - before[self._spans.first]
        return found

    def _merged(self, merge: np.ufunc, older: _Numbers, newer: _Numbers, nothing: Any) -> _Numbers:
        """What runs from each window's first event to its tile's end, and to its last event from its tile's beginning,
        as one."""
        spans = self._spans
        older = _running(merge, older, spans.tiles, backwards=True)[spans.first]
        newer = _running(merge, newer, spans.tiles, backwards=False)[spans.last]
        found: _Numbers = merge(np.where(spans.are_two, older, nothing), newer)
        return found


def _running(merge: np.ufunc, values: _Numbers, tiles: _Integers, backwards: bool) -> _Numbers:
    """`merge` from the beginning of each value's tile up to it, or from its end back to it, one value after the other.

    tiles: where they begin. Long ones are run through by themselves; of the others all second values are merged, then
    all third ones.
    """
    if not len(values):
        return values
    lengths = np.diff(np.append(tiles, len(values)))
    found, starts = values.copy(), tiles
    if backwards:
        found, starts = found[::-1], len(values) - tiles - lengths
    for start, length in zip(starts[lengths > _LONG], lengths[lengths > _LONG], strict=True):
        part = found[start : start + length]
        part[:] = merge.accumulate(part)
    short = lengths <= _LONG
    longest_first = np.argsort(-lengths[short], kind="stable")
    starts, lengths = starts[short][longest_first], lengths[short][longest_first]
    for step in range(1, int(lengths[0]) if len(lengths) else 0):
        at = starts[: np.searchsorted(-lengths, -step)] + step
        found[at] = merge(found[at - 1], found[at])
    return found[::-1] if backwards else found
