"""The point-in-time join never takes a value from the future, nor an expired one, and keeps every row."""

from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.features.point_in_time import History, join_point_in_time

START = datetime(2020, 1, 1, tzinfo=UTC)
TIME = pl.Datetime("us", "UTC")


def at(minute: int | None) -> datetime | None:
    return None if minute is None else START + timedelta(minutes=minute)


def history(rows: list[tuple[str | None, int | None, float | None]], ttl: int | None) -> History:
    frame = pl.DataFrame(
        {"key": [r[0] for r in rows], "at": [at(r[1]) for r in rows], "value": [r[2] for r in rows]},
        schema={"key": pl.String, "at": TIME, "value": pl.Float64},
    )
    return History(frame, "at", {"key": "key"}, ["value"], None if ttl is None else timedelta(minutes=ttl))


def join(entities: list[tuple[str | None, int]], *histories: History) -> list[float | None]:
    frame = pl.DataFrame(
        {"key": [e[0] for e in entities], "moment": [at(e[1]) for e in entities]},
        schema={"key": pl.String, "moment": TIME},
    )
    return join_point_in_time(frame, "moment", histories)["value"].to_list()


def test_a_future_value_is_never_taken() -> None:
    assert join([("a", 10)], history([("a", 11, 9.0), ("a", 3, 1.0)], ttl=60)) == [1.0]


def test_a_value_known_at_the_very_moment_counts_and_so_does_one_exactly_ttl_old() -> None:
    assert join([("a", 10), ("a", 70), ("a", 71)], history([("a", 10, 1.0)], ttl=60)) == [1.0, 1.0, None]


def test_an_expired_value_does_not_uncover_an_older_one() -> None:
    assert join([("a", 100)], history([("a", 1, 1.0), ("a", 2, 2.0)], ttl=10)) == [None]


def test_a_newest_value_that_is_null_stays_null() -> None:
    assert join([("a", 10)], history([("a", 1, 1.0), ("a", 2, None)], ttl=60)) == [None]


def test_null_keys_match_nothing() -> None:
    assert join([(None, 10)], history([(None, 1, 1.0)], ttl=60)) == [None]


keys = st.sampled_from(["a", "b", None])
minutes = st.integers(0, 30)


@given(
    st.lists(st.tuples(keys, minutes), max_size=12),
    st.lists(st.tuples(keys, minutes), max_size=12, unique=True),
    st.none() | st.integers(0, 20),
)
def test_it_equals_the_definition(
    entities: list[tuple[str | None, int]], events: list[tuple[str | None, int]], ttl: int | None
) -> None:
    rows = [(key, minute, float(number)) for number, (key, minute) in enumerate(events)]

    def expected(key: str | None, moment: int) -> float | None:
        known = [(m, v) for k, m, v in rows if k == key and k is not None and m <= moment]
        newest = max(known, default=None)
        return None if newest is None or (ttl is not None and moment - newest[0] > ttl) else newest[1]

    assert join(entities, history(rows, ttl)) == [expected(*entity) for entity in entities]


def test_an_integer_key_that_pandas_made_a_float_finds_its_values() -> None:
    flights = pl.DataFrame({"key": [1.0, None, 2.0], "moment": [at(10)] * 3}, schema_overrides={"moment": TIME})
    rows = pl.DataFrame({"key": [1, 3], "at": [at(5)] * 2, "value": [1.0, 3.0]}, schema_overrides={"at": TIME})
    known = History(rows, "at", {"key": "key"}, ["value"], None)
    assert join_point_in_time(flights, "moment", [known])["value"].to_list() == [1.0, None, None]
