"""`mlops-ray check`: what an organisation asks of its use cases, at which level, and how it is switched."""

import json
import re
import subprocess
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner, Result

from mlops_ray.cli.main import app
from mlops_ray.errors import ConfigurationError, MlopsRayError, UseCaseError
from mlops_ray.standards.check import Finding, check
from mlops_ray.standards.rule import Project
from mlops_ray.standards.standards import read_standards
from mlops_ray.training.candidates import LogisticRegression
from mlops_ray.use_case import (
    Approval,
    BetterThanBaseline,
    Column,
    Label,
    Monitoring,
    NoSliceWorse,
    NoVulnerability,
    OnnxParity,
    Source,
    UseCase,
)

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "check.md"
ROWS = Source(
    "rows.csv",
    columns=(
        Column("id", "text"),
        Column("at", "timestamp"),
        Column("size", "number", minimum=0, maximum=9),
        Column("email", "text", personal="hash"),
        Column("y", "boolean", outcome=True),
    ),
)
# As all rules ask.
GOOD = UseCase(
    name="good",
    owner="sales@example.org",
    purpose="Says who will leave.",
    limits=("Not for prices.",),
    tier="low",
    review_every=timedelta(days=90),
    sources={"rows": ROWS},
    entities=("id",),
    event_time="at",
    label=Label("y", value=pl.col("y"), known_at=pl.col("at")),
    request_features={"size": pl.col("size")},
    candidates=(LogisticRegression(),),
    slices=("size",),
    gates=(OnnxParity(), BetterThanBaseline("log_loss"), NoSliceWorse("roc_auc", 0.5), NoVulnerability()),
    approval=Approval(signed=True),
    monitoring=Monitoring(labels_complete_after=timedelta(days=30)),
    keep_predictions=timedelta(days=365),
)


def without(gate: type) -> dict[str, Any]:
    return {"gates": tuple(one for one in GOOD.gates if not isinstance(one, gate))}


def source(*columns: Column) -> dict[str, Any]:
    return {"sources": {"rows": replace(ROWS, columns=(*ROWS.columns, *columns))}}


# What of a use case breaks a rule: by rule, one or several fields.
BROKEN: list[tuple[str, dict[str, Any]]] = [
    ("owner", {"owner": " "}),
    ("purpose", {"purpose": "churn"}),
    ("limits", {"limits": ()}),
    ("tier", {"tier": None}),
    ("review", {"review_every": None}),
    ("contract_ranges", source(Column("more", "integer", minimum=0))),
    ("personal_columns", source(Column("phone", "text"))),
    ("retention", {"keep_predictions": None}),
    ("gate_parity", without(OnnxParity)),
    ("gate_baseline", without(BetterThanBaseline)),
    ("gate_slice", without(NoSliceWorse)),
    ("gate_vulnerability", without(NoVulnerability)),
    (
        "gate_parity",
        {"gates": tuple(replace(gate, blocks=False) if gate == OnnxParity() else gate for gate in GOOD.gates)},
    ),
    ("approval", {"approval": Approval(signed=True, required=False)}),
    ("approval", {"approval": Approval(signed=True, four_eyes=False)}),
    ("signed_models", {"approval": Approval()}),
    ("monitoring_labels", {"monitoring": Monitoring()}),
]
RULES = read_standards(Path("/nowhere/standards.yaml")).rules


def project(folder: Path, **files: str) -> Project:
    """A project that is as all rules ask, but for the files that are given."""
    given = {"tests/test_good.py": "def test_good(): ...", "requirements.lock": "polars==1", **files}
    for name, text in given.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return Project(folder, tuple(folder / name for name in given))


def broken(found: Project, case: UseCase) -> set[str]:
    return {name for name, rule in RULES.items() if list(rule.broken(found, case))}


def test_what_is_as_it_should_be_breaks_no_rule(tmp_path: Path) -> None:
    assert broken(project(tmp_path), GOOD) == set()


