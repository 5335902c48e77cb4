"""What CI does with a project, step by step as its file says, on a change to a use case."""

import os
import re
import subprocess
from pathlib import Path

import yaml

from tests.e2e.test_init import told
from tests.pipeline_run import command
from tests.unit.test_scaffold import write_customers


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_pull_request_is_answered_with_both_versions_side_by_side(tmp_path: Path) -> None:
    write_customers(tmp_path / "customers.csv", rows=3_000)
    told(tmp_path, "init", "churn", "--data", "customers.csv", "--label", "churned", "--time", "signed up")
    project = tmp_path / "churn"
    for step in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        git(project, *step)
    file = project / "use_cases/churn.py"
    changed, times = re.subn(
        r'\n        "spend": .*', "", file.read_text().replace("per_candidate=3", "per_candidate=1")
    )
    assert times == 1
    file.write_text(changed)
    jobs = yaml.safe_load((project / ".github/workflows/checks.yml").read_text())["jobs"]
    gh = tmp_path / "gh"
    gh.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    gh.chmod(0o755)
    given = {name: value for name, value in os.environ.items() if not name.startswith("MLOPS_RAY_")}
    given |= {
        "BASE": "HEAD",
        "NUMBER": "7",
        "MLOPS_RAY_DATA": str(tmp_path),
        "GITHUB_STEP_SUMMARY": f"{tmp_path}/summary",
    }
    given["PATH"] = os.pathsep.join([str(tmp_path), str(Path(command()[0]).parent), given["PATH"]])
    before = sorted(project.glob("state/**/*"))
    for step in jobs["checks"]["steps"]:
        if "run" in step and step["name"] != "install":
            shell = ["bash", "-e", "-c", step["run"]]
            done = subprocess.run(
                shell, cwd=project, env=given, capture_output=True, text=True, check=False, timeout=280
            )
            assert done.returncode == 0, done.stdout + done.stderr
    made = (tmp_path / "summary").read_text()
    assert "It makes version 2, beside version 1, which is live." in made
    assert "| metric | this | live | better by (on the same rows) |" in made
    (row,) = (line for line in made.splitlines() if line.startswith("| roc_auc |"))
    assert re.search(r"\| [+-]0\.\d+ \([+-]0\.\d+ to [+-]0\.\d+\) \|", row), row
    assert "The data is the same" in made
    assert "pr comment 7 --edit-last --create-if-none --body-file report.md" in (tmp_path / "asked").read_text()
    assert sorted(project.glob("state/**/*")) == before
    done = subprocess.run(["git", "worktree", "list"], cwd=project, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1
