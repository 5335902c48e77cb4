"""Windows of a stream as sketches, in constant memory: add rows to a state, get a new state and finished windows.

A row belongs to one pane of each kind of window, for good: `panes_of` is the only place that says which, and `add`
returns what it said, so that whoever needs the rows of a window later (labels do) looks it up.
A window by rows has them in the order in which they are read, which is the position in the ledger; one by time has
those whose moment is in it. What comes after its pane was closed is in no window of that kind, and is counted.

The state is a value: whoever keeps it can commit its bytes together with the position in the ledger up to which its
rows were read, and a restart goes on from there with each row counted once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import DataError
from mlops_ray.monitoring.row_sample import RowSample
from mlops_ray.monitoring.seasons import Season, count_seasons
from mlops_ray.monitoring.sketches import NumericSketch, Sketch, sketch_from_bytes
from mlops_ray.use_case.window_spec import WindowSpec

NO_PANE = -(2**62)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Window:
    """What was counted from `start` to `end`: for windows by count the moments of its first and last row.

    misdated: rows that were read while it was open, but came after their own pane was closed: they are in no window.
    seasons: rows by time of day, week and year. sample: some of the rows. whole: False for a window by time in which
    the stream began, as what it has of the day or the week is only a part. panes: the numbers of its first and last.
    answered: when the first and the last of its rows were; None without rows.
    """

    start: datetime
    end: datetime
    rows: int
    misdated: int
    columns: Mapping[str, Sketch]
    seasons: Mapping[Season, NDArray[np.int64]]
    sample: RowSample
    whole: bool = True
    panes: tuple[int, int] = (0, 0)
    answered: tuple[datetime, datetime] | None = None

    def plus(self, other: "Window") -> "Window":
        """Both together; neither is changed."""
        columns = {name: sketch.copy() for name, sketch in self.columns.items()}
        for name, sketch in columns.items():
            sketch.merge(other.columns[name])  # type: ignore[arg-type]
        return Window(
            min(self.start, other.start),
            max(self.end, other.end),
            self.rows + other.rows,
            self.misdated + other.misdated,
            columns,
            {season: counts + other.seasons[season] for season, counts in self.seasons.items()},
            self.sample.plus(other.sample),
            self.whole and other.whole,
            (min(self.panes[0], other.panes[0]), max(self.panes[1], other.panes[1])),
            _both(self.answered, other.answered),
        )

    def to_bytes(self) -> bytes:
        counts = {season: counted.tolist() for season, counted in self.seasons.items()}
        columns = {name: sketch.to_bytes() for name, sketch in self.columns.items()}
        sample = [self.sample.size, self.sample.to_bytes()]
        answered = self.answered and [end.isoformat() for end in self.answered]
        ends = [self.start.isoformat(), self.end.isoformat()]
        counted = [self.rows, self.misdated, columns, counts, sample, self.whole]
        return msgspec.msgpack.encode([*ends, *counted, self.panes, answered])

    @classmethod
    def from_bytes(cls, content: bytes) -> "Window":
        start, end, rows, misdated, columns, seasons, sample, whole, panes, answered = msgspec.msgpack.decode(content)
        first, last = panes
        return cls(
            datetime.fromisoformat(start),
            datetime.fromisoformat(end),
            rows,
            misdated,
            {name: sketch_from_bytes(sketch) for name, sketch in columns.items()},
            {season: np.array(counts) for season, counts in seasons.items()},
            RowSample.from_bytes(*sample),
            whole,
            (first, last),
            answered and tuple(map(datetime.fromisoformat, answered)),
        )


@dataclass(frozen=True)
class WindowState:
    """closed: the last full panes, fewer than a window has. open: the oldest pane that can get rows, None before any.

    empty: sketches with the bins of the reference and no rows. sample_rows: kept of each window. later: panes by time
    after the open one that have rows already. next_pane: of windows by rows, the number of the pane after the open one.
    """

    spec: WindowSpec
    empty: Mapping[str, Sketch]
    sample_rows: int = 0
    closed: tuple[Window, ...] = ()
    open: Window | None = None
    later: tuple[Window, ...] = ()
    next_pane: int = 0

    def to_bytes(self) -> bytes:
        closed, later = ([pane.to_bytes() for pane in panes] for panes in (self.closed, self.later))
        empty = {name: sketch.to_bytes() for name, sketch in self.empty.items()}
        panes = [closed, self.open and self.open.to_bytes(), later, self.next_pane]
        return msgspec.msgpack.encode([self.spec.to_json(), empty, self.sample_rows, *panes])

    @classmethod
    def from_bytes(cls, content: bytes) -> "WindowState":
        """What `to_bytes` wrote. Raises DataError if it is something else."""
        try:
            spec, empty, sample_rows, closed, open_, later, next_pane = msgspec.msgpack.decode(content)
            sketches = {name: sketch_from_bytes(sketch) for name, sketch in empty.items()}
            before, after = (tuple(map(Window.from_bytes, panes)) for panes in (closed, later))
            pane = open_ and Window.from_bytes(open_)
            return cls(WindowSpec.from_json(spec), sketches, sample_rows, before, pane, after, next_pane)
        except (msgspec.DecodeError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"{len(content)} bytes are not the state of windows of this version: {error}") from error

    def anew(self) -> "WindowState":
        """Without what was counted; the next row begins a pane."""
        following = self.next_pane if self.open is None else self.next_pane + 1
        return replace(self, closed=(), open=None, later=(), next_pane=following)


@dataclass(frozen=True)
class Added:
    """The state after the rows, the windows that they finished, in order, and of each row its pane (see `panes_of`)."""

    state: WindowState
    finished: tuple[Window, ...]
    panes: NDArray[np.int64]


def add(
    state: WindowState,
    rows: pl.DataFrame,
    moment: NDArray[np.datetime64],
    read_up_to: datetime,
    answered: NDArray[np.datetime64] | None = None,
) -> Added:
    """Count `rows` in order; `moment` [rows], UTC, says when each was predicted. `state` stays as it was.

    rows: a column for each sketch; one that is not there counts as missing in every row. read_up_to: of the stream
    nothing from before it is to be expected any more, so windows by time that end before it are finished, empty ones
    too (a gap longer than a window makes one empty window). Every row counts in one pane, or as misdated.
    answered [rows]: when each was, where that is not its moment.
    """
    answered = moment if answered is None else answered
    if state.open is None and state.spec.length is not None:
        begin = _time(moment.min()) if len(moment) else read_up_to
        pane = _pane(state, _number(state.spec, begin))
        state = replace(state, open=replace(pane, whole=pane.start == begin))
    panes = panes_of(state, moment)
    finished: list[Window] = []
    if state.open is not None:
        state = replace(state, open=replace(state.open, misdated=state.open.misdated + int((panes == NO_PANE).sum())))
    last = _number(state.spec, read_up_to) if state.spec.length is not None else 0
    for number in pl.Series(panes[panes != NO_PANE]).unique().sort().to_list():
        if state.spec.length is not None:
            state = _advance(state, min(number, last), finished)
        places = np.flatnonzero(panes == number)
        first, after = int(places[0]), int(places[-1]) + 1
        together = after - first == len(places)
        part = rows[first:after] if together else rows[places]
        state = _put(state, number, _count(state, part, moment[places], answered[places]), finished)
    if state.spec.length is not None:
        state = _advance(state, last, finished)
    return Added(state, tuple(finished), panes)


def panes_of(state: WindowState, moment: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Of rows that are read next, in order, the number of the pane each belongs to; NO_PANE: it came too late for its.

    By rows, panes are filled one after another. By time, they begin at multiples of their length since 1970.
    """
    if state.spec.rows is not None:
        size = state.spec.rows // state.spec.panes
        number, filled = (state.open.panes[0], state.open.rows) if state.open else (state.next_pane, 0)
        return number + (filled + np.arange(len(moment), dtype=np.int64)) // size
    assert state.open is not None
    wanted = moment.astype("datetime64[us]").astype(np.int64) // (_pane_length(state.spec) // _MICROSECOND)
    return np.where(wanted < state.open.panes[0], NO_PANE, wanted)