@pytest.mark.parametrize(("rule", "changed"), BROKEN, ids=[rule for rule, _ in BROKEN])
def test_a_rule_finds_what_breaks_it_and_no_other_does(rule: str, changed: dict[str, Any], tmp_path: Path) -> None:
    assert broken(project(tmp_path), replace(GOOD, **changed)) == {rule}


def test_every_rule_about_a_use_case_has_been_broken_here() -> None:
    assert {rule for rule, _ in BROKEN} == {name for name, rule in RULES.items() if rule.of_case} - {"tests"}


def test_a_use_case_that_no_test_names_is_found(tmp_path: Path) -> None:
    other = project(tmp_path, **{"tests/test_good.py": "def test_goods_and_no_goodness(): ..."})
    assert broken(other, GOOD) == {"tests"}


def test_versions_that_no_file_pins_are_found(tmp_path: Path) -> None:
    bare = project(tmp_path)
    assert broken(replace(bare, files=bare.files[:1]), GOOD) == {"lock_file"}


# In parts, so that these lines are no secrets.
@pytest.mark.parametrize(
    "line",
    [
        "-----BEGIN " + "EC PRIVATE KEY-----",
        "key = AKIA" + "ABCDEFGHIJKLMNOP",
        "token: gh" + "p_" + "a1" * 18,
        "postgresql://me:" + "hunter2x@db/x",
        "redis://:" + "hunter2x@cache",
        'api_key = "' + 'q8w7e6r5t4"',
        '"db_password": "' + 'q8w7e6r5t4",',
    ],
)
def test_a_secret_is_found_where_it_stands_and_not_shown(line: str, tmp_path: Path) -> None:
    found = project(tmp_path, **{"settings.yaml": f"a: 1\n{line}\n"})
    (said,) = RULES["no_secrets"].broken(found, None)
    assert said.startswith("settings.yaml:2 ")
    assert not any(part in said for part in ("hunter2x", "q8w7e6r5t4", "AKIA"))


@pytest.mark.parametrize(
    "line",
    [
        'api_key = "env:API_KEY"',
        'password = "${PASSWORD}"',
        "postgresql://user:password@host/database",
        "postgresql://user:$PASSWORD@host/database",
        'secret = "/etc/secret/file"',
        "http://127.0.0.1:8000/v2",
        'api_key = "' + 'q8w7e6r5t4"  # pragma: allowlist secret',
        "password: str = field()",
    ],
)
def test_what_only_looks_like_a_secret_is_none(line: str, tmp_path: Path) -> None:
    assert broken(project(tmp_path, **{"settings.yaml": line}), GOOD) == set()


def severities(folder: Path, text: str) -> dict[str, dict[str, str]]:
    (folder / "standards.yaml").write_text(text)
    return {name: dict(rules) for name, rules in read_standards(folder / "standards.yaml").levels.items()}


def test_each_level_asks_for_what_those_before_it_do_and_the_last_for_all(tmp_path: Path) -> None:
    levels = list(severities(tmp_path, "").values())
    assert all(set(low) <= set(high) for low, high in pairwise(levels))
    assert levels[-1] == dict.fromkeys(RULES, "error")


