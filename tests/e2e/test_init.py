"""What `mlops-ray init` promises: from a file that nobody has described to an answer over HTTP, in two commands."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.pipeline_run import command
from tests.unit.test_scaffold import write_customers

PORT = "18247"


def test_a_dirty_file_is_a_model_that_answers_after_two_commands(tmp_path: Path) -> None:
    write_customers(tmp_path / "customers.csv", rows=6_000)
    said = told(tmp_path, "init", "churn", "--data", "customers.csv", "--label", "churned", "--time", "signed up")
    assert "cd churn && mlops-ray run churn --serve --stay" in said
    told(tmp_path / "churn", "run", "churn", "--serve", "--port", PORT)
    summary = json.loads((tmp_path / "churn/state/summary.json").read_text())
    assert summary["rows_quarantined"] == 0
    assert 0 <= summary["prediction"]["answer"]["predictions"][0]["probability"] <= 1


# What comes after training watches yes-or-no labels alone so far.
@pytest.mark.parametrize(("label", "kind"), [("plan", "MultiClass"), ("spend", "Regression")])
def test_names_and_numbers_are_trained_after_two_commands(label: str, kind: str, tmp_path: Path) -> None:
    write_customers(tmp_path / "customers.csv", rows=6_000)
    told(tmp_path, "init", "other", "--data", "customers.csv", "--label", label, "--time", "signed up")
    assert f"task={kind}(" in (tmp_path / "other/use_cases/other.py").read_text()
    assert "6 trials; best on the validation period" in told(tmp_path / "other", "run", "other", "--until", "train")


def told(folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLOPS_RAY_")}
    done = subprocess.run(
        command(*arguments), cwd=folder, capture_output=True, text=True, timeout=280, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
