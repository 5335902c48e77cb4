"""Files that cannot be right are each named, and the others are what they would be without them, however they came."""

import gzip
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from mlops_ray import Column, Label, Source, UseCase
from mlops_ray.artifacts import Artifacts
from mlops_ray.config import load_settings
from mlops_ray.errors import DataError
from mlops_ray.ingestion import judged, readers
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.ingestion.more_columns import columns_of_last_ingest, new_columns
from mlops_ray.ingestion.readers import read_file
from mlops_ray.ingestion.snapshot import Snapshot
from mlops_ray.ingestion.sources import SourceFile
from mlops_ray.training.candidates import GradientBoosting
from mlops_ray.use_case import Expectations

AT = datetime(2025, 5, 1, tzinfo=UTC)
SOURCE = Source(
    path="part_*",
    columns=(Column("id", "integer"), Column("at", "timestamp"), Column("note", "text", nullable=True)),
    key=("id",),
    known_at=pl.col("at"),
    expects=Expectations(max_unreadable_files=3),
)


def taken(folder: Path, state: str, source: Source = SOURCE) -> tuple[Snapshot, Artifacts]:
    case = UseCase(
        name="parts",
        sources={"parts": source},
        entities=("id",),
        event_time="at",
        label=Label("odd", value=pl.col("id") % 2 == 1, known_at=pl.col("at")),
        candidates=(GradientBoosting(),),
    )
    settings = load_settings(state=str(folder / state), data=str(folder / "data"))
    return ingest(case, settings, AT, "code", {"parts": "contract"}), Artifacts(settings.artifacts)


def write_parquet(path: Path, rows: pl.DataFrame) -> Path:
    path = path.with_suffix(".parquet")
    pq.write_table(rows.to_arrow(), path, write_page_checksum=True)
    return path


def write_csv(path: Path, rows: pl.DataFrame) -> Path:
    path = path.with_suffix(".csv.gz")
    path.write_bytes(gzip.compress(rows.write_csv().encode()))
    return path


