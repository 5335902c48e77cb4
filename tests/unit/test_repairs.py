"""Refused records leave as files, are mended, and come back: every row is accounted for, and none counts twice."""

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from mlops_ray import Column, Label, Source, UseCase
from mlops_ray.artifacts import Artifacts
from mlops_ray.cli.main import app
from mlops_ray.config import load_settings
from mlops_ray.errors import DataError
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.ingestion.repairs import export, replay
from mlops_ray.ingestion.snapshot import Snapshot, last_snapshot
from mlops_ray.pipeline.steps.ingest import contract
from mlops_ray.training.candidates import GradientBoosting

SOURCE = Source(
    path="visits_*.csv",
    columns=(Column("id", "integer"), Column("at", "timestamp"), Column("note", "text", nullable=True)),
    key=("id",),
    known_at=pl.col("at"),
)
GOOD = ["note;id;more;at", "a;1;x;2025-05-01T00:00:00Z", "b;2;x;2025-05-01T00:00:00Z"]
BAD = ["c;three;x;2025-05-01T00:00:00Z", '"d;4;x', '";4;x;yesterday', "e;5"]


def case(source: Source) -> UseCase:
    return UseCase(
        name="visits",
        owner="data@example.org",
        sources={"visits": source},
        entities=("id",),
        event_time="at",
        label=Label("good", pl.col("note") == "a", pl.col("at")),
        candidates=(GradientBoosting(),),
    )


def taken(folder: Path, source: Source) -> Snapshot:
    places = load_settings(state=str(folder / "state"), data=str(folder / "data"))
    return ingest(case(source), places, None, "c" * 40, {"visits": contract(source)})


def expect_balance(snapshot: Snapshot) -> None:
    counts = snapshot.counts["visits"]
    assert counts.rows_in == counts.accepted + counts.repaired + counts.quarantined + counts.not_yet_known


@pytest.mark.parametrize(
    "text",
    [
        {"delimiter": ";"},
        {"delimiter": ";", "encoding": "utf-16"},
        {"delimiter": ";", "encoding": "latin-1"},
        {"delimiter": ";", "encoding": "utf-8-sig"},
    ],
)
def test_mended_records_come_back_and_every_row_is_accounted_for(tmp_path: Path, text: dict[str, Any]) -> None:
    source, encoding = replace(SOURCE, **text), text.get("encoding", "utf-8")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/visits_1.csv").write_bytes("\r\n".join([*GOOD, *BAD]).encode(encoding))
    before, artifacts = taken(tmp_path, source), Artifacts(f"{tmp_path}/state/artifacts")
    assert (before.counts["visits"].accepted, before.counts["visits"].quarantined) == (2, 3)

    (file,) = export(artifacts, before, "visits", source, f"{tmp_path}/data", tmp_path / "out")
    assert file.read_bytes().decode(encoding).lstrip("\ufeff") == "\r\n".join([GOOD[0], *BAD])
    with pytest.raises(DataError, match=r"3 of its records would be refused again: line 2 .*id:not_integer"):
        replay(file, "visits", source, f"{tmp_path}/data")
    assert [found.name for found in (tmp_path / "data").iterdir()] == ["visits_1.csv"]

    mended = [GOOD[0], "c;3;x;2025-05-01T00:00:00Z", "d;4;x;2025-05-01T00:00:00Z", "e;5;x;2025-05-01T00:00:00Z"]
    file.write_bytes("\n".join(mended).encode(encoding))
    names = {replay(file, "visits", source, f"{tmp_path}/data") for _ in range(3)}
    assert len(names) == 1
    after = taken(tmp_path, source)
    expect_balance(after)
    counts = after.counts["visits"]
    assert (counts.rows_in, counts.accepted, counts.quarantined) == (8, 5, 3)
    assert after.tables(artifacts)["visits"]["id"].sort().to_list() == [1, 2, 3, 4, 5]


def test_records_of_json_lines_and_parquet_leave_as_lines_of_json(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = [{"id": 1, "at": "2025-05-01T00:00:00Z", "note": "a"}, {"id": 2, "at": "soon", "note": "ü"}]
    pl.DataFrame(rows).write_ndjson(tmp_path / "data/visits_1.jsonl")
    pl.DataFrame(rows).with_columns(pl.col("id") + 10).write_parquet(tmp_path / "data/visits_2.parquet")
    source = replace(SOURCE, path="visits_*")
    snapshot, artifacts = taken(tmp_path, source), Artifacts(f"{tmp_path}/state/artifacts")
    files = export(artifacts, snapshot, "visits", source, f"{tmp_path}/data", tmp_path / "out")
    assert [file.name for file in files] == ["visits_1.jsonl", "visits_2.parquet.jsonl"]
    for file in files:
        file.write_text(file.read_text().replace("soon", "2025-05-02T00:00:00Z"))
        replay(file, "visits", source, f"{tmp_path}/data")
    after = taken(tmp_path, source)
    expect_balance(after)
    assert after.tables(artifacts)["visits"]["id"].sort().to_list() == [1, 2, 11, 12]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("visits.csv", None),
        ("year=*/visits_*.csv", None),
        ("raw/visits_*.csv", "raw/visits_1.mended-"),
        ("raw/**/visits_*.csv", "raw/visits_1.mended-"),
        ("**/*.csv", "visits_1.mended-"),
    ],
)
def test_a_mended_file_is_put_where_its_source_finds_it_or_nowhere(
    tmp_path: Path, path: str, found: str | None
) -> None:
    file = tmp_path / "visits_1.csv"
    file.write_text("id,at,note\n1,2025-05-01T00:00:00Z,a\n")
    source, data = replace(SOURCE, path=path), tmp_path / "data"
    if found is None:
        with pytest.raises(DataError, match="does not find"):
            replay(file, "visits", source, str(data))
        assert not data.exists()
    else:
        assert replay(file, "visits", source, str(data)).startswith(found)
        assert taken(tmp_path, source).counts["visits"].accepted == 1


