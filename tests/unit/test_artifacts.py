"""Digests name content, not files; a reader sees all of a record or nothing."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.artifacts import Artifacts, ContentDigest, digest_rows

cells = st.none() | st.sampled_from(["", "a", "ab", "b", "\x1f"])
tables = st.lists(st.tuples(cells, st.none() | st.integers(-2, 2)), max_size=6)


def frame(rows: list[tuple[str | None, int | None]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"text": pl.String, "number": pl.Int64}, orient="row")


@given(tables, st.randoms())
def test_the_digest_does_not_depend_on_the_order_of_rows_or_columns(rows, random) -> None:  # type: ignore[no-untyped-def]
    shuffled = random.sample(rows, len(rows))
    assert digest_rows(frame(rows)) == digest_rows(frame(shuffled).select("number", "text"))


@given(tables, tables)
def test_different_rows_have_different_digests(one, other) -> None:  # type: ignore[no-untyped-def]
    same = sorted(map(repr, one)) == sorted(map(repr, other))
    assert (digest_rows(frame(one)).hex() == digest_rows(frame(other)).hex()) == same


def test_the_name_and_type_of_a_column_count() -> None:
    assert digest_rows(pl.DataFrame({"a": [1]})) != digest_rows(pl.DataFrame({"b": [1]}))
    assert digest_rows(pl.DataFrame({"a": [1]})) != digest_rows(pl.DataFrame({"a": [1.0]}))


def test_digests_of_partitions_add_up_in_any_order() -> None:
    one, two = digest_rows(frame([("a", 1)])), digest_rows(frame([("b", 2)]))
    assert one + two == two + one
    assert one + ContentDigest() == one


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_tables_and_records_come_back_as_written(tmp_path: Path, scheme: str) -> None:
    artifacts = Artifacts(f"{scheme}{tmp_path}/root")
    written = frame([("a", 1), (None, None)])
    artifacts.write_table(written, "x", "part.parquet")
    artifacts.write_json({"n": 1}, "x", "record.json")
    assert artifacts.read_table("x", "part.parquet").equals(written)
    assert artifacts.read_json("x", "record.json") == {"n": 1}
    assert artifacts.read_json("x", "absent.json") is None
    artifacts.delete("x")
    assert artifacts.read_json("x", "record.json") is None
