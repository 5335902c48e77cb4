"""The options of `mlops-ray run` that need no Ray."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from mlops_ray.artifacts import Artifacts
from mlops_ray.cli.early_start import EarlyStart
from mlops_ray.cli.main import app
from mlops_ray.cli.run import _conclude
from mlops_ray.config import load_settings
from mlops_ray.errors import ConfigurationError, MlopsRayError
from mlops_ray.ingestion import file_digests
from mlops_ray.pipeline.steps.step import StepFinished, StepName
from mlops_ray.use_case import load_use_case
from tests.lesser_environment import environment_with

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


def test_a_version_that_waits_is_not_served_and_the_command_says_so_after_its_figures(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, case = load_settings(state=str(tmp_path / "state"), data=str(tmp_path)), load_use_case(options[0])
    registered = {
        "version": 1, "digest": "d" * 64, "gates": [], "champion": None, "standing": "version 1 waits for its approval",
        "doubts": [], "approval": {"state": "requested", "author": "ann"},
    }  # fmt: skip
    results: dict[StepName, Any] = {
        "ingest": {"digest": "s" * 64, "counts": {}},
        "features": {},
        "training_set": {"rows": 9},
        "train": {"trials": [], "metric": "roc_auc"},
        "evaluate": {"evaluation": {"roc_auc": {"value": 0.7}}, "candidate": "logistic_regression"},
        "register": registered,
        "materialize": {"as_of": "2026-01-01T00:00:00+00:00"},
    }
    done = {step: StepFinished(step, 1.0, False, result) for step, result in results.items()}
    with pytest.raises(
        ConfigurationError, match=r"Nothing is served, as orders has no champion yet; see above for what"
    ):
        _conclude(case, settings, Console(), done, EarlyStart(settings, serving=True))
    said = capsys.readouterr().out
    assert "version 1 waits for its approval" in said
    assert "requested: somebody other than ann has to approve it" in said
    assert "Endpoint:" not in said
    _conclude(case, settings, Console(), done, None)
    assert "Endpoint:" not in capsys.readouterr().out


def test_what_lies_below_the_root_is_told_by_its_url(tmp_path: Path) -> None:
    artifacts = Artifacts(str(tmp_path))
    artifacts.write_bytes(b"x", "rows", "one.parquet")
    assert artifacts.holds(artifacts.url("rows", "one.parquet"))
    assert not artifacts.holds(artifacts.url("rows", "two.parquet"))
    assert not artifacts.holds("/elsewhere/rows/one.parquet")


@pytest.mark.parametrize(
    ("installed", "candidate", "said"),
    [
        ("serve", "LogisticRegression", "The pipeline needs the extra train, and of it duckdb, mlflow, optuna and"),
        ("train", "LightGBM", "The candidate lightgbm needs the extra lightgbm, and of it lightgbm is not"),
        ("train", "NeuralNetwork", "The candidate neural_network needs the extra torch, and of it onnxscript, torch"),
    ],
)
def test_an_extra_that_is_not_installed_is_named_before_any_work(
    installed: str, candidate: str, said: str, options: list[str], tmp_path: Path
) -> None:
    (tmp_path / "orders.py").write_text(CASE.replace("LogisticRegression", candidate))
    python = environment_with(tmp_path / "less", installed)
    arguments = [str(python), "-c", "from mlops_ray.cli.entry import main; main()", "run", *options]
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=variables)
    assert done.returncode == 1
    assert said in done.stderr
    extra = "train" if installed == "serve" else said.partition("extra ")[2].partition(",")[0]
    assert f"pip install 'mlops_ray[{extra}]'" in done.stderr
    assert not done.stdout
    assert not (tmp_path / "state").exists()
    in_python = f"import mlops_ray; mlops_ray.run({options[0]!r}, state='state', data='data')"
    done = subprocess.run([str(python), "-c", in_python], capture_output=True, text=True, cwd=tmp_path, env=variables)
    assert said in done.stderr.splitlines()[-1]
    assert not (tmp_path / "state").exists()
