"""Check: a project against its standards."""

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlops_ray.errors import NoUseCaseError, UseCaseError
from mlops_ray.standards.rule import Project, Rule, Severity
from mlops_ray.standards.standards import Standards
from mlops_ray.use_case import UseCase, load_use_case
from mlops_ray.use_case.user_code import user_code

LOADS = "loads"
# Without git: what no project commits.
_NOT_OURS = {"state", "data", "__pycache__", "node_modules", "venv"}


@dataclass(frozen=True)
class Finding:
    """Something that is not as a rule asks. use_case: "" for what is about the project."""

    use_case: str
    rule: str
    severity: Severity
    sentence: str


@dataclass(frozen=True)
class Checked:
    """levels: of each use case that was looked at, its level. without: files that declare none. findings: errors
    first."""

    levels: Mapping[str, str]
    without: tuple[Path, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        return sum(finding.severity == "error" for finding in self.findings)


def check(folder: Path, standards: Standards, cases: Iterable[Path], level: str | None = None) -> Checked:
    """folder: of the project. cases: the files of its use cases. level: as if all were at this one.

    A use case that cannot be loaded is a finding of the rule `loads`, which no switch turns off. Raises UseCaseError if
    a rule raises.
    """
    project, levels = Project(folder, _files(folder)), dict[str, str]()
    found, without = list[Finding](), list[Path]()
    for file in cases:
        try:
            case = load_use_case(str(file))
        except NoUseCaseError:
            without.append(file)
            continue
        except UseCaseError as error:
            found.append(Finding(file.stem, LOADS, "error", str(error)))
            continue
        levels[case.name] = level or standards.level_of(case.name)
        found += _broken(standards, levels[case.name], project, case)
    found += _broken(standards, level or standards.highest(iter(levels.values())), project, None)
    return Checked(levels, tuple(without), tuple(sorted(found, key=lambda one: one.severity)))


def _broken(standards: Standards, level: str, project: Project, case: UseCase | None) -> list[Finding]:
    """What is not as the rules about a use case, or without one those about the project, ask."""
    asked = standards.levels[level]
    rules = [rule for name, rule in standards.rules.items() if name in asked and rule.of_case == (case is not None)]
    name = case.name if case is not None else ""
    return [Finding(name, rule.name, asked[rule.name], said) for rule in rules for said in _said(rule, project, case)]


def _said(rule: Rule, project: Project, case: UseCase | None) -> list[str]:
    with user_code(f"Rule {rule.name}"):
        return list(rule.broken(project, case))


def _files(folder: Path) -> tuple[Path, ...]:
    """What git would commit; without git, or where it ignores the folder, all but hidden folders, state and data."""
    command = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode(errors="surrogateescape")
        found = [folder / name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        found = []
    if not found:
        found = [file for file in folder.rglob("*") if not _is_apart(file.relative_to(folder))]
    return tuple(sorted(file for file in found if file.is_file() and not file.is_symlink()))


def _is_apart(path: Path) -> bool:
    return any(part in _NOT_OURS or part.startswith(".") for part in path.parts[:-1])
