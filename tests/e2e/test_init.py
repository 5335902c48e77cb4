"""What `mlops-ray init` promises: from a file that nobody has described to an answer over HTTP, in two commands."""

import json
import os
import subprocess
from datetime import date, timedelta
from pathlib import Path

import numpy as np
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


@pytest.mark.parametrize(
    ("label", "kind", "answer"), [("price", "Regression", {"prediction"}), ("band", "MultiClass", {"probabilities"})]
)
def test_dirty_names_and_numbers_are_models_that_answer_after_two_commands(
    label: str, kind: str, answer: set[str], tmp_path: Path
) -> None:
    write_houses(tmp_path / "houses.csv")
    told(tmp_path, "init", "houses", "--data", "houses.csv", "--label", label, "--time", "sold")
    assert f"task={kind}(" in (tmp_path / "houses/use_cases/houses.py").read_text()
    told(tmp_path / "houses", "run", "houses", "--serve", "--port", PORT)
    summary = json.loads((tmp_path / "houses/state/summary.json").read_text())
    assert summary["rows_quarantined"] == 0
    assert answer <= set(summary["prediction"]["answer"]["predictions"][0])


def write_houses(file: Path) -> None:
    """Prices with words among them, and names in several spellings, one of them hardly ever; both go with the size."""
    random = np.random.default_rng(0)
    lines = ["house,sold,size,price,band"]
    for number in range(6_000):
        day, size = date(2024, 1, 1) + timedelta(days=int(random.integers(0, 400))), random.gamma(4, 25)
        price, luck = f"{2 * size + random.normal(0, 60):.1f}", size + random.normal(0, 60)
        price = {0: "unknown", 1: "-", 2: "inf", 3: "NaN", 4: ""}.get(number % 100, price)
        band = "cheap" if luck < 70 else "Fair" if number % 9 == 0 else "fair" if luck < 120 else "dear"
        lines.append(f"H{number},{day},{size:.0f},{price},{'faire' if number in (7, 4000) else band}")
    file.write_text("\n".join(lines) + "\n")


def told(folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLOPS_RAY_")}
    done = subprocess.run(
        command(*arguments), cwd=folder, capture_output=True, text=True, timeout=280, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(raylet)" not in done.stdout  # what Ray says to itself is no concern of a newcomer
    return done.stdout
