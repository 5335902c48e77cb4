"""The code of this package that a name reaches, found from the imports, and the libraries that this code imports.

A name counts with all that it reaches: its definition, the definitions that those use, what they import. So a changed
gate does not make a training set another one, although both are steps of one pipeline. See `user_files` for what the
user wrote. What is installed counts by its version.
"""

import ast
import hashlib
import importlib.util
import json
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parent
_OURS = _PACKAGE.name
_DOTTED = re.compile(rf"{_OURS}(\.\w+)+")


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
        names = _distributions().get(module)
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
        return ", ".join(f"{name} {version(name)}" for name in _distributions().get(top, [top]))
    except PackageNotFoundError:
        return top


def names_wanted(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, str]]:
    """(module, name) of what an import statement wants; the name "*" is all of the module."""
    yield from (_wanted(node, alias, package) for alias in node.names)


def _wanted(node: ast.Import | ast.ImportFrom, alias: ast.alias, package: str) -> tuple[str, str]:
    if isinstance(node, ast.Import):
        return alias.name, "*"
    base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    return ".".join([*base, *([node.module] if node.module else [])]), alias.name


def find_spec(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None


class _Statement:
    """A statement of a module, looked at once however many names reach it."""

    def __init__(self, node: ast.stmt):
        self.node = node

    @cached_property
    def text(self) -> str:
        return ast.unparse(self.node)

    @cached_property
    def uses(self) -> "_Uses":
        found = _Uses()
        for node in ast.walk(self.node):
            match node:
                case ast.Import() | ast.ImportFrom():
                    found.imports.append(node)
                case ast.Name(id=name):
                    found.names.add(name)
                case ast.Constant(value=str(text)) if _DOTTED.fullmatch(text):
                    found.dotted.add(text)
        return found


@dataclass
class _Uses:
    """What a statement uses: its imports, the names in it, and its texts that look like a name in this package."""

    imports: list[ast.Import | ast.ImportFrom] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    dotted: set[str] = field(default_factory=set)


@dataclass
class _Module:
    """A module of this package: its statements by the names that they bind, and those that bind none."""

    package: str
    bound: dict[str, list[_Statement]] = field(default_factory=dict)
    loose: list[_Statement] = field(default_factory=list)


@dataclass
class _Walk:
    """reached: the definitions of each module that count so far. outside: the top-level modules of others."""

    reached: dict[str, set[_Statement]] = field(default_factory=dict)
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

    def _reach(self, module: str, known: _Module, statement: _Statement, by: str) -> None:
        """Take a statement in, which was reached by the name `by` that it binds, with all that it uses."""
        if isinstance(statement.node, ast.Import | ast.ImportFrom):
            self._import(statement.node, known.package, by)
        elif statement not in self.reached[module]:
            self.reached[module].add(statement)
            for imported in statement.uses.imports:
                self._import(imported, known.package, "*")
            for dotted in statement.uses.dotted:
                self._named(dotted)
            for name in statement.uses.names:
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

    def _import(self, statement: ast.Import | ast.ImportFrom, package: str, by: str) -> None:
        """Visit what an import statement wants: of several names only the one by which it was reached."""
        for alias in statement.names:
            if by in ("*", alias.asname or alias.name.split(".")[0]):
                self._visit_once(*_wanted(statement, alias, package))


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
    found = _Module(module if file.name == "__init__.py" else module.rpartition(".")[0])
    for statement in ast.parse(file.read_text()).body:
        if _is_for_types(statement) or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            continue
        names, one = list(_names_bound(statement)), _Statement(statement)
        for name in names:
            found.bound.setdefault(name, []).append(one)
        if not names:
            found.loose.append(one)
    return found


def _is_for_types(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test)


def _names_bound(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement gives a value; none for one that changes what is another's, as `other.name = …` does."""
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            yield from (one.asname or one.name.split(".")[0] for one in names)
        case ast.Assign(targets=targets):
            nodes = [node for target in targets for node in ast.walk(target)]
            if not any(isinstance(node, ast.Attribute | ast.Subscript) for node in nodes):
                yield from (node.id for node in nodes if isinstance(node, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