@pytest.mark.parametrize("name", ["visits_1.csv.gz", "VISITS_1.CSV.GZ", "visits_1.csv.GZ", "VISITS_1.CSV"])
@pytest.mark.parametrize("path", ["*.csv*", "*", "*_1*"])
def test_records_of_compressed_files_leave_plain_and_come_back_under_a_name_that_is_read(
    tmp_path: Path, name: str, path: str
) -> None:
    exact = path if path == "*_1*" else name.lower().replace("visits_1", "*")
    (tmp_path / "data").mkdir()
    content = "\n".join(["id,at,note", "1,2025-05-01T00:00:00Z,a", "x,2025-05-01T00:00:00Z,b"]).encode()
    (tmp_path / "data" / name).write_bytes(gzip.compress(content) if name.lower().endswith(".gz") else content)
    for source in (replace(SOURCE, path=path), replace(SOURCE, path=exact)):
        snapshot, artifacts = taken(tmp_path, source), Artifacts(f"{tmp_path}/state/artifacts")
        (file,) = export(artifacts, snapshot, "visits", source, f"{tmp_path}/data", tmp_path / "out")
        assert file.name.lower() == "visits_1.csv"
        file.write_text(file.read_text().replace("x,", "2,"))
        replay(file, "visits", source, f"{tmp_path}/data")
        assert taken(tmp_path, source).tables(artifacts)["visits"]["id"].sort().to_list() == [1, 2]


def test_a_mended_file_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "visits.csv.bak").write_text("id,at,note\n1,2025-05-01T00:00:00Z,a\n")
    with pytest.raises(DataError, match="Known endings"):
        replay(tmp_path / "visits.csv.bak", "visits", replace(SOURCE, path="*"), str(tmp_path / "data"))


def test_keys_of_mended_records_are_judged(tmp_path: Path) -> None:
    file, source = (
        tmp_path / "visits_1.csv",
        replace(SOURCE, columns=(Column("id", "integer", nullable=True), *SOURCE.columns[1:])),
    )
    rows = [
        "1,2025-05-01T00:00:00Z,a",
        "1,2025-05-02T00:00:00Z,b",
        ",2025-05-02T00:00:00Z,b",
        "2,2025-05-02T00:00:00Z,b",
    ]
    file.write_text("\n".join(["id,at,note", *rows]))
    refused = r"3 of .*line 2 \(conflicting_key\); line 3 \(conflicting_key\); line 4 \(id:missing_key\)\."
    with pytest.raises(DataError, match=refused):
        replay(file, "visits", source, str(tmp_path / "data"))


def test_the_header_of_a_raw_file_that_was_emptied_is_missed_in_words(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/visits_1.csv").write_text("id,at,note\n1,yesterday,a\n2,2025-05-01T00:00:00Z,a\n")
    snapshot, artifacts = taken(tmp_path, SOURCE), Artifacts(f"{tmp_path}/state/artifacts")
    (tmp_path / "data/visits_1.csv").write_text("")
    with pytest.raises(DataError, match="it has no header line"):
        export(artifacts, snapshot, "visits", SOURCE, f"{tmp_path}/data", tmp_path / "out")


def test_the_commands_show_what_was_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops_ray.cli.quarantine.load_use_case", lambda name: case(replace(SOURCE, delimiter=";")))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/visits_1.csv").write_text("\n".join([*GOOD, BAD[0], "\x1b[2J;9;x;never"]))
    where = ["--state", str(tmp_path / "state")]
    said = CliRunner().invoke(app, ["quarantine", "show", "visits", *where])
    assert "Nothing of visits was ingested" in str(said.exception)
    taken(tmp_path, replace(SOURCE, delimiter=";"))
    said = CliRunner().invoke(app, ["quarantine", "show", "visits", *where])
    assert said.output.splitlines() == [
        "warning: visits: 2 of 4 rows quarantined (at:not_timestamp 1, id:not_integer 1), 50.0% (limit 1%). See "
        "`mlops-ray quarantine show`; repair the files, or relax the contract.",
        "  visits_1.csv:4  id:not_integer  c;three;x;2025-05-01T00:00:00Z",
        "  visits_1.csv:5  at:not_timestamp  \\x1b[2J;9;x;never",
    ]
    said = CliRunner().invoke(app, ["quarantine", "show", "visits", "--reason", "id:", "--source", "visits", *where])
    assert len(said.output.splitlines()) == 2
    out = ["--to", str(tmp_path / "out"), "--data", str(tmp_path / "data")]
    said = CliRunner().invoke(app, ["quarantine", "export", "visits", *out, *where])
    assert said.output == f"{tmp_path}/out/visits/visits_1.csv\n"
    assert last_snapshot(Artifacts(f"{tmp_path}/state/artifacts"), "visits").counts["visits"].quarantined == 2