def _pane_length(spec: WindowSpec) -> timedelta:
    assert spec.length is not None
    return spec.length / spec.panes


def _number(spec: WindowSpec, moment: datetime) -> int:
    return (moment - _EPOCH) // _pane_length(spec)


def _put(state: WindowState, number: int, part: Window, finished: list[Window]) -> WindowState:
    """Add what was counted to its pane; one by rows that is full is closed."""
    if state.spec.rows is not None:
        part = replace(part, panes=(number, number))
        state = replace(state, open=state.open.plus(part) if state.open else part, next_pane=number)
        full = state.open is not None and state.open.rows == state.spec.rows // state.spec.panes  # type: ignore[operator]
        return replace(_close(state, finished), next_pane=number + 1) if full else state
    assert state.open is not None
    if number == state.open.panes[0]:
        return replace(state, open=_in_pane(state.open, part))
    known = {pane.panes[0]: pane for pane in state.later}
    known[number] = _in_pane(known.get(number) or _pane(state, number), part)
    return replace(state, later=tuple(known[at] for at in sorted(known)))


def _in_pane(pane: Window, part: Window) -> Window:
    dates: dict[str, Any] = {"start": pane.start, "end": pane.end, "panes": pane.panes}
    return pane.plus(replace(part, **dates))


def _advance(state: WindowState, number: int, finished: list[Window]) -> WindowState:
    """Close panes until the pane `number` is open. Of a long gap, only as many empty panes as a window has are made."""
    while state.open is not None and state.open.panes[0] < number:
        target = min([number, *(pane.panes[0] for pane in state.later[:1])])
        between = target - state.open.panes[0] - 1
        follows = target - min(between, state.spec.panes)
        state = _close(state, finished)
        if state.later and state.later[0].panes[0] == follows:
            state = replace(state, open=state.later[0], later=state.later[1:])
        else:
            state = replace(state, open=_pane(state, follows))
    return state


