"""The join in slices of time is the whole join, and both are the definition, row by row."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_ray.errors import DataError
from mlops_ray.features import slices
from mlops_ray.features.history_source import HistorySource, join_sources, with_keys_of
from mlops_ray.features.slices import Slice, join_left, left_at, left_of, merged, newest_between, slices_of, spans_of
from mlops_ray.features.spans import spans

START = datetime(2020, 1, 1, tzinfo=UTC)
TIME = pl.Datetime("us", "UTC")
NUMBERS = count()
Event = tuple[str | None, int | None, int, int, int | None]  # key, second key, minute, created after, value
Asked = tuple[str | None, int | None, int | None]


def at(minute: int | None) -> datetime | None:
    return None if minute is None else START + timedelta(minutes=minute)


def written(folder: Path, events: Sequence[Event], source: HistorySource, row_group: int = 4) -> HistorySource:
    rows = [
        (key, second, at(m), at(m + late), value) for key, second, m, late, value in sorted(events, key=lambda e: e[2])
    ]
    schema = {"key": pl.String, "second": pl.Int64, "at": TIME, "created": TIME, "value": pl.Int64}
    url = str(folder / f"{next(NUMBERS)}.parquet")
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(url, row_group_size=row_group)
    return replace(source, urls=(url,))


def asked_rows(asked: Sequence[Asked]) -> pl.DataFrame:
    rows = [(number, key, second, at(minute)) for number, (key, second, minute) in enumerate(asked)]
    schema = {"row": pl.Int64, "key": pl.String, "other": pl.Int64, "moment": TIME}
    return pl.DataFrame(rows, schema=schema, orient="row")


def in_slices(entities: pl.DataFrame, source: HistorySource, buckets: int) -> tuple[pl.DataFrame, list[Slice]]:
    """As the tasks do it, one after the other."""

    def step(*arguments: Any) -> list[Any]:
        found = left_of(*arguments)
        return [found] if buckets == 1 else list(found)

    cut = slices_of(spans_of(entities["moment"]), [source])
    lefts = left_at(source, spans(source.urls, "at"), cut, buckets, step, merged)
    known, joined = pl.col("moment").fill_null(cut[0].since), []
    for one, left in zip(cut, lefts, strict=True):
        end = one.before or datetime(9999, 1, 1, tzinfo=UTC)
        mine = entities.filter(known.is_between(one.start or START - timedelta(days=9), end, closed="left"))
        by_looking_back = join_sources(mine, "moment", [source])
        assert join_left(mine, "moment", source, buckets, left).equals(by_looking_back)
        joined.append(by_looking_back)
    return pl.concat(joined).sort("row"), cut


def by_definition(asked: Asked, events: Sequence[Event], source: HistorySource) -> int | None:
    """Of all rows compared with one: what was known at its moment, of the newest timestamp, and not expired."""
    key, second, moment = asked
    wanted = {"key": key, "other": second}
    best: tuple[Any, ...] | None = None
    for place, (k, s, minute, late, value) in enumerate(sorted(events, key=lambda e: e[2])):
        has = {"key": k, "second": s}
        same = all(has[mine] is not None and wanted[theirs] == has[mine] for theirs, mine in source.keys.items())
        exists = moment is not None and minute <= moment and not (
            source.created and source.created_counts and minute + late > moment
        )  # fmt: skip
        rank = (minute, minute + late if source.created else 0, place)
        if same and exists and (best is None or rank > best[:3]):
            best = (*rank, value)
    if best is None or moment is None:
        return None
    expired = source.ttl is not None and timedelta(minutes=moment - best[0]) > source.ttl
    return None if expired else best[3]


SOURCE = HistorySource(
    view="values",
    urls=(),
    timestamp="at",
    columns={"key": "key", "second": "second", "value": "value"},
    keys={"key": "key"},
    features=("value",),
    ttl=None,
)
KEYS: list[Mapping[str, str]] = [{}, {"key": "key"}, {"key": "key", "other": "second"}, {"other": "second"}]
names, numbers = st.sampled_from(["a", "b", None]), st.sampled_from([1, 2**60, 2**60 + 1, None])
events = st.lists(
    st.tuples(names, numbers, st.integers(0, 40), st.integers(0, 30), st.none() | st.integers(0, 99)), max_size=25
)
asked = st.lists(st.tuples(names, numbers, st.none() | st.integers(0, 60)), min_size=1, max_size=15)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events, asked, st.none() | st.integers(1, 30), st.sampled_from(KEYS), st.sampled_from([None, "created"]),
    st.booleans(), st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3]),
)  # fmt: skip
def test_slices_are_the_whole_and_the_whole_is_the_definition(
    tmp_path: Path, rows: list[Event], questions: list[Asked], ttl: int | None, keys: Mapping[str, str],
    created: str | None, created_counts: bool, slice_rows: int, history_rows: int, buckets: int,
) -> None:  # fmt: skip
    """Also with ties, nulls, a ttl's edge, late and corrected rows, another name of a key, and ids beyond 2^53."""
    if not any(minute is not None for *_, minute in questions):
        return
    shape = replace(
        SOURCE, keys=keys, created=created, created_counts=created_counts,
        ttl=None if ttl is None else timedelta(minutes=ttl),
    )  # fmt: skip
    source, entities = written(tmp_path, rows, shape), asked_rows(questions)
    whole = join_sources(entities, "moment", [source])
    assert whole["value"].to_list() == [by_definition(one, rows, source) for one in questions]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "SLICE_ROWS", slice_rows)
        patch.setattr(slices, "HISTORY_ROWS", history_rows)
        joined, _ = in_slices(entities, source, buckets)
    assert joined.equals(whole)