def test_a_switch_holds_at_every_level_and_a_level_can_ask_for_more(tmp_path: Path) -> None:
    text = "rules: {owner: off, tier: warning}\nlevels: {pilot: {approval: error}, secret: {review: error}}"
    found = severities(tmp_path, text)
    assert not any("owner" in level for level in found.values())
    assert (found["experiment"]["tier"], found["regulated"]["tier"]) == ("warning", "warning")
    assert ("approval" in found["experiment"], found["pilot"]["approval"]) == (False, "error")
    assert list(found)[-1] == "secret"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("level: pilots", "there is no level 'pilots'"),
        ("use_cases: {flights: prod}", "there is no level 'prod'"),
        ("rules: {ownr: error}", "there is no rule 'ownr'. Did you mean 'owner'"),
        ("levels: {pilot: {ownr: error}}", "there is no rule 'ownr'"),
        ("rules: {owner: fatal}", "rules.owner"),
        ("rulez: {}", "rulez"),
        ("level: [", "cannot be used"),
        ("[pilot]", "cannot be used"),
        ("rules: [owner]", "rules"),
        ("levels: {pilot: [owner]}", "levels.pilot"),
        ("own: [nothing.py]", "There are no rules in"),
    ],
)
def test_standards_that_cannot_be_say_why(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        severities(tmp_path, text)


CASE = """
import polars as pl
from mlops_ray import Column, Label, Source, UseCase
from mlops_ray.training.candidates import LogisticRegression
rows = Source("rows.csv", columns=(Column("id", "text"), Column("at", "timestamp"), Column("y", "boolean")))
use_case = UseCase(
    name="small", sources={"rows": rows}, entities=("id",), event_time="at", request_features={"id": pl.col("id")},
    label=Label("y", value=pl.col("y"), known_at=pl.col("at")), candidates=(LogisticRegression(),),
)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one use case, which says nothing of itself."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "use_cases").mkdir()
    (tmp_path / "use_cases" / "small.py").write_text(CASE)
    (tmp_path / "use_cases" / "words.py").write_text("WORDS = ()")
    return tmp_path


def checked(*arguments: str) -> Result:
    found = CliRunner().invoke(app, ["check", *arguments])
    if isinstance(found.exception, MlopsRayError):
        raise found.exception
    return found


def findings(*arguments: str) -> list[Finding]:
    return [Finding(**one) for one in json.loads(checked("--json", *arguments).output)["findings"]]


def test_warnings_end_with_0_and_errors_with_3(folder: Path) -> None:
    experiment, pilot = checked(), checked("--level", "pilot")
    assert (experiment.exit_code, pilot.exit_code) == (0, 3)
    assert "small (experiment): 0 errors, 3 warnings." in experiment.output
    assert "error    owner                 small: it has no owner. Give a team or its address: owner=." in pilot.output


def test_adopting_more_is_a_switch(folder: Path) -> None:
    (folder / "standards.yaml").write_text("use_cases: {small: production}")
    found = findings()
    assert {one.rule for one in found if one.severity == "error"} >= {"approval", "limits", "lock_file"}
    assert [one.severity for one in found] == sorted(one.severity for one in found)


def test_what_is_about_the_project_is_said_once_at_the_highest_level(folder: Path) -> None:
    (folder / "use_cases" / "other.py").write_text(CASE.replace('"small"', '"other"'))
    (folder / "standards.yaml").write_text("use_cases: {small: production}")
    assert [one for one in findings() if one.rule == "lock_file"] == [
        Finding("", "lock_file", "error", next(iter(RULES["lock_file"].broken(Project(folder, ()), None))))
    ]


def test_a_use_case_that_cannot_be_loaded_is_a_finding_and_the_others_are_checked(folder: Path) -> None:
    (folder / "use_cases" / "wrong.py").write_text("use_case = UseCase(")
    found = findings()
    assert ("wrong", "loads", "error") in {(one.use_case, one.rule, one.severity) for one in found}
    assert any(one.use_case == "small" for one in found)


def test_a_rule_of_ones_own_is_a_function(folder: Path) -> None:
    (folder / "rules.py").write_text(
        "def team(case, project):\n    '''A team that is known.'''\n    if 'team-' not in case.owner:\n"
        "        yield f'{case.owner!r} is no team.'\n"
    )
    (folder / "standards.yaml").write_text("own: [rules.py]")
    assert Finding("small", "team", "error", "'' is no team.") in findings()
    (folder / "rules.py").write_text("def team(case):\n    'A team.'\n    return None if case.owner else 'No team.'")
    assert [one.sentence for one in findings() if one.rule == "team"] == ["No team."]
    (folder / "standards.yaml").write_text("own: [rules.py]\nrules: {team: off}")
    assert "team" not in {one.rule for one in findings()}
    (folder / "standards.yaml").write_text("own: [rules.py]\nlevels: {pilot: {team: warning}}")
    assert "team" not in {one.rule for one in findings()}
    assert ("team", "warning") in {(one.rule, one.severity) for one in findings("--level", "pilot")}


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("def team(x):\n    '''A team.'''", ConfigurationError, "Name its parameters case, project, or both"),
        ("def team(case): ...", ConfigurationError, "has no docstring"),
        ("def owner(case):\n    '''An owner.'''", ConfigurationError, "there are two rules 'owner'"),
        ("def team(case:", ConfigurationError, "does not import: SyntaxError"),
        ("def team(case):\n    '''A team.'''\n    return [1 / 0]", UseCaseError, "Rule team: ZeroDivisionError"),
    ],
)
def test_a_rule_of_ones_own_that_cannot_be_used_says_why(code: str, error: Any, said: str, folder: Path) -> None:
    (folder / "rules.py").write_text(code)
    (folder / "standards.yaml").write_text("own: [rules.py]")
    with pytest.raises(error, match=said):
        checked()


def test_what_git_ignores_is_not_looked_at_and_what_is_new_is(folder: Path) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    secret = 'api_key = "' + 'q8w7e6r5t4"'
    (folder / "mine.txt").write_text(secret)
    (folder / "new.txt").write_text(secret)
    (folder / ".gitignore").write_text("mine.txt")
    assert [one.sentence.split(":")[0] for one in findings() if one.rule == "no_secrets"] == ["new.txt"]


def test_a_project_in_a_folder_that_git_ignores_is_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "inner" / "use_cases").mkdir(parents=True)
    (folder / "use_cases" / "small.py").rename(folder / "inner" / "use_cases" / "small.py")
    (folder / "inner" / "new.txt").write_text('api_key = "' + 'q8w7e6r5t4"')
    (folder / ".gitignore").write_text("inner")
    subprocess.run(["git", "init", "-q"], check=True)
    monkeypatch.chdir(folder / "inner")
    assert "no_secrets" in {one.rule for one in findings()}


def test_a_level_of_a_use_case_that_is_none_is_no_typing_error_to_miss(folder: Path) -> None:
    (folder / "standards.yaml").write_text("use_cases: {smal: production}")
    with pytest.raises(ConfigurationError, match=r"there is no use case 'smal'. Did you mean 'small'"):
        checked()


def test_a_file_that_was_named_and_declares_none_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"words.py declares no use case"):
        checked("words")


def test_a_folder_without_use_cases_is_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="There is no use case in"):
        checked()


def test_the_use_cases_of_this_repository_are_found_and_load() -> None:
    found = check(ROOT, read_standards(ROOT / "standards.yaml"), (ROOT / "use_cases").glob("*.py"))
    assert [file.name for file in found.without] == ["flights_raw_data.py"]
    assert set(found.levels) == {"arrivals", "delay", "flights", "outcome"}
    assert [one.sentence for one in found.findings if one.rule == "no_secrets"] == []


def test_the_hook_calls_a_command_that_is_there() -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert (hook["id"], hook["pass_filenames"]) == ("mlops-ray-check", False)
    assert CliRunner().invoke(app, [*hook["entry"].split()[1:], "--help"]).exit_code == 0


def test_the_docs_examples_can_be_used(tmp_path: Path) -> None:
    blocks = dict(re.findall(r"```(yaml|python)\n(.*?)```", DOCS.read_text(), re.DOTALL))
    (tmp_path / "standards").mkdir()
    (tmp_path / "standards" / "rules.py").write_text(blocks["python"])
    levels = severities(tmp_path, blocks["yaml"])
    assert (levels["experiment"]["team"], levels["experiment"]["lock_file"]) == ("error", "warning")
    assert ("review" in levels["regulated"], levels["pilot"]["approval"]) == (False, "error")
    (said,) = read_standards(tmp_path / "standards.yaml").rules["team"].broken(Project(tmp_path, ()), GOOD)
    assert said == "'sales@example.org' is no team."


def test_the_docs_have_every_rule_as_it_is() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in DOCS.read_text().splitlines()]
    levels = read_standards(Path("/nowhere/standards.yaml")).levels
    written = {row[0].strip("`"): row[1:] for row in rows if len(row) == 2 + len(levels) and row[0].startswith("`")}
    assert written == {
        name: [rule.asks, *(level.get(name, "") for level in levels.values())] for name, rule in RULES.items()
    }
