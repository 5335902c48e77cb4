"""`mlops-ray init --update`: what a newer release writes comes in, and nothing that somebody has changed is lost."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.errors import ConfigurationError, MlopsRayError
from mlops_ray.scaffold import record, update
from mlops_ray.scaffold.record import RECORD, Record, read_record
from mlops_ray.scaffold.rendering import render
from mlops_ray.scaffold.update import Outcome, update_project
from mlops_ray.use_case import load_use_case
from tests.unit.test_scaffold import write_customers

GITIGNORE = ".gitignore"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    init("churn")
    return tmp_path / "churn"


def init(*arguments: str, exit_code: int = 0) -> str:
    found = CliRunner().invoke(app, ["init", *arguments])
    if isinstance(found.exception, MlopsRayError):
        raise found.exception
    assert found.exit_code == exit_code, found.output
    return found.output


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A newer release, whose files are these instead; None: it does not write it."""

    def become(version: str = "9.0.0", **files: str | None) -> None:
        given = {name.replace("__", "/"): text for name, text in files.items()}

        def rendered(answers: Any) -> dict[str, str]:
            found: dict[str, str | None] = {**render(answers), **given}
            return {name: text for name, text in found.items() if text is not None}

        monkeypatch.setattr(record, "render", rendered)
        monkeypatch.setattr(record, "version", lambda name: version)

    return become


def outcomes(project: Path) -> dict[str, Outcome]:
    return {one.file: one.outcome for one in update_project(project)[2]}


def test_a_file_that_nobody_has_changed_is_as_the_release_has_it(project: Path, release: Any) -> None:
    assert outcomes(project) == {}
    release(**{GITIGNORE: "state/\ndata/\nreport.md\n", "docs__why.md": "why\n"})
    (project / GITIGNORE).chmod(0o600)
    assert outcomes(project) == {GITIGNORE: "changed", "docs/why.md": "new"}
    assert (project / GITIGNORE).read_text() == "state/\ndata/\nreport.md\n"
    assert (project / GITIGNORE).stat().st_mode & 0o777 == 0o600
    assert read_record(project).release == "9.0.0"
    assert outcomes(project) == {}


def test_a_project_from_data_that_nobody_has_touched_stays_as_it_is() -> None:
    write_customers(Path("customers.csv"))
    init("sales", "--data", "customers.csv", "--label", "churned", "--time", "signed up")
    assert init("--update", "--folder", "sales").endswith("no files concerned.\n")


def test_changes_of_both_sides_are_there_where_they_do_not_meet(project: Path, release: Any) -> None:
    file = project / GITIGNORE
    was = file.read_text()
    file.write_bytes(("mine/\n" + was).replace("\n", "\r\n").encode())
    release(**{GITIGNORE: was + "report.md\n"})
    assert outcomes(project) == {GITIGNORE: "merged"}
    assert file.read_bytes() == f"mine/\n{was}report.md\n".replace("\n", "\r\n").encode()


def test_where_both_have_changed_a_line_both_are_left_between_marks(project: Path, release: Any) -> None:
    (project / GITIGNORE).write_text("mine/\n")
    release(**{GITIGNORE: "theirs/\n"})
    os.chdir(project)
    said = init("--update", exit_code=3)
    assert "conflict  .gitignore" in said
    made = (project / GITIGNORE).read_text()
    assert made.startswith("<<<<<<< yours\nmine/\n")
    assert "=======\ntheirs/\n>>>>>>> mlops_ray\n" in made
    release("9.1.0", **{GITIGNORE: "theirs too/\n"})
    with pytest.raises(ConfigurationError, match="still has the conflicts of an update before"):
        update_project(project)
    (project / GITIGNORE).write_text("mine/\ntheirs too/\n")
    release("9.1.0", **{GITIGNORE: "theirs/\nand this/\n"})
    (project / GITIGNORE).write_text("mine/\ntheirs/\n")
    assert outcomes(project) == {GITIGNORE: "merged"}
    assert (project / GITIGNORE).read_text() == "mine/\ntheirs/\nand this/\n"


