"""Files that cannot be right are each named, and the others are what they would be without them."""

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
from mlops_ray.ingestion import readers
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.ingestion.snapshot import Snapshot
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


def data_folder(folder: Path) -> Path:
    (folder / "data").mkdir()
    return folder / "data"