@pytest.mark.parametrize("write", [write_parquet, write_csv])
def test_of_20_files_the_three_bad_ones_are_named_and_the_other_17_are_what_they_are_alone(
    tmp_path: Path, write: Callable[[Path, pl.DataFrame], Path]
) -> None:
    (tmp_path / "data").mkdir()
    bad = []
    for number in range(20):
        ids = range(number * 500, number * 500 + 500)
        rows = pl.DataFrame({"id": ids, "at": [AT] * 500, "note": [f" note {one * 7919 % 1000}" for one in ids]})
        rows = rows.rename({"note": "remark", "at": "moment"}) if number == 11 else rows
        file = write(tmp_path / "data" / f"part_{number:02}", rows)
        content = bytearray(file.read_bytes())
        if number == 3:
            file.write_bytes(content[: len(content) * 2 // 3])
        if number == 7:
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        bad += [file] if number in (3, 7, 11) else []
    found, artifacts = taken(tmp_path, "with")
    assert sorted(found.unreadable["parts"]) == [file.name for file in bad]
    assert all(name in text for name, text in found.unreadable["parts"].items())
    for file in bad:
        file.unlink()
    without, others = taken(tmp_path, "without")
    assert (found.digest, found.counts, found.content) == (without.digest, without.counts, without.content)
    assert found.counts["parts"].rows_in == found.counts["parts"].repaired == 17 * 500
    tables = [
        {entry.name: place.read_bytes("snapshots", "parts", found.digest, "parts", "accepted", entry.name)
         for entry in place.entries("snapshots", "parts", found.digest, "parts", "accepted")}
        for place in (artifacts, others)
    ]  # fmt: skip
    assert list(tables[0].values()) == list(tables[1].values())


def test_a_file_without_a_byte_and_one_with_a_header_alone(tmp_path: Path) -> None:
    write_csv(data_folder(tmp_path) / "part_1", pl.DataFrame({"id": [1], "at": [AT], "note": ["a"]}))
    (tmp_path / "data/part_2.csv").write_bytes(b"")
    (tmp_path / "data/part_3.csv").write_bytes(b"id,at,note\n")
    found, _ = taken(tmp_path, "state")
    assert list(found.unreadable["parts"]) == ["part_2.csv"]
    assert (found.counts["parts"].rows_in, found.counts["parts"].lines.header) == (1, 2)


def test_of_mixed_types_in_a_column_those_that_cannot_be_read_are_refused_each(tmp_path: Path) -> None:
    lines = ['{"id": 1, "at": "2025-05-01T00:00:00Z", "note": 5}', '{"id": "2", "at": "2025-05-01T00:00:00Z"}']
    lines += ['{"id": "two", "at": 7, "note": []}', '{"id": 3.0, "at": "2025-05-01T00:00:00Z", "note": {"a": 1}}']
    (data_folder(tmp_path) / "part_1.jsonl").write_text("\n".join(lines))
    found, artifacts = taken(tmp_path, "state")
    rows = found.tables(artifacts)["parts"].sort("id")
    assert rows.select("id", "note").rows() == [(1, "5"), (2, None), (3, '{"a": 1}')]
    assert found.counts["parts"].reasons == {"id:not_integer": 1, "at:not_timestamp": 1}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_ten_thousand_columns_of_which_three_are_named(tmp_path: Path, ending: str) -> None:
    wide = pl.DataFrame({**{f"c{number}": ["x"] * 20 for number in range(10_000)}, "id": range(20), "at": [AT] * 20})
    path = data_folder(tmp_path) / f"part_1.{ending}"
    wide = wide.with_columns(note=pl.lit("n"))
    path.write_text(wide.write_csv()) if ending == "csv" else wide.write_parquet(path)
    assert taken(tmp_path, "state")[0].counts["parts"].accepted == 20


def test_a_file_that_grows_while_it_is_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = data_folder(tmp_path) / "part_1.csv"
    path.write_text("id,at,note\n1,2025-05-01T00:00:00Z,a\n")
    read = readers.read_csv

    def growing(stream: object, source: Source) -> object:
        with path.open("a") as more:
            more.write("2,2025-05-01T00:00:00Z,b\n")
        return read(stream, source)

    monkeypatch.setitem(readers._READERS, "delimited", growing)
    with pytest.raises(DataError, match=r"File part_1\.csv was changed while it was read"):
        taken(tmp_path, "state", replace(SOURCE, expects=Expectations()))


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_a_new_column_is_noted_and_one_that_is_gone_or_of_another_type_fails(tmp_path: Path, ending: str) -> None:
    folder = data_folder(tmp_path)

    def write_file(number: int, **columns: pl.Expr | None) -> None:
        ids = range(number * 200, number * 200 + 200)
        rows = pl.DataFrame({"id": ids, "at": [AT] * 200, "note": ["n"] * 200})
        rows = rows.drop(name for name, value in columns.items() if value is None)
        rows = rows.with_columns(**{name: value for name, value in columns.items() if value is not None})
        path = folder / f"part_{number}.{ending}"
        if ending == "parquet":
            rows.write_parquet(path)
        else:
            texts = rows.with_columns(pl.col(pl.Datetime).dt.to_string("iso"))
            path.write_text(texts.write_csv() if ending == "csv" else texts.write_ndjson())

    write_file(1)
    first, artifacts = taken(tmp_path, "state")
    assert columns_of_last_ingest(artifacts, "parts") == {"parts": []}
    write_file(2, price=pl.lit(1.5))
    second, _ = taken(tmp_path, "state")
    assert new_columns(second, first.more) == [
        "parts: its files have columns that none had before, and that the contract does not name: price."
    ]
    assert new_columns(taken(tmp_path, "state")[0], second.more) == []
    write_file(3, at=None)
    write_file(4, id=pl.lit("A-1"))
    found = taken(tmp_path, "state")[0].unreadable["parts"]
    gone = "can be read at as timestamp" if ending == "jsonl" else "column at is missing"
    assert sorted(found) == [f"part_3.{ending}", f"part_4.{ending}"]
    assert gone in found[f"part_3.{ending}"]
    assert "in none of its 200 rows can be read id as integer" in found[f"part_4.{ending}"]


@pytest.mark.timeout(60)
def test_month_by_month_a_year_is_what_it_is_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []

    def noted(file: SourceFile, source: Source) -> object:
        reads.append(file.name)
        return read_file(file, source)

    monkeypatch.setattr(judged, "read_file", noted)
    folder = data_folder(tmp_path)
    for month in range(12):
        # The last 50 rows of the month before come again.
        ids = range(max(0, month * 300 - 50), month * 300 + 300)
        rows = pl.DataFrame({"id": ids, "at": [AT] * len(ids), "note": [f"n{one}" for one in ids]})
        write_csv(folder / f"part_{month:02}", rows)
        found, artifacts = taken(tmp_path, "by_month")
    assert sorted(reads) == [f"part_{month:02}.csv.gz" for month in range(12)]
    at_once, others = taken(tmp_path, "at_once")
    assert found == at_once
    assert found.counts["parts"].reasons == {"duplicate_key": 550}
    tables = [snapshot.tables(place)["parts"] for snapshot, place in ((found, artifacts), (at_once, others))]
    assert tables[0].equals(tables[1])


def data_folder(folder: Path) -> Path:
    (folder / "data").mkdir()
    return folder / "data"
