"""Ingest on Ray: what comes of files does not depend on how the work is divided, and refusals are told."""

import gzip
import logging
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import ray

from mlops_ray import Column, Label, Source, UseCase
from mlops_ray.artifacts import Artifacts
from mlops_ray.config import load_settings
from mlops_ray.errors import DataError
from mlops_ray.ingestion import ingest as ingestion
from mlops_ray.ingestion import shared_tables
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.ingestion.snapshot import Snapshot, load_snapshot
from mlops_ray.ingestion.sources import find_all_files
from mlops_ray.training.candidates.logistic_regression import LogisticRegression
from mlops_ray.use_case import LastKnown

AS_OF = datetime(2025, 6, 1, tzinfo=UTC)
CONTRACTS = {"visits": "contract"}
CASE = UseCase(
    name="visits",
    sources={
        "visits": Source(
            path="**/visits*",
            columns=(
                Column("id", "integer"),
                Column("at", "timestamp"),
                Column("note", "text", nullable=True),
                Column("paid", "boolean"),
                Column("ward", "text", nullable=True),
                Column("grade", "integer", nullable=True, outcome=True),
            ),
            key=("id",),
            keep="last",
            keep_by="at",
            known_at=pl.col("at"),
            last_known=(LastKnown("grade", by=("ward",), within=timedelta(hours=20)),),
        )
    },
    entities=("id",),
    event_time="at",
    label=Label("paid", value=pl.col("paid"), known_at=pl.col("at")),
    candidates=(LogisticRegression(),),
)


@pytest.fixture(scope="module", autouse=True)
def own_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, object_store_memory=300_000_000, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def dirty_rows() -> list[str]:
    """400 good rows, 20 of them corrected later, and of each kind of bad one a few; in a random order. Of seven wards,
    with a grade in every third row."""
    start = datetime(2025, 1, 1, tzinfo=UTC)
    times = [(start + timedelta(hours=n)).isoformat() for n in range(401)]
    rows = [f'{n},{times[n]},"n\r\n{n}",t,w{n % 7},{"" if n % 3 else n}' for n in range(400)]
    rows += [f"{n},{times[n + 1]},corrected,f,w{n % 7}," for n in range(0, 400, 20)]
    rows += [f"{900 + n},2025-07-01T00:00:00Z,late,t,w0,1" for n in range(7)]
    rows += ["x,2025-01-01T00:00:00Z,no id,t,,", "1000,2025-01-01T00:00:00Z", '1001,2025-01-01T00:00:00Z,"a"b,t,,', ""]
    random.Random(3).shuffle(rows)
    return rows


def write(folder: Path, rows: list[str], parts: int, suffix: str = ".csv") -> None:
    folder.mkdir(parents=True)
    for part in range(parts):
        content = "\r\n".join(["id,at,note,paid,ward,grade", *rows[part::parts]]).encode()
        (folder / f"visits-{part}{suffix}").write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)


def ingested(folder: Path) -> tuple[Snapshot, Artifacts]:
    settings = load_settings(state=str(folder / "state"), data=str(folder / "data"))
    return ingest(CASE, settings, AS_OF, "test", CONTRACTS), Artifacts(settings.artifacts)


@pytest.mark.timeout(120)
def test_files_and_partitions_do_not_change_what_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = dirty_rows()
    write(tmp_path / "a/data", rows, 1)
    write(tmp_path / "Kurs (off)/data/[2024] #1 50%20?", random.Random(1).sample(rows, len(rows)), 3, ".csv.gz")
    with caplog.at_level(logging.WARNING):
        one, artifacts = ingested(tmp_path / "a")
    assert "visits: 23 of 430 rows quarantined (duplicate_key 20, malformed 2, id:not_integer 1), 5.3%" in caplog.text
    for limit in ("PARTITION_BYTES", "TASK_BYTES", "HERE_BYTES"):
        monkeypatch.setattr(ingestion, limit, 5_000)
    monkeypatch.setattr(shared_tables, "TABLE_BYTES", 5_000)
    monkeypatch.setattr(ingestion, "PARTITION_ROWS", 100)
    many, others = ingested(tmp_path / "Kurs (off)")
    assert many.digest == one.digest
    assert many.counts["visits"].reasons == {"duplicate_key": 20, "id:not_integer": 1, "malformed": 2}
    assert (many.counts["visits"].not_yet_known, one.counts["visits"].not_yet_known) == (7, 7)
    parts = list((tmp_path / "Kurs (off)/state/artifacts/snapshots").glob("**/accepted/*.parquet"))
    assert len(parts) == 3
    tables = [snapshot.tables(place)["visits"].sort("id") for snapshot, place in ((one, artifacts), (many, others))]
    assert tables[0].equals(tables[1])
    assert tables[0].filter(note="corrected").height == 20
    assert one.counts["visits"].repairs == many.counts["visits"].repairs
    assert one.counts["visits"].repairs["grade:last_known"] == one.repairs(artifacts, "visits").height > 200
    values = [snapshot.repairs(place, "visits").select("__new", "__since", "ward") for snapshot, place in (
        (one, artifacts), (many, others)
    )]  # fmt: skip
    assert values[0].sort(values[0].columns).equals(values[1].sort(values[1].columns))

    told = one.counts["visits"].lines
    lines = (tmp_path / "a/data/visits-0.csv").read_bytes().count(b"\n") + 1
    assert told.header + told.blank + told.accepted + told.quarantined + told.not_yet_known == lines
    refused = load_snapshot(artifacts, "visits", one.digest).quarantine(artifacts, "visits")
    content = (tmp_path / "a/data/visits-0.csv").read_bytes()
    assert all(raw in content for raw in refused["raw"])
    assert refused.height == 23


@pytest.mark.timeout(120)
def test_a_renamed_file_gives_the_same_snapshot_and_quarantine_tells_the_new_name(tmp_path: Path) -> None:
    write(tmp_path / "data", dirty_rows(), 1)
    before, artifacts = ingested(tmp_path)
    (tmp_path / "data/visits-0.csv").rename(tmp_path / "data/visits-new.csv")
    settings = load_settings(state=str(tmp_path / "state"), data=str(tmp_path / "data"))
    after = ingest(CASE, settings, AS_OF, "test", CONTRACTS, files=find_all_files(settings, CASE.sources))
    assert after.digest == before.digest
    found = load_snapshot(artifacts, "visits", after.digest)
    assert found == after
    assert set(found.quarantine(artifacts, "visits")["file"]) == {"visits-new.csv"}
    assert set(before.quarantine(artifacts, "visits")["file"]) == {"visits-0.csv"}


@pytest.mark.timeout(120)
def test_every_unusable_file_is_named_also_beside_good_ones(tmp_path: Path) -> None:
    write(tmp_path / "data", dirty_rows(), 2)
    (tmp_path / "data/visits-a.csv").write_text("id,at,note\n")
    (tmp_path / "data/visits-b.parquet").write_bytes(b"PAR1")
    (tmp_path / "data/visits-c.csv").write_bytes(b"")
    with pytest.raises(DataError) as error:
        ingested(tmp_path)
    assert "visits-a.csv: column paid, ward, grade is missing" in str(error.value)
    assert "visits-b.parquet cannot be read" in str(error.value)
    assert "visits-c.csv cannot be read" in str(error.value)
