"""A window's values are of the events in it and of nothing else: not of those before, nor of how rows are divided."""

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_ray.use_case.window_values import Value, window_values

START = datetime(1969, 12, 31, 20, tzinfo=UTC)
MOMENT = pl.Datetime("us", "UTC")
MINUTE, WINDOW = timedelta(minutes=1), timedelta(minutes=30)
SCHEMA = {
    "key": pl.String,
    "event_timestamp": MOMENT,
    "x": pl.Float64,
    "n": pl.Int64,
    "c": pl.Boolean,
}
STATISTICS = {"x": ("count", "sum", "mean", "min", "max", "std", "last"), "n": ("sum", "mean", "max", "std", "last"),
              "c": ("count", "sum", "mean", "last")}  # fmt: skip
VALUES = {f"{how}_{of}": Value(how, of) for of, statistics in STATISTICS.items() for how in statistics}  # type: ignore[arg-type]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.integers(0, 400).map(lambda minute: START + minute * MINUTE),
        st.none() | st.floats(-1e6, 1e6) | st.just(math.nan),
        st.none() | st.integers(-3, 3),
        st.none() | st.booleans(),
    ),
    max_size=60,
)


def frame(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def naive(rows: list[tuple[Any, ...]], key: str, moment: datetime) -> dict[str, Any]:
    """Each statistic of the events of one window, taken together."""
    ordered = sorted(rows, key=lambda row: row[1])
    inside = [row for row in ordered if row[0] == key and moment - WINDOW < row[1] <= moment]
    found: dict[str, Any] = {}
    for at, of in enumerate("xnc", 2):
        values = [row[at] for row in inside if row[at] is not None and not (of == "x" and math.isnan(row[at]))]
        some = bool(values)
        mean = math.fsum(values) / len(values) if some else None
        apart = math.fsum((value - mean) ** 2 for value in values) if mean is not None else 0.0
        found |= {
            f"count_{of}": len(values),
            f"sum_{of}": math.fsum(values) if some else None,
            f"mean_{of}": mean,
            f"min_{of}": min(values, default=None),
            f"max_{of}": max(values, default=None),
            f"std_{of}": math.sqrt(apart / (len(values) - 1)) if len(values) > 1 else None,
            f"last_{of}": values[-1] if some else None,
        }
    return found


@given(rows=EVENTS)
@settings(max_examples=60)
def test_each_value_is_that_of_the_events_in_its_window(rows: list[tuple[Any, ...]]) -> None:
    found = window_values(frame(rows), ["key"], WINDOW, VALUES).to_dicts()
    assert sorted((row["key"], row["event_timestamp"]) for row in found) == sorted({row[:2] for row in rows})
    for row in found:
        expected = naive(rows, row["key"], row["event_timestamp"])
        for name in VALUES:
            given_, wanted = row[name], expected[name]
            same = given_ == wanted or math.isclose(given_, wanted, rel_tol=1e-9, abs_tol=1e-6)
            assert same, (name, given_, wanted)


@given(rows=EVENTS, cuts=st.lists(st.integers(1, 400), max_size=4))
@settings(max_examples=60)
def test_whatever_the_division_the_values_are_equal_bit_for_bit(rows: list[tuple[Any, ...]], cuts: list[int]) -> None:
    whole = window_values(frame(rows), ["key"], WINDOW, VALUES)
    edges = [START, *(START + minute * MINUTE for minute in sorted(set(cuts))), START + 401 * MINUTE]
    parts = []
    for first, end in pairwise(edges):
        seen = [row for row in rows if first - WINDOW < row[1] < end]
        part = window_values(frame(seen), ["key"], WINDOW, VALUES)
        parts.append(part.filter(pl.col("event_timestamp") >= first))
    order = ["key", "event_timestamp"]
    assert pl.concat(parts).sort(order).equals(whole.sort(order))


def test_what_was_large_and_is_over_leaves_no_trace() -> None:
    """A sum that is carried on and reduced gives 0 here, and a deviation of squares nothing that is right."""
    late = START + WINDOW
    rows = [("a", START, 1e18, 1, True), ("a", late, 0.25, 1, True), ("a", late, 1e9 + 0.5, 1, True)]
    rows += [("a", late + MINUTE, 1e9, 1, True)]
    last = window_values(frame(rows), ["key"], WINDOW, VALUES).sort("event_timestamp").to_dicts()[-1]
    assert last["sum_x"] == 0.25 + (1e9 + 0.5) + 1e9
    close = [("a", START + n * MINUTE, 1e9 + n / 1000, 0, None) for n in range(20)]
    found = window_values(frame(close), ["key"], WINDOW, VALUES).sort("event_timestamp").to_dicts()[-1]
    assert math.isclose(found["std_x"], 0.005916079783, rel_tol=1e-4)


def test_nothing_gives_a_count_of_0_and_nulls() -> None:
    (row,) = window_values(frame([("a", START, None, None, None)]), ["key"], WINDOW, VALUES).to_dicts()
    assert {name for name in VALUES if row[name] is not None} == {"count_x", "count_c"}
    assert row["count_x"] == 0
