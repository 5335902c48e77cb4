"""The clock of a stream: up to which moment it has been read, and which of its rows are of a time that cannot be.

A row says when it was answered, by the clock of a replica, and which moment it is about, which a caller may name. Both
are data. What they say is measured against the clock that all share, and against what the rows around say.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

# Answered later than this by the clock that all share, a row is of a replica whose clock runs ahead.
AHEAD = timedelta(minutes=5)
# A row whose moment is further from when it was answered than that of the rows around it is of another time.
ASTRAY = timedelta(days=7)
# So many rows tell what is usual: an odd one, or a handful, are not believed.
_RECENT = 31
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class SetAside:
    """How many rows are in no window. ahead: of a clock that runs ahead. astray: about a time far from that of others.

    Those that came too late for one kind of window are counted with it (`Window.misdated`).
    """

    ahead: int = 0
    astray: int = 0

    def plus(self, other: "SetAside") -> "SetAside":
        return SetAside(self.ahead + other.ahead, self.astray + other.astray)


@dataclass(frozen=True)
class StreamClock:
    """recent: how long after their moments the last rows were answered, in microseconds. read_up_to: the latest moment
    of which it is believed that the stream has been read so far; None before any row."""

    recent: tuple[int, ...] = ()
    read_up_to: datetime | None = None

    @property
    def usual_lag(self) -> timedelta:
        """Of the last rows; the year-long one of recorded requests that are asked again is usual, too."""
        return float(np.median(self.recent or (0,))) * _MICROSECOND


@dataclass(frozen=True)
class Dated:
    """The clock after some rows, which of them belong to the stream, and how many are set aside."""

    clock: StreamClock
    kept: NDArray[np.bool_]
    aside: SetAside = field(default_factory=SetAside)


def date_rows(
    clock: StreamClock, answered: NDArray[np.datetime64], moment: NDArray[np.datetime64], now: datetime
) -> Dated:
    """Judge rows in the order in which they were answered; `answered`, `moment` [rows], UTC; now: by the clock of all.

    What is usual is the median of 31 lags, of the first rows that of those that follow. So what a few callers say of
    the moments of their requests neither ends windows nor makes empty ones.
    """
    micros, moments = (times.astype("datetime64[us]").astype(np.int64) for times in (answered, moment))
    present = micros <= (now + AHEAD - _EPOCH) // _MICROSECOND
    lag = (micros - moments)[present]
    if not len(lag):
        return Dated(clock, present, SetAside(ahead=int((~present).sum())))
    known = np.array(clock.recent or [np.median(lag[:_RECENT])] * (_RECENT - 1), dtype=np.int64)
    usual = pl.Series(np.concatenate([known, lag])).rolling_median(_RECENT, min_samples=1).to_numpy()[-len(lag) :]
    near = np.abs(lag - usual) <= ASTRAY // _MICROSECOND
    kept = present.copy()
    kept[present] = near
    believed = _EPOCH + int((micros[present] - usual).max()) * _MICROSECOND
    after = StreamClock(tuple(np.concatenate([known, lag])[1 - _RECENT :].tolist()), _later(clock.read_up_to, believed))
    return Dated(after, kept, SetAside(int((~present).sum()), int((~near).sum())))


def _later(one: datetime | None, other: datetime) -> datetime:
    return other if one is None else max(one, other)
