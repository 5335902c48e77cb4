"""The point-in-time join never takes a value from the future, nor an expired one, and keeps every row."""

from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.features.point_in_time import History, join_point_in_time, newest

START = datetime(2020, 1, 1, tzinfo=UTC)
TIME = pl.Datetime("us", "UTC")
Row = tuple[str | None, int | None, float | None]


def at(minute: int | None) -> datetime | None:
    return None if minute is None else START + timedelta(minutes=minute)


def history(rows: list[Row], ttl: int | None, created: list[int] | None = None) -> History:
    frame = pl.DataFrame(
        {"key": [r[0] for r in rows], "at": [at(r[1]) for r in rows], "value": [r[2] for r in rows]},
        schema={"key": pl.String, "at": TIME, "value": pl.Float64},
    )
    if created is not None:
        frame = frame.with_columns(pl.Series("created", [at(minute) for minute in created], TIME))
    life = None if ttl is None else timedelta(minutes=ttl)
    return History(frame, "at", {"key": "key"}, ["value"], life, None if created is None else "created")


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


def test_a_row_does_not_exist_before_it_was_created() -> None:
    """Of 1 May, 5 and then 7, which was written on 9 May: on 3 May it is 5, on 10 May it is 7."""
    corrected = history([("a", 1, 5.0), ("a", 1, 7.0)], None, created=[1, 9])
    assert join([("a", 0), ("a", 1), ("a", 3), ("a", 8), ("a", 9), ("a", 10)], corrected) == [
        None, 5.0, 5.0, 5.0, 7.0, 7.0,
    ]  # fmt: skip


def test_a_late_row_about_an_earlier_moment_does_not_hide_a_newer_one() -> None:
    assert join([("a", 6), ("a", 9)], history([("a", 5, 1.0), ("a", 2, 2.0)], None, created=[5, 8])) == [1.0, 1.0]


def test_values_that_hold_for_all_need_no_key() -> None:
    rows = pl.DataFrame({"at": [at(1), at(5)], "value": [1.0, 2.0]}, schema_overrides={"at": TIME})
    entities = pl.DataFrame({"moment": [at(0), at(3), at(9)]}, schema_overrides={"moment": TIME})
    found = join_point_in_time(entities, "moment", [History(rows, "at", {}, ["value"], None)])
    assert found["value"].to_list() == [None, 1.0, 2.0]


keys = st.sampled_from(["a", "b", None])
minutes = st.integers(0, 30)


@given(
    st.lists(st.tuples(keys, minutes), max_size=12),
    st.lists(st.tuples(keys, minutes, minutes), max_size=12),
    st.none() | st.integers(0, 20),
    st.booleans(),
)
def test_it_equals_the_definition(
    entities: list[tuple[str | None, int]],
    events: list[tuple[str | None, int, int]],
    ttl: int | None,
    by_created: bool,
) -> None:
    """Against all rows compared with each entity, also for rows that share key and moment, of which the last counts."""
    rows: list[Row] = [(key, minute, float(number)) for number, (key, minute, _) in enumerate(events)]
    created = [late for *_, late in events]

    def expected(key: str | None, moment: int) -> float | None:
        known = [
            (minute, created[n] if by_created else 0, n)
            for n, (k, minute, _) in enumerate(rows)
            if k == key and k is not None and minute is not None and minute <= moment
            and (not by_created or created[n] <= moment)
        ]  # fmt: skip
        best = max(known, default=None)
        return None if best is None or (ttl is not None and moment - best[0] > ttl) else float(best[2])

    given_rows = history(rows, ttl, created if by_created else None)
    assert join(entities, given_rows) == [expected(*entity) for entity in entities]
    as_of = START + timedelta(minutes=15)
    current = {key: expected(key, 15) for key in ("a", "b")}
    assert dict(newest(given_rows, as_of).select("key", "value").iter_rows()) == {
        key: value for key, value in current.items() if value is not None
    }