def test_what_is_deleted_yours_or_elsewhere_stays_so(project: Path, release: Any, tmp_path: Path) -> None:
    (project / GITIGNORE).unlink()
    (project / "mine.md").write_text("mine")
    (tmp_path / "outside").write_text("theirs")
    (project / "settings.yaml").unlink()
    (project / "settings.yaml").symlink_to(tmp_path / "outside")
    (tmp_path / "elsewhere").mkdir()
    (project / "linked").symlink_to(tmp_path / "elsewhere")
    release(**{GITIGNORE: "x\n", "mine.md": "x\n", "settings.yaml": "x\n", "linked__new.md": "x\n", "README.md": None})
    assert set(outcomes(project).values()) == {"left"}
    assert not (project / GITIGNORE).exists()
    assert (project / "mine.md").read_text() == "mine"
    assert (tmp_path / "outside").read_text() == "theirs"
    assert not list((tmp_path / "elsewhere").iterdir())
    assert (project / "README.md").exists()


def test_who_is_killed_is_done_again(project: Path, release: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    was = (project / GITIGNORE).read_text()
    (project / GITIGNORE).write_text("mine/\n" + was)
    release(**{GITIGNORE: was + "new/\n", "zzz.md": "new\n"})
    written = update._write

    def die_at(file: Path, content: bytes) -> None:
        if file.name == "zzz.md":
            raise Killed
        written(file, content)

    monkeypatch.setattr(update, "_write", die_at)
    with pytest.raises(Killed):
        update_project(project)
    monkeypatch.setattr(update, "_write", written)
    assert outcomes(project) == {GITIGNORE: "merged", "zzz.md": "new"}
    assert (project / GITIGNORE).read_text() == f"mine/\n{was}new/\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is not there"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"release": "0.1.0", "answers": {"template": "x"}, "files": {}}', "is not what `mlops-ray init` wrote"),
        ('{"release": "99.0", "answers": ANSWERS, "files": {}}', "was written by mlops_ray 99.0"),
        ('{"release": "new", "answers": ANSWERS, "files": {}}', "is not what"),
    ],
)
def test_a_record_that_is_none_is_a_sentence(project: Path, content: str | None, said: str) -> None:
    answers = json.dumps(read_record(project).answers)
    (project / RECORD).unlink()
    if content is not None:
        (project / RECORD).write_text(content.replace("ANSWERS", answers))
    with pytest.raises(ConfigurationError, match=said):
        update_project(project)


def test_no_name_in_a_record_leads_out_of_the_project(project: Path, release: Any, tmp_path: Path) -> None:
    kept = json.loads((project / RECORD).read_text())
    kept["answers"]["draft"]["name"] = "../../out"
    (project / RECORD).write_text(json.dumps(kept | {"files": {}}))
    release()
    with pytest.raises(ConfigurationError, match="is not what `mlops-ray init` wrote"):
        update_project(project)
    assert [one.name for one in tmp_path.iterdir()] == ["churn"]  # where ../../out.py of use_cases/ would be


def test_update_takes_no_answers(project: Path) -> None:
    with pytest.raises(ConfigurationError, match="leave NAME, --owner out"):
        init("churn", "--update", "--owner", "me")
    with pytest.raises(ConfigurationError, match="is not there"):
        init("--update")


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_without_data_a_use_case_says_what_to_fill_in_and_can_be_declared(task: str) -> None:
    said = init("empty", "--task", task, "--label", "it's", "--time", "when")
    assert 'grep -n "FILL IN"' in said
    case = load_use_case("empty/use_cases/empty.py")
    assert (case.label.name, case.event_time) == ("it's", "when")
    text = Path("empty/use_cases/empty.py").read_text()
    assert text.count("FILL IN") >= 9
    os.chdir("empty")
    done = CliRunner().invoke(app, ["check"])
    assert "owner" in done.output
    assert Record.of(read_record(Path()).answers) == read_record(Path())


def test_without_a_name_or_with_half_of_it_nothing_is_written(tmp_path: Path) -> None:
    for arguments, said in (
        ((), "Name the use case"),
        (("new", "--positive", "yes"), "Give --data"),
        (("churn",), "not empty"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            init(*arguments)
    assert [file.name for file in tmp_path.iterdir()] == ["churn"]
