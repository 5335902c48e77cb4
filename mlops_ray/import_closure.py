"""The code of this package that a name reaches, found from the imports, and the libraries that this code imports.

A name counts with all that it reaches: its definition, the definitions that those use, what they import. So a changed
gate does not make a training set another one, although both are steps of one pipeline. See `user_files` for what the
user wrote. What is installed counts by its version.
"""

import ast
import csv
import hashlib
import importlib.util
import inspect
import json
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

from mlops_ray.statements import Statement, Statements, wanted

_PACKAGE = Path(__file__).parent
_OURS = _PACKAGE.name


@dataclass(frozen=True)
class Code:
    """What something depends on: the digests of the code by module or file, the versions of libraries by name."""

    texts: Mapping[str, str]
    libraries: Mapping[str, str]

    def to_json(self) -> dict[str, dict[str, str]]:
        """As plain JSON values, sorted by name."""
        return {"code": dict(sorted(self.texts.items())), "libraries": dict(sorted(self.libraries.items()))}


@cache
def our_code(module: str, name: str = "*") -> Code:
    """What a name of a module of this package reaches; "*" is all of the module, and of a package all its modules."""
    walk = _Walk()
    modules = _modules_below(module) if name == "*" else (module,)
    for one in modules:
        walk.visit(one, name)
    _statements(_PACKAGE).keep()
    texts = {
        module: _sha256("\n".join(sorted(statement.text for statement in reached)))
        for module, reached in walk.reached.items()
        if reached
    }
    return Code(texts, {**libraries(walk.outside), "python": platform.python_version()})


def code_digest(module: str) -> str:
    """SHA-256 of all that a module or package of ours reaches, and of the versions of the libraries that it imports."""
    return _sha256(json.dumps(our_code(module).to_json()))


def is_ours(module: str) -> bool:
    return module == _OURS or module.startswith(f"{_OURS}.")


def libraries(modules: set[str]) -> dict[str, str]:
    """The versions of the distributions that hold the top-level modules; the standard library is none.

    A module that nothing installed holds counts as "not installed", so that installing it is a change.
    """
    found: dict[str, str] = {}
    for module in modules - sys.stdlib_module_names:
        names = _names(module)
        if names is None:
            found[module] = "installed" if module in sys.modules or find_spec(module) else "not installed"
        found |= {name: version(name) for name in names or ()}
    return found


def distribution_version(module: str) -> str:
    """Name and version of what is installed for a module, such as "numpy 2.1.0"; "python 3.11.9" for Python's own."""
    top = module.split(".")[0]
    if top in sys.stdlib_module_names:
        return f"python {platform.python_version()}"
    try:
        return ", ".join(f"{name} {version(name)}" for name in _names(top) or (top,))
    except PackageNotFoundError:
        return top


def names_wanted(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, str]]:
    """(module, name) of what an import statement wants; the name "*" is all of the module."""
    yield from (wanted(node, alias, package) for alias in node.names)


def find_spec(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None


@dataclass
class _Module:
    """A module of this package: its statements by the names that they bind, and those that bind none."""

    bound: dict[str, list[Statement]] = field(default_factory=dict)
    loose: list[Statement] = field(default_factory=list)


@dataclass
class _Walk:
    """reached: the definitions of each module that count so far. outside: the top-level modules of others."""

    reached: dict[str, set[Statement]] = field(default_factory=dict)
    outside: set[str] = field(default_factory=set)
    _visited: set[tuple[str, str]] = field(default_factory=set)

    def visit(self, module: str, name: str) -> None:
        if not is_ours(module):
            self.outside.add(module.split(".")[0])
            return
        if _file_of(f"{module}.{name}"):
            module, name = f"{module}.{name}", "*"
        if _file_of(module) is None:
            raise ModuleNotFoundError(f"{module} is imported and is no module of {_OURS}.")
        known = _module(module)
        first = module not in self.reached
        self.reached.setdefault(module, set())
        for statement in known.loose if first else ():
            self._reach(module, known, statement, "*")
        for one in [name] if name in known.bound else known.bound:
            for statement in known.bound[one]:
                self._reach(module, known, statement, one)

    def _reach(self, module: str, known: _Module, statement: Statement, by: str) -> None:
        """Take a statement in, which was reached by the name `by` that it binds, with all that it uses."""
        if statement.is_import:
            self._import(statement, by)
        elif statement not in self.reached[module]:
            self.reached[module].add(statement)
            self._import(statement, "*")
            for dotted in statement.dotted:
                self._named(dotted)
            for name in statement.names:
                for found in known.bound.get(name, ()):
                    self._reach(module, known, found, name)

    def _named(self, dotted: str) -> None:
        """Visit what a text names, as others are told by it which class of ours to use."""
        module, _, name = dotted.rpartition(".")
        if _file_of(dotted):
            self._visit_once(dotted, "*")
        elif _file_of(module) and name in _module(module).bound:
            self._visit_once(module, name)

    def _visit_once(self, module: str, name: str) -> None:
        if (module, name) not in self._visited:
            self._visited.add((module, name))
            self.visit(module, name)

    def _import(self, statement: Statement, by: str) -> None:
        """Visit what the imports of a statement want: of several names only the one by which it was reached."""
        for bound, module, name in statement.imports:
            if by in ("*", bound):
                self._visit_once(module, name)


def _modules_below(module: str) -> Iterator[str]:
    file = _file_of(module)
    if file is None or file.name != "__init__.py":
        yield module
        return
    for path in sorted(file.parent.rglob("*.py")):
        inside = path.relative_to(file.parent).with_suffix("").parts
        yield ".".join((module, *inside)).removesuffix(".__init__")


@cache
def _file_of(module: str) -> Path | None:
    path = _PACKAGE.joinpath(*module.split(".")[1:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def _module(module: str) -> _Module:
    file = _file_of(module)
    assert file is not None
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    found = _Module()
    for statement in _statements(_PACKAGE).of(module, file, package):
        for name in statement.binds:
            found.bound.setdefault(name, []).append(statement)
        if not statement.binds:
            found.loose.append(statement)
    return found


@cache
def _statements(package: Path) -> Statements:
    return Statements(package)


@cache
def _names(module: str) -> tuple[str, ...] | None:
    """The distributions that hold a top-level module, by name; None if none does."""
    found = _distributions().get(module)
    return None if found is None else tuple(one.metadata["Name"] for one in found)


@cache
def _distributions() -> Mapping[str, list[Distribution]]:
    """What is installed, by top-level module. As `importlib.metadata.packages_distributions` has it, in a fifth of the
    time: that reads what each says of itself before it is asked."""
    found: dict[str, list[Distribution]] = {}
    for one in distributions():
        for module in _top_level(one):
            found.setdefault(module, []).append(one)
    return found


def _top_level(one: Distribution) -> set[str]:
    if declared := one.read_text("top_level.txt"):
        return set(declared.split())
    record = one.read_text("RECORD")
    paths = (row[0] for row in csv.reader(record.splitlines()) if row) if record else map(str, one.files or ())
    firsts = {path.partition("/")[0] if "/" in path else inspect.getmodulename(path) for path in paths}
    return {first for first in firsts if first and "." not in first}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
