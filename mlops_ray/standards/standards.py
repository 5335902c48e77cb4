"""Standards: which rules there are, and how severe each is for a use case at its level of maturity."""

import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mlops_ray.errors import ConfigurationError, nearest
from mlops_ray.standards import data, gates, project, statements, watching
from mlops_ray.standards.rule import Rule, Severity, rules_in
from mlops_ray.use_case.user_code import what_happened

FILE = "standards.yaml"
Switch = Literal["error", "warning", "off"]


class _Declared(BaseModel):
    """What `standards.yaml` says. level: of all use cases that `use_cases` does not name. rules: how severe, at every
    level. own: files of rules, beside this one. levels: what is asked for at each, added to what ours ask for."""

    model_config = ConfigDict(extra="forbid")

    level: str = "experiment"
    use_cases: dict[str, str] = Field(default_factory=dict)
    rules: dict[str, Switch] = Field(default_factory=dict)
    own: list[str] = Field(default_factory=list)
    levels: dict[str, dict[str, Switch]] = Field(default_factory=dict)

    @field_validator("rules", mode="before")
    @classmethod
    def _of_rules(cls, given: Any) -> Any:
        return _off(given)

    @field_validator("levels", mode="before")
    @classmethod
    def _of_levels(cls, given: Any) -> Any:
        return {name: _off(rules) for name, rules in given.items()} if isinstance(given, dict) else given


def _off(given: Any) -> Any:
    """YAML reads `off` as false."""
    if not isinstance(given, dict):
        return given
    return {rule: "off" if switch is False else switch for rule, switch in given.items()}


class Standards:
    """rules: by name, ours and one's own. levels: by name, from the least demanding on, the severity of each rule."""

    def __init__(self, rules: Mapping[str, Rule], levels: Mapping[str, Mapping[str, Severity]], declared: _Declared):
        self.rules = rules
        self.levels = levels
        self._declared = declared

    def level_of(self, use_case: str) -> str:
        return self._declared.use_cases.get(use_case, self._declared.level)

    def expect_use_cases(self, known: Iterable[str]) -> None:
        """Raise ConfigurationError if a level is said of a use case that is none, as another is meant."""
        if unknown := sorted(set(self._declared.use_cases) - set(known)):
            raise ConfigurationError(f"{FILE}: there is no use case {unknown[0]!r}. {nearest(unknown[0], known)}")

    def highest(self, levels: Iterator[str]) -> str:
        """The most demanding of the levels; of none, that of all use cases."""
        order = list(self.levels)
        return max(levels, key=order.index, default=self._declared.level)


def read_standards(file: Path) -> Standards:
    """What the file says, or if there is none, what ours asks for at the level `experiment`.

    Raises ConfigurationError for what it says that cannot be, or rules of one's own that are none.
    """
    try:
        said = yaml.safe_load(file.read_text()) if file.is_file() else None
        declared = _Declared.model_validate(said or {})
    except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} cannot be used: {_sentence(error)}. See docs/check.md.") from None
    ours = [rule for module in (statements, data, gates, watching, project) for rule in rules_in(module)]
    own = [rule for path in declared.own for rule in _own(file.parent / path)]
    if twice := [rule.name for at, rule in enumerate(own) if rule.name in {r.name for r in [*ours, *own[:at]]}]:
        raise ConfigurationError(f"{file}: there are two rules {twice[0]!r}. Give yours another name.")
    rules = {rule.name: rule for rule in [*ours, *own]}
    given = yaml.safe_load((files("mlops_ray.standards") / "levels.yaml").read_text())
    stated = {name: {**given.get(name, {}), **declared.levels.get(name, {})} for name in {**given, **declared.levels}}
    _expect_known(file, [name for level in (*stated.values(), declared.rules) for name in level], rules, "rule")
    _expect_known(file, [declared.level, *declared.use_cases.values()], stated, "level")
    return Standards(rules, _levels(stated, {rule.name for rule in own}, declared.rules), declared)


def _levels(
    stated: Mapping[str, Mapping[str, Switch]], own: set[str], switches: Mapping[str, Switch]
) -> dict[str, dict[str, Severity]]:
    """Each level with what those before it ask for. A rule of one's own that no level names is an error at all."""
    named = {rule for level in stated.values() for rule in level}
    found: dict[str, dict[str, Severity]] = {}
    so_far: dict[str, Switch] = dict.fromkeys(sorted(own - named), "error")
    for level, rules in stated.items():
        so_far |= rules
        found[level] = {rule: how for rule, how in {**so_far, **switches}.items() if how != "off"}
    return found


def _own(file: Path) -> list[Rule]:
    """The rules that a file of Python defines."""
    name = f"mlops_ray_own_rules_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ConfigurationError(f"There are no rules in {file}: it is no Python file. Mend `own` in {FILE}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigurationError(f"{file} does not import: {what_happened(error)}") from error
    return rules_in(module)


def _expect_known(file: Path, names: list[str], known: Mapping[str, Any], what: str) -> None:
    if unknown := [name for name in names if name not in known]:
        raise ConfigurationError(f"{file}: there is no {what} {unknown[0]!r}. {nearest(unknown[0], known)}")


def _sentence(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
    return " ".join(str(error).split())
