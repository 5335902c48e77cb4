"""What was served of a view, beside its history: each difference is put down to what explains it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import polars as pl

from mlops_ray.features.parity import ViewParity, compare_view
from mlops_ray.features.point_in_time import History, join_point_in_time

NOON = datetime(2030, 6, 1, 12, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
FEATURES = ("mean", "last")
MOMENT = pl.Datetime("us", "UTC")


def history(keys: int = 20, events: int = 60, ttl: timedelta = 6 * HOUR) -> History:
    """A new value of each key about every ten minutes, for ten hours around noon; no two are the same."""
    rows = [
        (key, NOON - 5 * HOUR + number * 10 * MINUTE + key * timedelta(seconds=23), key + number / 100, number + 0.5)
        for key in range(keys)
        for number in range(events)
    ]
    frame = pl.DataFrame(
        rows, schema={"key": pl.Int64, "at": MOMENT, "mean": pl.Float32, "last": pl.Float32}, orient="row"
    )
    return History(frame, "at", {"asked": "key"}, FEATURES, ttl)


def asked(count: int = 200, keys: int = 20) -> pl.DataFrame:
    rows = [(number % keys, NOON + number * MINUTE) for number in range(count)]
    return pl.DataFrame(rows, schema={"asked": pl.Int64, "moment": MOMENT}, orient="row")


def known(given: History, rows: pl.DataFrame) -> pl.DataFrame:
    """What the history says of these rows."""
    return join_point_in_time(rows, "moment", [given]).select(FEATURES)


def compared(given: History, rows: pl.DataFrame, served: pl.DataFrame) -> ViewParity:
    return compare_view("delays", given, rows, "moment", served)


def outcomes(found: ViewParity) -> list[Sequence[int]]:
    return [(one.exact, one.stale, one.missing, one.wrong) for one in found.features]


def test_what_is_as_its_history_says_is_exact() -> None:
    found = compared(history(), asked(), known(history(), asked()))
    assert outcomes(found) == [(200, 0, 0, 0), (200, 0, 0, 0)]
    assert (found.cause, found.examples) == (None, ())


def test_a_transform_that_differs_online_is_wrong_and_its_feature_named() -> None:
    served = known(history(), asked()).with_columns(pl.col("mean") * 2)
    found = compared(history(), asked(), served)
    assert outcomes(found)[1] == (200, 0, 0, 0)
    assert outcomes(found)[0][3] >= 190  # twice nothing is nothing
    assert found.examples[0].feature == "mean"
    assert found.examples[0].outcome == "wrong"
    assert "computed otherwise online than offline" in str(found.cause)


def test_a_clock_an_hour_off_is_named_with_the_hour() -> None:
    late = asked().with_columns(pl.col("moment") - HOUR)
    found = compared(history(), asked(), known(history(), late))
    assert sum(one.stale for one in found.features) == 400
    assert "as if a clock were late by that" in str(found.cause)
    assert "0:5" in str(found.cause) or "1:0" in str(found.cause)  # an hour, as far as values every ten minutes tell
    early = asked().with_columns(pl.col("moment") + HOUR)
    found = compared(history(), asked(), known(history(), early))
    assert sum(one.wrong for one in found.features) == 400
    assert "as if a clock were early by that" in str(found.cause)


def test_a_view_that_was_not_refreshed_is_named_with_the_moment_of_the_last_refresh() -> None:
    still = asked().with_columns(pl.lit(NOON + 5 * MINUTE).cast(MOMENT).alias("moment"))
    found = compared(history(), asked(), known(history(), still))
    assert sum(one.stale for one in found.features) > 300
    assert "as if it had not been refreshed since" in str(found.cause)
    assert "2030-06-01T12:0" in str(found.cause)
    example = found.examples[0]
    assert example.outcome == "stale"
    assert example.served_from is not None
    assert example.known_at is not None
    assert example.served_from < example.known_at <= example.as_of


def test_nothing_served_where_something_was_known_is_missing() -> None:
    served = known(history(), asked()).with_columns(
        pl.when(pl.int_range(200) >= 50).then(pl.col(name)).alias(name) for name in FEATURES
    )
    found = compared(history(), asked(), served)
    assert outcomes(found) == [(150, 0, 50, 0), (150, 0, 50, 0)]
    assert "did not come online" in str(found.cause)


def test_a_value_beyond_its_ttl_is_stale() -> None:
    short = history(ttl=MINUTE)
    found = compared(short, asked(), known(history(), asked()))
    assert outcomes(found)[0][1] > 100
    assert outcomes(found)[0][2:] == (0, 0)


def test_a_row_of_an_unknown_key_is_compared_with_nothing() -> None:
    rows = pl.DataFrame({"asked": [99], "moment": [NOON]}, schema_overrides={"moment": MOMENT})
    nothing = pl.DataFrame({name: [None] for name in FEATURES}, schema=dict.fromkeys(FEATURES, pl.Float32))
    assert outcomes(compared(history(), rows, nothing)) == [(1, 0, 0, 0), (1, 0, 0, 0)]
    invented = pl.DataFrame({name: [1.25] for name in FEATURES}, schema=dict.fromkeys(FEATURES, pl.Float32))
    assert outcomes(compared(history(), rows, invented)) == [(0, 0, 0, 1), (0, 0, 0, 1)]
