"""An ingest that is killed again and again: the next one goes on, none of its rows is missing and none there twice."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from mlops_ray import Column, Label, Source, UseCase
from mlops_ray.artifacts import Artifacts
from mlops_ray.config import load_settings
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.ingestion.snapshot import Snapshot
from mlops_ray.training.candidates.logistic_regression import LogisticRegression

ROOT = Path(__file__).parents[2]
FILES, ROWS_OF_A_FILE = 12, 20_000
CASE = UseCase(
    name="visits",
    sources={
        "visits": Source(
            path="*.csv",
            columns=(Column("id", "integer"), Column("at", "timestamp"), Column("note", "text")),
            key=("id",),
            known_at=pl.col("at"),
        )
    },
    entities=("id",),
    event_time="at",
    label=Label("long", value=pl.col("note").str.len_chars() > 5, known_at=pl.col("at")),
    candidates=(LogisticRegression(),),
)


def run(folder: Path, state: str) -> Snapshot:
    settings = load_settings(state=str(folder / state), data=str(folder / "data"))
    return ingest(CASE, settings, datetime(2030, 1, 1, tzinfo=UTC), "code", {"visits": "contract"})


def write_files(folder: Path) -> None:
    """Every 100th row stands in the next file too, and every 97th has no id."""
    folder.mkdir()
    for file in range(FILES):
        first = file * ROWS_OF_A_FILE
        numbers = [*range(first, first + ROWS_OF_A_FILE), *range(max(0, first - ROWS_OF_A_FILE), first, 100)]
        lines = [f"{'' if n % 97 == 0 else n},2025-01-01T00:00:00Z,note {n}" for n in numbers]
        (folder / f"{file:02}.csv").write_text("\n".join(["id,at,note", *lines]) + "\n")


@pytest.mark.timeout(240)
def test_killed_five_times_nothing_is_missing_and_nothing_there_twice(tmp_path: Path) -> None:
    write_files(tmp_path / "data")
    place = f"Path({str(tmp_path)!r})"
    code = f"from tests.integration.test_ingest_killed import Path, run; run({place}, 'killed')"
    for kept in (1, 4, 7, 10, FILES):
        child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        while len(list(tmp_path.glob("killed/artifacts/judged/*/manifest.json"))) < kept:
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert not list(tmp_path.glob("killed/artifacts/last_ingest/*")), "no snapshot of a part of the files"
    found, undisturbed = run(tmp_path, "killed"), run(tmp_path, "whole")
    assert found == undisturbed
    counts = found.counts["visits"]
    assert counts.rows_in == counts.accepted + counts.repaired + counts.quarantined + counts.not_yet_known
    rows = found.tables(Artifacts(str(tmp_path / "killed" / "artifacts")))["visits"]
    expected = [number for number in range(FILES * ROWS_OF_A_FILE) if number % 97]
    assert rows["id"].sort().to_list() == expected
