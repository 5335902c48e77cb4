"""SIGKILL after every step and in the middle of the search: a rerun continues, and nothing is there twice."""

import sqlite3
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.pipeline_run import ROOT, SMALL, SMALL_AS_OF, kill_group, pipeline_command, run, summary, write_small_data

STEPS = ("ingest", "features", "training_set", "train", "evaluate", "register", "materialize")
MOMENTS = [*(f"] {step} …" for step in STEPS), "trial 1/4", "trial 3/4"]


def killed_when(folder: Path, text: str) -> None:
    """Start the pipeline and kill it, with all it started, as soon as its output has `text`."""
    process = subprocess.Popen(
        pipeline_command(SMALL, folder, SMALL_AS_OF),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    output = []
    for line in process.stdout:
        output.append(line)
        if text in line:
            break
    else:
        raise AssertionError(f"{text!r} was never printed:\n{''.join(output)}")
    kill_group(process)


def digests(folder: Path) -> dict[str, list[str]]:
    artifacts = folder / "state" / "artifacts"
    return {
        "snapshots": sorted(file.parent.name for file in artifacts.glob("snapshots/*/*/manifest.json")),
        "training_sets": sorted(file.name for file in artifacts.glob("training_sets/*/*.parquet")),
    }


def runs(folder: Path) -> Counter[str]:
    with sqlite3.connect(folder / "state" / "mlflow.db") as database:
        parents = database.execute("select count(*) from tags where key = 'mlflow.parentRunId'").fetchone()[0]
        statuses = database.execute("select status, count(*) from runs group by status").fetchall()
        versions = database.execute("select count(*) from model_versions").fetchone()[0]
    return Counter(dict(statuses) | {"children": parents, "versions": versions})


@pytest.mark.timeout(1800)
def test_a_pipeline_killed_at_every_step_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for folder in (undisturbed, killed):
        write_small_data(folder / "data")
    done = run(pipeline_command(SMALL, undisturbed, SMALL_AS_OF), timeout_s=400)
    assert done.returncode == 0, done.stderr
    for text in MOMENTS[:4] + MOMENTS[7:] + MOMENTS[4:7]:
        killed_when(killed, text)
    done = run(pipeline_command(SMALL, killed, SMALL_AS_OF), timeout_s=400)
    assert done.returncode == 0, done.stderr

    assert digests(killed) == digests(undisturbed)
    assert runs(killed) == runs(undisturbed)
    for name in ("rows_in", "rows_accepted", "rows_quarantined", "training_rows", "trials"):
        assert summary(killed)[name] == summary(undisturbed)[name]