def test_slices_cover_all_rows_once_and_are_about_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_ROWS", 100)
    history = written(tmp_path, [("a", 1, minute, 0, 1) for minute in range(50)], SOURCE)
    entities = asked_rows([("a", 1, minute * minute // 100) for minute in range(1000)])
    cut = slices_of(spans_of(entities["moment"]), [history])
    assert len(cut) == 10
    assert [one.before for one in cut] == [*(one.since for one in cut[1:]), None]
    assert cut[0].start is None
    assert max(one.rows for one in cut) < 200
    joined, again = in_slices(entities, history, 1)
    assert joined["row"].to_list() == entities["row"].to_list()
    assert again == cut


def test_what_is_carried_is_bounded_by_the_keys_also_where_all_was_loaded_late(tmp_path: Path) -> None:
    """A history that was written in one go, a year after: one row of each key is left, and not all of them."""
    source = replace(SOURCE, created="created")
    loaded = [("ab"[n % 2], 1, n, 10_000 - n, n) for n in range(200)]
    late = left_of(written(tmp_path, loaded, source), None, START + timedelta(minutes=500), 1)
    assert late.rows["value"].to_list() == [198, 199]
    corrected = [("a", 1, 1, 0, 1), ("a", 1, 2, 50, 2), ("a", 1, 3, 20, 3), ("a", 1, 4, 90, 4)]
    found = left_of(written(tmp_path, corrected, source), None, START + timedelta(minutes=10), 1)
    assert found.rows["value"].to_list() == [1, 3, 4]  # 2 comes after 3, which counts before it


def test_the_newest_rows_are_found_a_part_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "HISTORY_ROWS", 7)
    rows: list[Event] = [("abc"[n % 3], 1, n // 2, n % 5, n) for n in range(90)]
    source = replace(written(tmp_path, rows, SOURCE), created="created", created_counts=False)
    found = newest_between(source, START, START + timedelta(minutes=30))
    expected = {
        key: max((e for e in rows if e[0] == key and e[2] < 30), key=lambda e: (e[2], e[2] + e[3]))[4] for key in "abc"
    }
    assert dict(found.select("key", "value").iter_rows()) == expected
    assert newest_between(source, START - timedelta(days=9), START).is_empty()


def test_one_name_for_two_things_is_refused(tmp_path: Path) -> None:
    source = written(tmp_path, [("a", 1, 1, 0, 1)], SOURCE)
    entities = asked_rows([("a", 1, 5)])
    with pytest.raises(DataError, match=r"Feature 'value' has the name of a column that the rows have already"):
        join_sources(entities.with_columns(value=1), "moment", [source])
    with pytest.raises(DataError, match="or an earlier view's"):
        join_sources(entities, "moment", [source, source])


def test_a_view_without_rows_leaves_all_unknown(tmp_path: Path) -> None:
    source = written(tmp_path, [], SOURCE)
    entities = with_keys_of(asked_rows([("a", 1, 5), (None, None, None)]), [source])
    assert join_sources(entities, "moment", [source])["value"].to_list() == [None, None]
    assert slices_of(spans_of(entities["moment"]), [source])[0].rows == 1
