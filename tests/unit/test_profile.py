"""A profile says what is in a table of any size, and is the same however the table is divided."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.errors import DataError, IntegrityError
from mlops_ray.exploration.explore import explore_files, profile_table
from mlops_ray.exploration.profile import ColumnProfile, Profile, profile_of
from mlops_ray.exploration.scan import Scan, raw_partitions, scan_partition
from mlops_ray.exploration.sketches import KLL_K, Numbers, Repeats, Times
from mlops_ray.exploration.suspicion import of_columns
from mlops_ray.exploration.table_sketch import TableSketch
from mlops_ray.ingestion.sources import find_files
from mlops_ray.use_case import Column, Source

ROWS = 60_000
BOUNDED = ("percentiles", "histogram", "edges", "mean", "deviation", "top_error")


def table() -> pl.DataFrame:
    random = np.random.default_rng(7)
    minutes = np.sort(random.integers(0, 90 * 24 * 60, ROWS))
    amount = random.lognormal(3, 1, ROWS)
    return pl.DataFrame(
        {
            "amount": pl.Series(amount).set(pl.Series(random.random(ROWS) < 0.1), None),
            "count": random.integers(0, 50, ROWS),
            "shop": pl.Series(random.integers(0, 9, ROWS)).cast(pl.String),
            "id": pl.int_range(ROWS, eager=True).cast(pl.String),
            "at": pl.Series(minutes * 60_000_000).cast(pl.Datetime("us", "UTC")),
            "good": random.random(ROWS) < 0.7,
        }
    )


def sketched(*parts: pl.DataFrame) -> TableSketch:
    whole = TableSketch()
    for part in parts:
        one = TableSketch()
        one.update(part)
        whole.merge(one)
    return whole


def exact(column: ColumnProfile) -> dict[str, Any]:
    """All that does not come from the KLL sketch, is a sum of floats, or the bound of an error."""
    return {name: value for name, value in vars(column).items() if name not in BOUNDED}


def test_a_merged_profile_is_that_of_the_whole() -> None:
    frame = table()
    whole = profile_of("x", sketched(frame))
    parts = [frame[start : start + 7_001] for start in range(0, ROWS, 7_001)]
    for order in (parts, parts[::-1]):
        merged = profile_of("x", sketched(*order))
        assert {one.name: exact(one) for one in merged.columns} == {one.name: exact(one) for one in whole.columns}
        assert (merged.rows, merged.duplicates) == (whole.rows, whole.duplicates)
        assert [one.mean for one in merged.columns] == pytest.approx([one.mean for one in whole.columns])


def test_counts_ends_and_values_are_those_of_the_rows() -> None:
    frame = table()
    columns = {one.name: one for one in profile_of("x", sketched(frame)).columns}
    amount = frame["amount"]
    assert columns["amount"].missing == amount.null_count()
    assert (columns["amount"].minimum, columns["amount"].maximum) == (amount.min(), amount.max())
    assert columns["amount"].mean == pytest.approx(amount.mean())
    assert columns["amount"].deviation == pytest.approx(amount.std(ddof=0))
    assert dict(columns["shop"].top) == dict(frame["shop"].value_counts().iter_rows())
    assert columns["shop"].top_exact
    assert (columns["count"].different, columns["count"].different_exact) == (50, True)
    assert columns["id"].different == pytest.approx(ROWS, rel=0.08)
    assert columns["id"].repeated == 0
    assert (columns["at"].type, columns["good"].type, columns["shop"].type) == ("timestamp", "boolean", "text")


@pytest.mark.parametrize("chunk", [700, 9_001, ROWS])
def test_frequent_values_are_within_the_bound_however_the_rows_are_divided(chunk: int) -> None:
    """More different values than are counted exactly: some often, most rarely, and a stretch in which none again."""
    random = np.random.default_rng(5)
    drawn = np.minimum(random.zipf(1.3, ROWS - 20_000), 5_000)
    names = pl.Series("name", np.concatenate([drawn, np.arange(10_000, 30_000)])).cast(pl.String)
    column = profile_of("x", sketched(*names.to_frame().iter_slices(chunk))).columns[0]
    counts = dict(names.value_counts().iter_rows())
    assert not column.top_exact
    assert 0 < column.top_error < ROWS / 10
    assert all(rows <= counts[name] <= rows + column.top_error for name, rows in column.top)
    rest = max(count for name, count in counts.items() if name not in dict(column.top))
    assert rest <= column.top[-1][1] + column.top_error
    assert column.top[0][0] == "1"


def test_quantiles_are_within_the_bound_of_the_sketch() -> None:
    column = profile_of("x", sketched(*table().iter_slices(5_000))).columns[0]
    values = np.sort(table()["amount"].drop_nulls().to_numpy())
    ranks = np.searchsorted(values, column.percentiles, "right") / len(values)
    assert np.abs(ranks - np.arange(101) / 100).max() < 2 * column.rank_error  # of 101, each within it in 99 of 100
    assert sum(column.histogram) == pytest.approx(len(values), rel=0.05)


def test_rows_and_values_that_come_again_are_counted() -> None:
    frame = pl.DataFrame({"a": np.arange(20_000), "b": np.arange(20_000) * 2})
    once, half = (profile_of("x", sketched(one)) for one in (frame, pl.concat([frame, frame])))
    assert (once.duplicates, half.duplicates) == (0, 0.5)
    few = profile_of("x", sketched(pl.concat([frame.head(90), frame.head(10)])))
    assert (few.duplicates, few.duplicates_exact) == (pytest.approx(0.1), True)


def test_gaps_in_time_are_named_by_the_unit_in_which_there_are_few() -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    hours = [start + timedelta(hours=hour) for hour in range(240) if not 100 <= hour < 103]
    coverage = profile_of("x", sketched(pl.DataFrame({"at": hours}))).columns[0].coverage
    assert coverage is not None
    assert (coverage.unit, coverage.gaps) == (
        "hour",
        (("2024-01-05T04:00:00+00:00", "2024-01-05T06:00:00+00:00", 3),),
    )
    days = [start + timedelta(days=day, hours=9) for day in range(60) if day not in (10, 11)]
    coverage = profile_of("x", sketched(pl.DataFrame({"at": days}))).columns[0].coverage
    assert coverage is not None
    assert (coverage.unit, coverage.gaps) == ("day", (("2024-01-11", "2024-01-12", 2),))
    assert sum(rows for _, rows in coverage.volume) == 58


def test_time_is_counted_by_longer_units_where_there_is_too_much_of_it() -> None:
    random = np.random.default_rng(3)
    moments = random.integers(-62_000_000_000, 250_000_000_000, 200_000) * 1_000_000
    whole, one, other = Times(), Times(), Times()
    whole.update(moments)
    one.update(moments[:150_000])
    other.update(moments[150_000:])
    one.merge(other)
    assert whole.unit == one.unit == "month"
    assert np.array_equal(whole.buckets, one.buckets)
    assert np.array_equal(whole.counts, one.counts)
    assert whole.counts.sum() == 200_000


@given(st.lists(st.integers(0, 5_000), max_size=300), st.integers(0, 300))
def test_a_sample_of_repeats_is_the_same_however_it_is_divided(values: list[int], cut: int) -> None:
    hashes = pl.Series(values, dtype=pl.Int64).hash(0).to_numpy()
    whole, one, other = Repeats(), Repeats(), Repeats()
    for sketch, part in ((whole, hashes), (one, hashes[:cut]), (other, hashes[cut:])):
        sketch.update(part, np.ones(len(part), np.int64))
    other.merge(one)
    assert np.array_equal(whole.hashes, other.hashes)
    assert np.array_equal(whole.counts, other.counts)
    assert whole.different == len(set(values))


@given(st.lists(st.floats(-1e300, 1e300), max_size=50), st.integers(0, 50))
def test_moments_of_numbers_merge(values: list[float], cut: int) -> None:
    array = np.array(values)
    one, other = Numbers(), Numbers()
    with np.errstate(over="ignore", invalid="ignore"):
        one.update(array[:cut])
        other.update(array[cut:])
        one.merge(other)
    assert one.count == len(values)
    assert not values or (one.minimum, one.maximum) == (min(values), max(values))


def test_a_profile_survives_json_and_names_another_version(tmp_path: Path) -> None:
    profile = profile_of("x", sketched(table()))
    assert Profile.from_json(json.loads(json.dumps(profile.to_json()))) == profile
    with pytest.raises(IntegrityError, match="Make it again"):
        Profile.from_json({"name": "x"})


def written(folder: Path, files: Mapping[str, bytes]) -> str:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return str(folder)


def explored(folder: Path, files: Mapping[str, bytes], pattern: str = "*") -> Profile:
    return explore_files(written(folder, files), pattern).profile


def column(profile: Profile, name: str) -> ColumnProfile:
    found = profile.column(name)
    assert found is not None
    return found


def test_what_raw_texts_can_be_read_as_is_counted(tmp_path: Path) -> None:
    lines = [b"n,m,d,t,w,c,b"]
    lines += [f"{n},{n}.5,0{n}/12/2024,2024-01-0{n}T00:00Z,2024-01-0{n},1.23{n}{n},yes".encode() for n in range(1, 9)]
    lines += [b'NA,x,,,,"1.234,5",no']
    profile = explored(tmp_path, {"x.csv": b"\n".join(lines)})
    assert {one.name: one.type for one in profile.columns} == {
        "n": "integer", "m": "number", "d": "text", "t": "timestamp", "w": "local_time", "c": "number", "b": "boolean",
    }  # fmt: skip
    assert column(profile, "n").null_texts == 1
    assert column(profile, "m").kinds == {"number": 8, "text": 1}
    assert column(profile, "d").formats["%d/%m/%Y"] == 8
    assert column(profile, "c").kinds == {"decimal_comma": 1, "number": 8}
    assert {one.column: one.kind for one in of_columns(profile)} == {"m": "mixed", "c": "mixed"}
    assert column(profile, "d").missing == 1


def test_an_empty_file_and_a_column_without_values_are_no_errors(tmp_path: Path) -> None:
    profile = explored(tmp_path, {"x.csv": b"a,b\n" + b",\n" * 30, "y.csv": b"a,b\n"})
    assert [one.type for one in profile.columns] == ["empty", "empty"]
    assert {one.column: one.kind for one in of_columns(profile)} == {"a": "empty", "b": "empty"}
    assert profile.rows == 30
    profile.page()


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    files = {"a.csv": b"x\n1\n2\n", "b.csv": b"", "c.csv": b"x\n\xff\xfe\n3\n"}
    profile = explored(tmp_path, files)
    assert list(profile.unreadable) == ["b.csv"]
    assert "b.csv" in profile.page()
    assert profile.malformed == 1  # of c.csv, which is not UTF-8
    assert profile.rows == 4
    with pytest.raises(DataError, match=r"b\.csv"):
        explored(tmp_path, {}, "b.csv")


def test_mixed_types_infinite_and_nan_are_counted_as_what_they_are(tmp_path: Path) -> None:
    values = [1.5, float("nan"), float("inf"), -float("inf"), None] * 6
    pl.DataFrame({"x": values, "y": [["a"]] * 30, "z": pl.Series([None] * 30, dtype=pl.Null)}).write_parquet(
        tmp_path / "x.parquet"
    )
    profile = explore_files(str(tmp_path), "x.parquet").profile
    x = column(profile, "x")
    assert (x.odd, x.missing, x.kinds) == ({"NaN": 6, "infinite": 12}, 6, {"number": 6})
    assert (x.minimum, x.maximum) == (1.5, 1.5)
    assert column(profile, "z").type == "empty"
    json.dumps(profile.to_json(), allow_nan=False)
    profile.page()


def test_dates_at_the_ends_of_the_calendar_have_a_coverage(tmp_path: Path) -> None:
    ends = [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)]
    profile = profile_of("x", sketched(pl.DataFrame({"at": ends})))
    coverage = profile.columns[0].coverage
    assert coverage is not None
    assert (coverage.first.year, coverage.last.year) == (1, 9999)
    assert Profile.from_json(json.loads(json.dumps(profile.to_json()))) == profile
    profile.page()


def test_names_and_values_are_no_markup_in_the_page(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    frame = pl.DataFrame({f"\"{evil}'>": [evil, "</svg><img src=x onerror=alert(1)>"] * 20})
    profile = profile_of(f"{evil}.csv", sketched(frame))
    for shown in (profile.page(), profile._repr_html_()):
        assert "<script" not in shown
        assert "<img" not in shown
    assert "http" not in profile.page()  # nothing is fetched


def test_ten_thousand_columns_are_profiled_and_shown(tmp_path: Path) -> None:
    frame = pl.DataFrame({f"c{number}": np.arange(50) * number for number in range(10_000)})
    profile = profile_of("wide", sketched(frame))
    assert len(profile.columns) == 10_000
    assert len(profile.page()) < 5_000_000


def test_json_lines_are_read_with_every_key_that_occurs(tmp_path: Path) -> None:
    profile = explored(tmp_path, {"x.jsonl": b'{"a": 1}\n{"b": "x"}\nnonsense\n{"a": 2.5, "b": null}\n'})
    assert {one.name: (one.type, one.missing) for one in profile.columns} == {"a": ("number", 1), "b": ("text", 2)}
    assert profile.malformed == 1


def test_partitions_give_the_profile_of_the_whole(tmp_path: Path) -> None:
    frame = table()
    frame.write_parquet(tmp_path / "whole.parquet", row_group_size=9_000)
    profile = profile_table("x", str(tmp_path / "whole.parquet"))
    assert {one.name: exact(one) for one in profile.columns} == {
        one.name: exact(one) for one in profile_of("x", sketched(frame)).columns
    }
    frame.head(30_000).write_csv(tmp_path / "a.csv")
    frame.tail(30_000).write_csv(tmp_path / "b.csv")
    source = Source("*.csv", ())
    whole = Scan()
    for partition in raw_partitions(find_files(str(tmp_path), "x", source), source):
        whole.merge(scan_partition(partition))
    found = profile_of("x", whole.whole())
    assert found.rows == ROWS
    assert [one.type for one in found.columns] == ["number", "integer", "integer", "integer", "timestamp", "boolean"]


def test_the_sketch_of_a_column_stays_small() -> None:
    import pickle

    sketch = sketched(table())
    assert len(pickle.dumps(sketch)) < 6 * 120_000
    assert KLL_K == 512


def test_a_moment_out_of_range_is_odd_and_not_missing_too(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('at\n2025-01-01T00:00:00Z\n9999-12-31T00:00:00Z\n""\n')
    source = Source("x.csv", (Column("at", "timestamp", nullable=True),))
    (partition,) = raw_partitions(find_files(str(tmp_path), "x", source), source)
    at = column(profile_of("x", scan_partition(partition).whole()), "at")
    assert (at.rows, at.missing, at.odd, at.kinds) == (3, 1, {"out_of_range": 1}, {"timestamp": 1})
