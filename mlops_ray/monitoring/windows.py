"""Windows of a stream as sketches, in constant memory: add rows to a state, get a new state and finished windows.

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

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Window:
    """What was counted from `start` to `end`: for windows by count the moments of its first and last row.

    misdated: rows among them, of windows by time, whose moment is not in their pane: they came late, or a clock jumped.
    seasons: rows by time of day, week and year. sample: some of the rows. whole: False for a window by time in which
    the stream began, as what it has of the day or the week is only a part.
    """

    start: datetime
    end: datetime
    rows: int
    misdated: int
    columns: Mapping[str, Sketch]
    seasons: Mapping[Season, NDArray[np.int64]]
    sample: RowSample
    whole: bool = True

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
        )

    def to_bytes(self) -> bytes:
        counts = {season: counted.tolist() for season, counted in self.seasons.items()}
        columns = {name: sketch.to_bytes() for name, sketch in self.columns.items()}
        ends = [self.start.isoformat(), self.end.isoformat()]
        sample = [self.sample.size, self.sample.to_bytes()]
        return msgspec.msgpack.encode([*ends, self.rows, self.misdated, columns, counts, sample, self.whole])

    @classmethod
    def from_bytes(cls, content: bytes) -> "Window":
        start, end, rows, misdated, columns, seasons, sample, whole = msgspec.msgpack.decode(content)
        return cls(
            datetime.fromisoformat(start),
            datetime.fromisoformat(end),
            rows,
            misdated,
            {name: sketch_from_bytes(sketch) for name, sketch in columns.items()},
            {season: np.array(counts) for season, counts in seasons.items()},
            RowSample.from_bytes(*sample),
            whole,
        )


@dataclass(frozen=True)
class WindowState:
    """closed: the last full panes, fewer than a window has. open: the pane that is being filled, None before any row.

    empty: sketches with the bins of the reference and no rows. sample_rows: kept of each window.
    """

    spec: WindowSpec
    empty: Mapping[str, Sketch]
    sample_rows: int = 0
    closed: tuple[Window, ...] = ()
    open: Window | None = None

    def to_bytes(self) -> bytes:
        panes = [pane.to_bytes() for pane in (*self.closed, *([self.open] if self.open else []))]
        empty = {name: sketch.to_bytes() for name, sketch in self.empty.items()}
        return msgspec.msgpack.encode([self.spec.to_json(), empty, self.sample_rows, panes, self.open is not None])

    @classmethod
    def from_bytes(cls, content: bytes) -> "WindowState":
        """What `to_bytes` wrote. Raises DataError if it is something else."""
        try:
            spec, empty, sample_rows, panes, is_open = msgspec.msgpack.decode(content)
            read = tuple(map(Window.from_bytes, panes))
            sketches = {name: sketch_from_bytes(sketch) for name, sketch in empty.items()}
            closed, last = (read[:-1], read[-1]) if is_open else (read, None)
            return cls(WindowSpec.from_json(spec), sketches, sample_rows, closed, last)
        except (msgspec.DecodeError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"{len(content)} bytes are not the state of windows of this version: {error}") from error


@dataclass(frozen=True)
class Added:
    """The state after the rows, and the windows that they finished, in order."""

    state: WindowState
    finished: tuple[Window, ...]


def add(state: WindowState, rows: pl.DataFrame, moment: NDArray[np.datetime64], read_up_to: datetime) -> Added:
    """Count `rows` in order; `moment` [rows], UTC, says when each was predicted. `state` stays as it was.

    rows: a column for each sketch; one that is not there counts as missing in every row. read_up_to: the stream has
    been read to here, so windows by time that end before it are finished, empty ones too (a gap longer than a window
    makes one empty window). Moments are not trusted: a row from after read_up_to counts there, one whose pane is
    finished counts in the open one, and both are counted as misdated. Every row counts exactly once.
    """
    if state.spec.rows is not None:
        return _add_by_count(state, rows, moment, state.spec.rows // state.spec.panes)
    assert state.spec.length is not None
    return _add_by_time(state, rows, moment, state.spec.length / state.spec.panes, read_up_to)


def _add_by_count(state: WindowState, rows: pl.DataFrame, moment: NDArray[np.datetime64], size: int) -> Added:
    finished: list[Window] = []
    at = 0
    while at < len(rows):
        filled = state.open.rows if state.open else 0
        take = min(size - filled, len(rows) - at)
        part = _count(state, rows[at : at + take], moment[at : at + take])
        state = replace(state, open=state.open.plus(part) if state.open else part)
        at += take
        if filled + take == size:
            state = _close(state, finished)
    return Added(state, tuple(finished))


def _add_by_time(
    state: WindowState, rows: pl.DataFrame, moment: NDArray[np.datetime64], length: timedelta, read_up_to: datetime
) -> Added:
    finished: list[Window] = []
    if state.open is None:
        begin = min(_earliest(moment, read_up_to), read_up_to)
        pane = _pane(state, begin, length)
        state = replace(state, open=replace(pane, whole=pane.start == begin))
    assert state.open is not None
    first = (state.open.start - _EPOCH) // length
    last = max(first, (read_up_to - _EPOCH) // length)
    wanted = moment.astype("datetime64[us]").astype(np.int64) // (length // timedelta(microseconds=1))
    panes = np.clip(wanted, first, last)
    for number in np.unique(panes).tolist():
        state = _advance(state, number, length, finished)
        assert state.open is not None
        here = panes == number
        part = _count(state, rows.filter(here), moment[here])
        dates = {"start": state.open.start, "end": state.open.end, "misdated": int((wanted[here] != number).sum())}
        state = replace(state, open=state.open.plus(replace(part, **dates)))  # type: ignore[arg-type]
    return Added(_advance(state, last, length, finished), tuple(finished))


def _earliest(moment: NDArray[np.datetime64], otherwise: datetime) -> datetime:
    """The moment at which a tenth of the rows has begun: a single clock that is years behind does not start panes."""
    if not len(moment):
        return otherwise
    micros = np.sort(moment.astype("datetime64[us]").astype(np.int64))[len(moment) // 10]
    return _EPOCH + timedelta(microseconds=int(micros))


def _advance(state: WindowState, number: int, length: timedelta, finished: list[Window]) -> WindowState:
    """Close panes until the pane `number` is open. Of a long gap, only as many empty panes as a window has are made."""
    start = _EPOCH + number * length
    while state.open is not None and state.open.start < start:
        behind = (start - state.open.start) // length
        state = _close(state, finished)
        skipped = max(0, behind - 1 - state.spec.panes)
        follows = start - (behind - 1 - skipped) * length
        state = replace(state, open=_pane(state, follows, length))
    return state


def _pane(state: WindowState, moment: datetime, length: timedelta) -> Window:
    """An empty pane by time, the one with `moment`; panes begin at multiples of their length since 1970."""
    start = _EPOCH + (moment - _EPOCH) // length * length
    return replace(_count(state, pl.DataFrame(), np.empty(0, "datetime64[us]")), start=start, end=start + length)


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


def _count(state: WindowState, rows: pl.DataFrame, moment: NDArray[np.datetime64]) -> Window:
    columns: dict[str, Sketch] = {}
    for name, bins in state.empty.items():
        sketch = bins.empty()
        columns[name] = sketch
        if name not in rows.columns:
            sketch.missing += len(moment)
        elif isinstance(sketch, NumericSketch):
            sketch.update(_numbers(rows[name]))
        else:
            sketch.update(rows[name])
    ends = (_EPOCH, _EPOCH)
    if len(moment):
        micros = moment.astype("datetime64[us]").astype(np.int64)
        ends = tuple(_EPOCH + timedelta(microseconds=int(end)) for end in (micros.min(), micros.max()))  # type: ignore[assignment]
    sample = RowSample.of(rows, state.empty, state.sample_rows)
    return Window(*ends, len(moment), 0, columns, count_seasons(moment), sample)


def _numbers(values: pl.Series) -> NDArray[Any]:
    """As floats; what is text or another type without a number is missing."""
    if values.dtype.is_float():
        return values.to_numpy()
    return values.cast(pl.Float64, strict=False).to_numpy()
