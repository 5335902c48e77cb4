from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.monitoring.looks import look
from mlops_ray.monitoring.sketches import CategoricalSketch, NumericSketch
from mlops_ray.monitoring.windows import NO_PANE, Window, WindowState, add
from mlops_ray.use_case.window_spec import WindowSpec

START = datetime(2013, 6, 1, tzinfo=UTC)
EMPTY = {"x": NumericSketch.with_edges([0, 10, 20]), "c": CategoricalSketch.with_categories(["a"])}
HOUR = timedelta(hours=1)
NO_ROWS = {"rows": 0, "minimum_rows": 0}, *({"length": HOUR, "minimum_rows": few} for few in (0, -5))


def rows(count: int, first: int = 0) -> pl.DataFrame:
    return pl.DataFrame({"x": np.arange(first, first + count, dtype=np.float64), "c": ["a"] * count})


def moments(*hours: float) -> np.ndarray:
    micros = [int(hour * 3_600_000_000) for hour in hours]
    return np.datetime64(START.replace(tzinfo=None), "us") + np.array(micros, dtype="timedelta64[us]")


def by_count(panes: int = 1) -> WindowState:
    return WindowState(WindowSpec(rows=12, panes=panes, minimum_rows=5), EMPTY)


def by_time(panes: int = 1) -> WindowState:
    return WindowState(WindowSpec(length=panes * HOUR, panes=panes, minimum_rows=5), EMPTY)


