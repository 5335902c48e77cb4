"""The options of `mlops-ray run` that need no Ray."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlops_ray.artifacts import Artifacts
from mlops_ray.cli.main import app
from mlops_ray.errors import ConfigurationError, MlopsRayError
from mlops_ray.ingestion import file_digests

CASE = """
import polars as pl
from mlops_ray.training.candidates import LogisticRegression
from mlops_ray.use_case import Column, Label, Source, UseCase

use_case = UseCase(
    name="orders",
    sources={
        "orders": Source("orders.csv", (Column("id", "text"), Column("at", "timestamp"), Column("late", "boolean")))
    },
    entities=("id",),
    event_time="at",
    label=Label("late", pl.col("late"), pl.col("at")),
    candidates=(LogisticRegression(),),
)
"""


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "orders.csv").write_text("id,at,late\n1,2026-01-01T00:00:00Z,true\n")
    (tmp_path / "orders.py").write_text(CASE)
    return [str(tmp_path / "orders.py"), "--state", str(tmp_path / "state"), "--data", str(tmp_path / "data")]


def told(arguments: list[str]) -> str:
    result = CliRunner().invoke(app, ["run", *arguments])
    if isinstance(result.exception, MlopsRayError):
        raise result.exception
    return result.output


def test_explain_runs_and_writes_nothing(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_digests, "_GRANULARITY_S", -1.0)  # else files of this moment are not remembered anyway
    lines = told([*options, "--explain"]).splitlines()
    assert lines[0].split() == ["ingest", "runs:", "it", "has", "not", "run", "yet"]
    assert len(lines) == 7
    assert not (tmp_path / "state").exists()


def test_explain_names_the_steps_that_are_asked_for(options: list[str]) -> None:
    assert "ingest        runs: asked for (--force ingest)" in told([*options, "--explain", "--force", "ingest"])


def test_an_unknown_step_is_named_with_those_that_there_are(options: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"--force 'trian' is no step. There are ingest, features"):
        told([*options, "--explain", "--force", "trian"])


def test_what_lies_below_the_root_is_told_by_its_url(tmp_path: Path) -> None:
    artifacts = Artifacts(str(tmp_path))
    artifacts.write_bytes(b"x", "rows", "one.parquet")
    assert artifacts.holds(artifacts.url("rows", "one.parquet"))
    assert not artifacts.holds(artifacts.url("rows", "two.parquet"))
    assert not artifacts.holds("/elsewhere/rows/one.parquet")
