"""The report on a change: what stands in the way stands in it, hostile texts do nothing, and CI's files can be run."""

import re
import shlex
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.errors import ConfigurationError
from mlops_ray.evaluation.comparison import Comparison
from mlops_ray.review.markdown import markdown, text
from mlops_ray.review.report import Beside, MetricRow, Report, UseCaseReport
from mlops_ray.review.runs import Ran, checked_out
from mlops_ray.standards.check import Checked, Finding
from mlops_ray.tasks.estimate import Estimate
from tests.unit.test_scaffold import drafted

HOSTILE = "| <script>alert(1)</script> @everyone #1 !2 [x](http://evil) `a` ~b $c %d https://evil www.evil\n## done"
BETTER = Comparison("roc_auc", 0.75, 0.7, Estimate(0.05, 0.02, 0.08), 900, 30)
OURS, THEIRS = ({"value": value, "low": low, "high": 0.8} for value, low in ((0.75, 0.7), (0.7, 0.6)))
ROW = MetricRow("roc_auc", OURS, THEIRS, BETTER, "better")
SLICES = tuple(("plan", f"p{n}", {"value": 0.5 + n / 100}, {"value": 0.5}) for n in range(30))
BESIDE = Beside(2, 1, False, "roc_auc", (ROW,), SLICES, ("rows: spend has moved by 31 %",), "")
SUMMARY: dict[str, Any] = {
    "gates": [{"passed": True, "blocks": True, "sentence": "The export is the model."}], "doubts": [HOSTILE],
    "steps_s": {"ingest": 1.0, "train": 9.0, "serve": 3.0}, "reused": ["ingest"], "trials": 6,
}  # fmt: skip
FAILED = {"gates": [{"passed": False, "blocks": True, "sentence": "x"}]}
FOUND = UseCaseReport("churn", Ran(True, ()), SUMMARY, BESIDE, {"steps_s": {"train": 6.0}})
CHECKED = Checked({"churn": "pilot"}, (), (Finding("churn", "purpose", "warning", HOSTILE),))
REPORT = Report(CHECKED, Ran(True, ("3 passed in 0.1s",)), (FOUND,), "")


def tables(made: str) -> list[list[list[str]]]:
    """The cells of each table, as a reader of Markdown finds them."""
    blocks = re.findall(r"(?:^\|.*\|$\n?)+", made, re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in one.splitlines()] for one in blocks]


def test_a_reviewer_reads_metrics_slices_drift_cost_and_gates() -> None:
    made = markdown(REPORT)
    assert "## Nothing stands in the way" in made
    heads = {tuple(table[0]): table for table in tables(made)}
    for table in heads.values():
        assert {len(row) for row in table} == {len(table[0])}, table
    metrics = heads["metric", "this", "live", "better by (on the same rows)", ""]
    assert metrics[2] == ["roc_auc", "0.7500 (0.7000 to 0.8000)", "0.7000 (0.6000 to 0.8000)",
                          "+0.0500 (+0.0200 to +0.0800)", "better"]  # fmt: skip
    slices = heads["slice", "this", "live"]
    assert (len(slices), slices[2]) == (22, ["plan = p29", "0.7900", "0.5000"])
    assert "10 more, which moved less." in made
    assert "spend has moved by 31 %" in made
    assert heads["step", "seconds", "before"][-1] == ["all", "10.0", "6.0"]
    assert "Reused: ingest." in made


def test_texts_of_people_and_data_are_shown_and_do_nothing() -> None:
    made = markdown(replace(REPORT, not_run=HOSTILE))
    for active in ("<script", "[x]", "`a`"):
        assert active not in made
    for called in ("@everyone", "#1", "!2", "~b", "$c", "%d", "http://", "https://", "www.evil"):
        assert called not in unescape(made)
    assert "\n## done" not in made
    assert text("roc_auc at 95 %") == "roc_auc at 95 %"


@pytest.mark.parametrize(
    "changed",
    [
        {"checked": replace(CHECKED, findings=(Finding("", "no_secrets", "error", "a key lies in x.py"),))},
        {"tests": Ran(False, ("1 failed",))},
        {"use_cases": (replace(FOUND, ran=Ran(False, ("error: Column x",)), summary={}, beside=None),)},
        {"use_cases": (replace(FOUND, summary=SUMMARY | FAILED),)},
    ],
)
def test_what_stands_in_the_way_is_said_first(changed: dict[str, Any]) -> None:
    found = replace(REPORT, **changed)
    assert not found.ok
    assert "## Something stands in the way" in markdown(found)


def test_a_long_report_is_cut_where_a_comment_ends() -> None:
    many = tuple(Finding("churn", "purpose", "warning", f"{number} {'x' * 200}") for number in range(1_000))
    made = markdown(replace(REPORT, checked=replace(CHECKED, findings=many)))
    assert len(made) < 65_000
    assert made.endswith("The report is longer; the job has all of it.\n")


def test_without_a_version_before_or_data_it_says_so() -> None:
    alone = replace(BESIDE, live=None)
    assert "no other to compare it with" in markdown(replace(REPORT, use_cases=(replace(FOUND, beside=alone),)))
    same = replace(alone, same=True)
    assert "the same model as the live one" in markdown(replace(REPORT, use_cases=(replace(FOUND, beside=same),)))
    assert "No pipeline was run: no data" in markdown(replace(REPORT, use_cases=(), not_run="no data"))


@pytest.mark.parametrize("base", ["--upload-pack=x", "nowhere", "-"])
def test_a_base_that_is_none_is_a_sentence(tmp_path: Path, base: str) -> None:
    with pytest.raises(ConfigurationError, match="--base"), checked_out(tmp_path, base):
        pass


def test_without_data_the_project_is_checked_and_tested_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    drafted()
    monkeypatch.chdir(tmp_path / "churn")
    (tmp_path / "churn/tests/test_bad.py").write_text("def test_bad() -> None:\n    assert 1 == 2\n")
    done = CliRunner().invoke(app, ["ci", "report", "--data", str(tmp_path / "none"), "--output", "report.md"])
    assert done.exit_code == 3, done.output
    made = Path("report.md").read_text()
    assert "There is no data" in made or "there is no data" in made
    assert "1 failed" in made


def steps(file: Path) -> list[str]:
    """All that CI's file lets a shell do."""
    found = yaml.safe_load(file.read_text())
    if "jobs" in found:
        return [step["run"] for job in found["jobs"].values() for step in job["steps"] if "run" in step]
    jobs = [job for job in found.values() if isinstance(job, dict)]
    return [line for job in jobs for part in ("before_script", "script", "after_script") for line in job.get(part, ())]


@pytest.mark.parametrize("file", [".github/workflows/checks.yml", ".gitlab-ci.yml"])
def test_every_command_of_the_files_is_one_of_ours(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    drafted()
    lines = [line for step in steps(tmp_path / "churn" / file) for line in step.splitlines()]
    called = [found for line in lines for found in re.findall(r"mlops-ray ([^|)]*)", line)]
    assert {one.split()[0] for one in called} == {"ci", "run", "versions"}
    for one in called:
        arguments = shlex.split(re.sub(r"\$\{[^}]*\}", "", one))
        command, context = typer.main.get_command(app), click.Context(click.Command("mlops-ray"))
        while isinstance(command, click.Group):
            command = command.commands[arguments.pop(0)]
        command.make_context(command.name, arguments, parent=context)
    for line in lines:
        if "${{" in line:  # whoever opens a pull request writes its names: none of them reaches a shell as code
            raise AssertionError(line)