def until(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def seen(window: Window) -> tuple[float, float, int]:
    sketch = window.columns["x"]
    return sketch.minimum, sketch.maximum, window.rows


@given(cuts=st.lists(st.integers(0, 40), max_size=6), panes=st.sampled_from([1, 2, 3]))
def test_windows_are_the_same_however_the_rows_come(cuts: list[int], panes: int) -> None:
    everything, when = rows(40), moments(*np.arange(40) / 10)
    at_once = add(by_count(panes), everything, when, until(5))
    state, finished = by_count(panes), []
    edges = [0, *sorted(cuts), 40]
    for low, high in pairwise(edges):
        added = add(WindowState.from_bytes(state.to_bytes()), everything[low:high], when[low:high], until(5))
        state = added.state
        finished += added.finished
    assert [seen(window) for window in finished] == [seen(window) for window in at_once.finished]
    assert [(window.start, window.end) for window in finished] == [(w.start, w.end) for w in at_once.finished]


def test_tumbling_and_sliding_windows_by_count() -> None:
    tumbling = add(by_count(), rows(30), moments(*np.arange(30) / 10), until(5))
    assert [seen(window) for window in tumbling.finished] == [(0, 11, 12), (12, 23, 12)]
    assert tumbling.state.open is not None
    assert tumbling.state.open.rows == 6
    sliding = add(by_count(3), rows(24), moments(*np.arange(24) / 10), until(5))
    assert [seen(window) for window in sliding.finished] == [(0, 11, 12), (4, 15, 12), (8, 19, 12), (12, 23, 12)]


def test_windows_that_slide_are_put_together_without_counting_a_row_twice() -> None:
    state = by_count(panes=4)
    size = state.spec.rows
    assert size is not None
    hours = [row * 2 / size for row in range(10 * size)]
    finished = add(state, rows(10 * size), moments(*hours), until(1000)).finished
    waiting, together = None, []
    for window in finished:
        found = look(waiting, window, state.spec, timedelta(hours=5))
        waiting = found.waiting
        together += [] if found.window is None else [found.window]
    assert len(together) > 1
    assert [one.rows for one in together] == [(one.panes[1] - one.panes[0] + 1) * size // 4 for one in together]


def test_windows_by_time_end_when_the_stream_is_read_past_them() -> None:
    first = add(by_time(), rows(3), moments(0.1, 0.2, 0.9), until(0.95))
    assert first.finished == ()
    second = add(first.state, rows(2, 3), moments(1.1, 1.2), until(2.0))
    assert [seen(window) for window in second.finished] == [(0, 2, 3), (3, 4, 2)]
    assert [window.end for window in second.finished] == [until(1), until(2)]


def test_the_window_in_which_a_stream_begins_is_no_whole_one() -> None:
    """The first three days of a week are not like a week."""
    begun = add(by_time(), rows(3), moments(0.4, 0.5, 0.9), until(0.95))
    later = add(begun.state, rows(2, 3), moments(1.1, 2.2), until(3.0))
    assert [window.whole for window in later.finished] == [False, True, True]
    again = add(WindowState.from_bytes(begun.state.to_bytes()), rows(0), moments(), until(1.5))
    assert [window.whole for window in again.finished] == [False]
    punctual = add(by_time(), rows(3), moments(0, 0.5, 0.9), until(1.5))
    assert [window.whole for window in punctual.finished] == [True]
    assert [window.whole for window in add(by_count(), rows(30), moments(*[0.5] * 30), until(5)).finished] == [True] * 2


def test_an_hour_without_rows_is_an_empty_window_and_a_year_only_one() -> None:
    state = add(by_time(), rows(1), moments(0.5), until(0.6)).state
    assert [window.rows for window in add(state, rows(0), moments(), until(2.1)).finished] == [1, 0]
    assert [window.rows for window in add(state, rows(0), moments(), until(24 * 365)).finished] == [1, 0]
    sliding = add(by_time(4), rows(1), moments(0.5), until(0.6)).state
    assert len(add(sliding, rows(0), moments(), until(24 * 365)).finished) == 2


@given(hours=st.lists(st.floats(-50_000, 50_000), max_size=30), read=st.floats(0, 100))
def test_every_row_counts_once_whatever_the_clocks_say(hours: list[float], read: float) -> None:
    state = add(by_time(), rows(1), moments(0.5), until(0.6)).state
    added = add(state, rows(len(hours)), moments(*hours), until(read))
    assert added.state.open is not None
    windows = [*added.finished, added.state.open, *added.state.later]
    assert sum(window.rows + window.misdated for window in windows) == 1 + len(hours)
    assert [window.start for window in windows] == sorted({window.start for window in windows})
    assert len(windows) <= 4 + len(hours), "no moment makes a row of empty windows"
    for window in windows:
        inside = [at for at in moments(*hours).tolist() if window.start <= at.replace(tzinfo=UTC) < window.end]
        assert window.rows - (window is windows[0]) == len(inside)


def test_a_row_that_comes_early_waits_for_its_window_and_one_that_comes_late_is_in_none() -> None:
    added = add(by_time(), rows(3), moments(0.1, 1.1, 0.2), until(0.3))
    assert added.finished == ()
    assert added.state.open is not None
    assert [pane.rows for pane in (added.state.open, *added.state.later)] == [2, 1]
    stored = WindowState.from_bytes(added.state.to_bytes())
    late = add(stored, rows(2), moments(1.1, 0.4), until(1.2))
    again = add(late.state, rows(1), moments(0.4), until(1.3))
    assert late.finished[0].rows == 3
    assert again.state.open is not None
    assert (again.state.open.rows, again.state.open.misdated) == (2, 1)
    assert again.panes.tolist() == [NO_PANE]


def test_the_state_before_is_left_as_it_was() -> None:
    state = add(by_count(), rows(5), moments(*[0.1] * 5), until(1)).state
    before = state.to_bytes()
    add(state, rows(20), moments(*[0.2] * 20), until(1))
    assert state.to_bytes() == before


def test_a_feature_that_disappears_or_changes_its_type_is_missing() -> None:
    odd = pl.DataFrame({"x": ["seven"] * 12})
    window = add(by_count(), odd, moments(*[0.1] * 12), until(1)).finished[0]
    assert [sketch.missing for sketch in window.columns.values()] == [12, 12]


def test_odd_windows_are_refused() -> None:
    for options in ({}, {"rows": 10, "length": HOUR}, {"rows": 600, "panes": 7}, {"rows": 10}, *NO_ROWS):
        with pytest.raises(UseCaseError):
            WindowSpec(**options)
    with pytest.raises(DataError, match="not the state"):
        WindowState.from_bytes(b"nothing")
