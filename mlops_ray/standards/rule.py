"""Rule: one thing that is asked of a use case or of its project, as a plain function."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from mlops_ray.errors import ConfigurationError
from mlops_ray.use_case import UseCase

Severity = Literal["error", "warning"]
_ASKED_FOR = ("case", "project")


@dataclass(frozen=True)
class Project:
    """folder: where `use_cases/` lies. files: those that are the project's own, absolute: what git would commit."""

    folder: Path
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Rule:
    """name: of its function. asks: the first line of that one's docstring. of_case: whether it is about each use case,
    and not once about the project."""

    name: str
    asks: str
    of_case: bool
    function: Callable[..., Iterable[str] | None]

    def broken(self, project: Project, case: UseCase | None) -> Iterator[str]:
        """A sentence for each thing that is not as the rule asks. A function may also give one sentence, or None."""
        given = {"case": case, "project": project}
        found = self.function(**{name: given[name] for name in inspect.signature(self.function).parameters})
        yield from (found,) if isinstance(found, str) else found or ()


def rules_in(module: ModuleType) -> list[Rule]:
    """Every public function that the module defines. Its parameters are named `case`, `project`, or both.

    Raises ConfigurationError for one that asks for anything else, or says nothing of itself.
    """
    functions = [
        function
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
    ]
    return [_rule(function) for function in functions]


def _rule(function: Callable[..., Iterable[str] | None]) -> Rule:
    asked, name = tuple(inspect.signature(function).parameters), function.__name__
    if not asked or not set(asked) <= set(_ASKED_FOR):
        raise ConfigurationError(
            f"Rule {name} takes ({', '.join(asked)}). Name its parameters case, project, or both; a function that is "
            f"no rule begins with _."
        )
    if not function.__doc__:
        raise ConfigurationError(f"Rule {name} has no docstring. Say in its first line what it asks for.")
    return Rule(name, inspect.cleandoc(function.__doc__).splitlines()[0], "case" in asked, function)
