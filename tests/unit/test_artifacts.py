"""Digests name content, not files; a reader sees all of a record or nothing."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import pyarrow.fs as pafs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.artifacts import Artifacts, ContentDigest, digest_each_row, digest_rows, join, locate

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


@given(tables, st.integers(0, 6), st.randoms())
def test_the_digest_of_each_row_does_not_depend_on_how_rows_are_divided(rows, cut, random) -> None:  # type: ignore[no-untyped-def]
    one, other = frame(rows[:cut]), frame(rows[cut:]).select("number", "text")
    together = digest_each_row(frame(random.sample(rows, len(rows))))
    assert digest_each_row(one) + digest_each_row(other) == together


@given(tables)
def test_the_digest_of_each_row_is_the_sum_of_their_sha256(rows) -> None:  # type: ignore[no-untyped-def]
    given, total = frame(rows).with_columns(bytes=pl.lit(b"\xff\x00")), 0
    schema = json.dumps([("bytes", "Binary"), ("number", "Int64"), ("text", "String")]).encode()
    for text, number, content in given.iter_rows():
        sizes = (len(content), number or 0, len((text or "").encode()))
        fixed = b"".join(size.to_bytes(8, "little", signed=True) for size in sizes)
        nulls = bytes([False, number is None, text is None])
        row = hashlib.sha256(schema).digest()[:16] + nulls + fixed + (text or "").encode() + content
        total += int.from_bytes(hashlib.sha256(row).digest())
    assert digest_each_row(given) == ContentDigest(total % 2**256, len(rows))


@given(tables, tables)
def test_different_rows_have_different_digests_each(one, other) -> None:  # type: ignore[no-untyped-def]
    same = sorted(map(repr, one)) == sorted(map(repr, other))
    assert (digest_each_row(frame(one)) == digest_each_row(frame(other))) == same


def test_every_type_of_a_snapshot_has_a_digest_of_its_own() -> None:
    moment = datetime(2025, 1, 1, tzinfo=UTC)
    values: list[list[object]] = [[1], [1.0], [True], [moment], ["1"], [b"1"], [float("nan")], [-0.0], [0.0]]
    digests = {digest_each_row(pl.DataFrame({"a": value})).hex() for value in values}
    assert len(digests) == len(values)
    texts = pl.DataFrame({"a": ["ab", "a"], "b": ["c", "bc"]})
    assert digest_each_row(texts[:1]) != digest_each_row(texts[1:])


@pytest.mark.parametrize("digest", [digest_rows, digest_each_row])
@pytest.mark.parametrize(
    ("type_", "one", "other"),
    [
        (pl.Categorical(), "a", "b"),
        (pl.Enum(["a", "b"]), "a", "b"),
        (pl.Decimal(5, 2), Decimal("1.50"), Decimal("1.51")),
        (pl.Int128(), 1, 2),
        (pl.List(pl.Int64), [1, 2], [1, None]),
        (pl.Struct({"x": pl.Int64}), {"x": 1}, {"x": None}),
        (pl.Date(), date(2025, 1, 1), date(2025, 1, 2)),
        (pl.Duration("us"), timedelta(1), timedelta(2)),
        (pl.Null(), None, None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_values_of_every_type_have_a_digest(digest, type_, one, other) -> None:  # type: ignore[no-untyped-def]
    def of(*values: object) -> str:
        return str(digest(pl.DataFrame({"a": values}, schema={"a": type_})).hex())

    assert of(one, other, None) == of(None, other, one)
    if one != other:
        assert len({of(one), of(other), of(None)}) == 3


@pytest.mark.parametrize(
    ("place", "path"),
    [
        ("/data/a #?%20[b]", "/data/a #?%20[b]"),
        ("file:///data/a%20b", "/data/a b"),
        ("s3://lake/a b?region=x", "lake/a b"),
        ("s3://lake/a%20b/?region=x", "lake/a b"),
        ("s3://lake/raw?region=eu-central-1&endpoint_override=http://minio:9000", "lake/raw"),
    ],
)
def test_a_place_is_located_with_its_options(place: str, path: str) -> None:
    assert locate(place)[1].rstrip("/") == path
    assert locate(join(place, "x y", "z#?%20.csv"))[1] == f"{path}/x y/z#?%20.csv"
    assert "://" not in place or join(place, "x").endswith(place.partition("?")[2])


IN_A_BUCKET = "s3://key:secret@lake/root?region=x"  # pragma: allowlist secret


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0[]"), min_size=1), max_size=4))
def test_what_lies_in_a_bucket_is_where_arrow_finds_it(names: list[str]) -> None:
    place = join(IN_A_BUCKET, *names)
    assert locate(place)[1] == pafs.FileSystem.from_uri(place)[1] == "/".join(("lake/root", *names))


def test_a_name_in_a_bucket_may_have_signs_that_arrow_takes_in_no_url() -> None:
    assert locate(join(IN_A_BUCKET, "Kurs [2024]"))[1] == "lake/root/Kurs [2024]"
    with pytest.raises(ValueError, match="bucket"):
        locate("s3:///root")


def test_all_that_is_read_from_a_bucket_shares_a_client_whose_credentials_were_found_once() -> None:
    first = locate(IN_A_BUCKET)[0]
    assert locate(join(IN_A_BUCKET, "other", "name"))[0] is first
    for other in (
        "s3://key:secret@lake/root?region=y",
        "s3://other:secret@lake/root?region=x",
    ):  # pragma: allowlist secret
        assert locate(other)[0] is not first


def test_a_process_that_was_forked_has_clients_of_its_own() -> None:
    ours = locate(IN_A_BUCKET)[0]
    if not (child := os.fork()):
        os._exit(locate(IN_A_BUCKET)[0] is ours)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert locate(IN_A_BUCKET)[0] is ours


@pytest.mark.parametrize("place", ["data", "./data", "", "file:///data#1"])
def test_a_place_that_is_neither_path_nor_url_is_refused(place: str) -> None:
    with pytest.raises(ValueError, match=r"neither an absolute path nor a URL|write # as %23"):
        locate(place)


def test_the_digest_of_each_row_is_the_one_by_which_snapshots_of_before_are_named() -> None:
    begun = datetime(2013, 1, 1, tzinfo=UTC)
    rows = pl.DataFrame(
        {
            "text": ["a", "", None, "ä"],
            "number": [1.5, None, -0.0, 2.0],
            "at": [begun, None, begun.replace(year=2014), None],
            "flag": [True, None, False, True],
            "raw": [b"\x00", b"", None, b"x"],
            "count": [1, 2, None, -4],
        },
        schema_overrides={"at": pl.Datetime("us", "UTC")},
    )
    known = "dc88bb1c1abf4680168f74eb7f23673b4203cde341299d3888ce254f6c969a5d"
    assert digest_each_row(rows).hex() == known
    many = pl.concat([rows] * 30_000)  # more than are hashed at a time
    assert digest_each_row(many).total == digest_each_row(rows).total * 30_000 % 2**256


@given(st.lists(st.integers(0, 99), max_size=12), st.sampled_from([1, 7, 100, None]))
def test_rows_are_read_by_their_positions(positions, group_rows) -> None:  # type: ignore[no-untyped-def]
    with tempfile.TemporaryDirectory() as folder:
        artifacts, rows = Artifacts(folder), pl.DataFrame({"n": range(100), "text": [str(n) for n in range(100)]})
        artifacts.write_table(rows, "table.parquet", distinct=("n",), group_rows=group_rows)
        assert artifacts.read_table("table.parquet").equals(rows)
        found = artifacts.read_rows(pl.Series(positions, dtype=pl.UInt32), "table.parquet")
        assert found["n"].to_list() == positions


def test_a_root_may_have_any_name(tmp_path: Path) -> None:
    artifacts = Artifacts(f"{tmp_path}/Kurs [2024] #3 (50%20 off)?")
    artifacts.write_table(frame([("a", 1)]), "x", "part.parquet")
    artifacts.write_json({"n": 1}, "record.json")
    assert artifacts.read_table("x").height == 1
    assert [entry.name for entry in artifacts.entries()] == ["record.json", "x"]
    assert (tmp_path / "Kurs [2024] #3 (50%20 off)?" / "x" / "part.parquet").is_file()


def test_a_shared_file_is_found_under_both_names_and_goes_under_one(tmp_path: Path) -> None:
    artifacts = Artifacts(str(tmp_path))
    artifacts.write_bytes(b"rows", "judged", "one")
    artifacts.share(("judged", "one"), ("snapshots", "x", "part"))
    artifacts.delete("judged")
    assert artifacts.read_bytes("snapshots", "x", "part") == b"rows"
    assert [entry.name for entry in artifacts.entries("snapshots", "x")] == ["part"]


def test_what_nobody_has_written_to_for_long_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    artifacts, day = Artifacts(str(tmp_path)), 86_400
    for name, age in (("old/a/epoch", 9 * day), ("old/b", 8 * day), ("alive/a", 9 * day), ("alive/b/c", 60)):
        artifacts.write_bytes(b"x", "fits", "flights", *name.split("/"))
        moment = time.time() - age
        os.utime(tmp_path / "fits" / "flights" / name, (moment, moment))
    artifacts.write_bytes(b"x", "fits", "planes", "old")
    artifacts.delete_abandoned(timedelta(days=7), "fits", "flights")
    assert [entry.name for entry in artifacts.entries("fits", "flights")] == ["alive"]
    assert artifacts.read_bytes("fits", "flights", "alive", "a") == b"x"
    assert [entry.name for entry in artifacts.entries("fits", "planes")] == ["old"]
    artifacts.delete_abandoned(timedelta(days=7), "fits", "nothing")


@pytest.mark.parametrize("name", ["table.csv.gz", "table.bz2", "table.zst", "plain.csv"])
def test_bytes_are_kept_as_they_are_whatever_their_name_ends_in(tmp_path: Path, name: str) -> None:
    Artifacts(str(tmp_path)).write_bytes(b"as it is", "x", name)
    assert (tmp_path / "x" / name).read_bytes() == b"as it is"
    assert Artifacts(str(tmp_path)).read_bytes("x", name) == b"as it is"


SHARED = """
import gc, sys, threading, time
import polars as pl
from mlops_ray.artifacts import Artifacts

gc.set_threshold(1)
gc.callbacks.append(lambda *_: time.sleep(0.001))  # another thread runs meanwhile
frame = pl.DataFrame({f"x{n}": [1.0, 2.0] for n in range(20)})

def write():
    for number in range(20):
        Artifacts(sys.argv[1]).write_table(frame, f"{number}.parquet")

thread = threading.Thread(target=write)
thread.start()
while thread.is_alive():
    frame.schema
"""


def test_a_frame_is_written_while_another_thread_reads_it_and_garbage_is_collected(tmp_path: Path) -> None:
    """polars' own locks and Python's would wait for each other for ever, and with them the whole process."""
    subprocess.run([sys.executable, "-c", SHARED, str(tmp_path)], check=True, timeout=60)
    assert len(list(tmp_path.glob("*.parquet"))) == 20