def _pane(state: WindowState, number: int) -> Window:
    """An empty pane by time."""
    length, nothing = _pane_length(state.spec), np.empty(0, "datetime64[us]")
    start = _EPOCH + number * length
    pane = _count(state, pl.DataFrame(), nothing, nothing)
    return replace(pane, start=start, end=start + length, panes=(number, number))


def _close(state: WindowState, finished: list[Window]) -> WindowState:
    """The open pane is full: it ends a window as soon as there are enough before it."""
    assert state.open is not None
    panes = (*state.closed, state.open)
    if len(panes) == state.spec.panes:
        window = panes[0]
        for pane in panes[1:]:
            window = window.plus(pane)
        finished.append(window)
        panes = panes[1:]
    return replace(state, closed=panes, open=None)


def _count(
    state: WindowState, rows: pl.DataFrame, moment: NDArray[np.datetime64], answered: NDArray[np.datetime64]
) -> Window:
    columns: dict[str, Sketch] = {}
    for name, bins in state.empty.items():
        sketch = bins.empty_counts() if isinstance(bins, NumericSketch) else bins.empty()
        columns[name] = sketch
        if name not in rows.columns:
            sketch.missing += len(moment)
        elif isinstance(sketch, NumericSketch):
            sketch.update(_numbers(rows[name]))
        else:
            sketch.update(rows[name])
    sample = RowSample.of(rows, state.empty, state.sample_rows)
    start, end = _ends(moment) or (_EPOCH, _EPOCH)
    return Window(start, end, len(moment), 0, columns, count_seasons(moment), sample, answered=_ends(answered))


def _ends(moment: NDArray[np.datetime64]) -> tuple[datetime, datetime] | None:
    return (_time(moment.min()), _time(moment.max())) if len(moment) else None


def _time(moment: np.datetime64) -> datetime:
    return _EPOCH + timedelta(microseconds=int(moment.astype("datetime64[us]").astype(np.int64)))


def _both(
    one: tuple[datetime, datetime] | None, other: tuple[datetime, datetime] | None
) -> tuple[datetime, datetime] | None:
    if one is None or other is None:
        return one or other
    return min(one[0], other[0]), max(one[1], other[1])


def _numbers(values: pl.Series) -> NDArray[Any]:
    """As floats; what is text or another type without a number is missing."""
    if values.dtype.is_float():
        return values.to_numpy()
    return values.cast(pl.Float64, strict=False).to_numpy()
