"""The code that a function depends on, found from its imports: what it reaches of ours, the user's files, libraries.

Of this package a name counts with all that it reaches: its definition, the definitions that those use, what they
import. A changed gate does not make a training set another one, although both are steps of one pipeline. Of the
user's own code whole files count, with the files of theirs that they import. What is installed counts by its version.
"""

import ast
import hashlib
import importlib.util
import inspect
import json
import os
import platform
import re
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

from mlops_ray.errors import UseCaseError

_PACKAGE = Path(__file__).parent
_OURS = _PACKAGE.name
_DOTTED = re.compile(rf"{_OURS}(\.\w+)+")
_INSTALLED = tuple({str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "purelib", "platlib")})


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
        module: _sha256("\n".join(sorted(ast.unparse(one) for one in reached.values())))
        for module, reached in walk.reached.items()
        if reached
    }
    return Code(texts, {**libraries(walk.outside), "python": platform.python_version()})


def code_digest(module: str) -> str:
    """SHA-256 of all that a module or package of ours reaches, and of the versions of the libraries that it imports."""
    return _sha256(json.dumps(our_code(module).to_json()))


def libraries(modules: set[str]) -> dict[str, str]:
    """The versions of the distributions that hold the top-level modules; the standard library is none.

    A module that nothing installed holds counts as "not installed", so that installing it is a change.
    """
    found: dict[str, str] = {}
    for module in modules - sys.stdlib_module_names:
        names = _distributions().get(module)
        if names is None:
            found[module] = "installed" if module in sys.modules or _spec(module) else "not installed"
        found |= {name: version(name) for name in names or ()}
    return found


def user_code(module: str, file: Path) -> Code:
    """A file of the user's with all files of theirs that it imports, by their paths from its folder."""
    found: dict[Path, str] = {}
    outside: set[str] = set()
    waiting = [(module, file.resolve())]
    while waiting:
        name, path = waiting.pop()
        if path in found:
            continue
        text = path.read_text(errors="surrogateescape")
        if stale := _changed_since_import(text, name, path):
            raise UseCaseError(
                f"{path} has changed since it was imported: {stale} is not what runs here. Import it again "
                f"(importlib.reload), or start the process anew; else results would be recorded under other code."
            )
        found[path] = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for wanted in {*_imports_of_file(text, package), *_globals_of(name, path)}:
            inner, installed = _find(wanted, path)
            waiting += inner
            outside |= installed
    folder = file.resolve().parent
    return Code({os.path.relpath(path, folder): digest for path, digest in found.items()}, libraries(outside))


def is_users(file: str | os.PathLike[str] | None) -> bool:
    """Whether a file is the user's own: neither the standard library's, nor installed, nor this package's."""
    if file is None or not os.path.isfile(file):
        return False
    path = Path(file).resolve()
    return not str(path).startswith(_INSTALLED) and _PACKAGE not in path.parents


def is_ours(module: str) -> bool:
    return module == _OURS or module.startswith(f"{_OURS}.")


@dataclass
class _Module:
    """A module of this package: its statements by the names that they bind, and those that bind none."""

    package: str
    bound: dict[str, list[ast.stmt]] = field(default_factory=dict)
    loose: list[ast.stmt] = field(default_factory=list)


@dataclass
class _Walk:
    """reached: the definitions of each module that count so far. outside: the top-level modules of others."""

    reached: dict[str, dict[int, ast.stmt]] = field(default_factory=dict)
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
        self.reached.setdefault(module, {})
        for statement in known.loose if first else ():
            self._reach(module, known, statement, "*")
        for one in [name] if name in known.bound else known.bound:
            for statement in known.bound[one]:
                self._reach(module, known, statement, one)

    def _reach(self, module: str, known: _Module, statement: ast.stmt, by: str) -> None:
        """Take a statement in, which was reached by the name `by` that it binds, with all that it uses."""
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self._import(statement, known.package, by)
        elif id(statement) not in self.reached[module]:
            self.reached[module][id(statement)] = statement
            for node in ast.walk(statement):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    self._import(node, known.package, "*")
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _DOTTED.fullmatch(node.value):
                    self._named(node.value)
                elif isinstance(node, ast.Name):
                    for found in known.bound.get(node.id, ()):
                        self._reach(module, known, found, node.id)

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
                one = type(statement)(**{**vars(statement), "names": [alias]})
                for module, name in _wanted(one, package):
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
    found = _Module(module if file.name == "__init__.py" else module.rpartition(".")[0])
    for statement in ast.parse(file.read_text()).body:
        if _is_for_types(statement) or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            continue
        names = list(_names_bound(statement))
        for name in names:
            found.bound.setdefault(name, []).append(statement)
        if not names:
            found.loose.append(statement)
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


def _wanted(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, str]]:
    """(module, name) of what an import statement wants; the name "*" is all of the module."""
    if isinstance(node, ast.Import):
        yield from ((one.name, "*") for one in node.names)
        return
    base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    module = ".".join([*base, *([node.module] if node.module else [])])
    yield from ((module, one.name) for one in node.names)


def _functions(code: types.CodeType, within: str = "") -> tuple[tuple[str, types.CodeType], ...]:
    """Functions and methods of compiled code by their qualified names; not those inside of functions."""
    found: list[tuple[str, types.CodeType]] = []
    for one in code.co_consts:
        if isinstance(one, types.CodeType) and not one.co_name.startswith("<"):
            is_class = "__module__" in one.co_names and "__qualname__" in one.co_names
            found += _functions(one, f"{within}{one.co_name}.") if is_class else [(f"{within}{one.co_name}", one)]
    return tuple(found)


@cache
def _compiled(text: str) -> Mapping[str, list[types.CodeType]]:
    """By qualified name; a name can be defined in both branches of a condition."""
    found: dict[str, list[types.CodeType]] = {}
    for name, code in _functions(compile(text, "", "exec", dont_inherit=True)):
        found.setdefault(name, []).append(code)
    return found


def _changed_since_import(text: str, name: str, path: Path) -> str | None:
    """A function that runs here as the file no longer says it; in a notebook an edited file is not imported anew."""
    loaded = sys.modules.get(name)
    if loaded is None or Path(getattr(loaded, "__file__", None) or "").resolve() != path:
        return None
    if "@pytest_ar" in vars(loaded):  # pytest has rewritten its assertions
        return None
    written = _compiled(text)
    for qualname, value in _loaded_functions(vars(loaded), path):
        if not any(_instructions(one) == _instructions(value) for one in written.get(qualname, ())):
            return qualname
    return None


def _loaded_functions(scope: Mapping[str, Any], path: Path) -> Iterator[tuple[str, types.CodeType]]:
    """Functions and methods that came from the file as they stand there: neither wrapped nor made by a decorator."""
    for key, value in list(scope.items()):
        if inspect.isclass(value) and value.__qualname__ == key:
            yield from ((f"{key}.{inner}", code) for inner, code in _loaded_functions(vars(value), path))
        elif inspect.isfunction(value):
            code = value.__code__
            if code.co_name == key and value.__qualname__.endswith(key) and Path(code.co_filename).resolve() == path:
                yield key, code


def _instructions(code: types.CodeType) -> tuple[Any, ...]:
    """What the code does, without where it stands in which file."""
    constants = tuple(
        _instructions(one) if isinstance(one, types.CodeType) else (type(one).__name__, repr(one))
        for one in code.co_consts
    )
    return code.co_code, code.co_names, code.co_varnames, constants


@cache
def _imports_of_file(text: str, package: str) -> tuple[str, ...]:
    """Modules that a file imports, and what may be modules among the names that it takes from packages."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for wanted, name in _wanted(node, package):
                # A file outside of any package has no relative imports of its own; what it means lies beside it.
                wanted = wanted.lstrip(".")
                found += [one for one in (wanted, f"{wanted}.{name}".lstrip(".")) if one and not one.endswith("*")]
    return tuple(found)


def _globals_of(module: str, path: Path) -> Iterator[str]:
    """Modules that the file's module holds or has taken something from in another way than by an import statement."""
    loaded = sys.modules.get(module)
    if loaded is None or Path(getattr(loaded, "__file__", None) or "").resolve() != path:
        return
    for value in list(vars(loaded).values()):
        name = value.__name__ if isinstance(value, ModuleType) else _home(value)
        if name and name != module:
            yield name


def _home(value: Any) -> str:
    is_code = inspect.isfunction(value) or inspect.isclass(value)
    return str(getattr(value, "__module__", None) or "") if is_code else ""


def _find(name: str, importer: Path) -> tuple[list[tuple[str, Path]], set[str]]:
    """(the user's files that an import means, the packages on the way to it among them; what is installed)."""
    parts = name.split(".")
    if parts[0] in sys.stdlib_module_names:
        return [], set()
    if parts[0] == _OURS:
        return [], {_OURS}
    files = []
    for length in range(1, len(parts) + 1):
        inner = ".".join(parts[:length])
        file = _users_file(inner, importer)
        if file is None:
            break
        files.append((inner, file))
    return files, set() if files or parts[0] == "__main__" else {parts[0]}


def _users_file(name: str, importer: Path) -> Path | None:
    """The user's file of a module: the loaded one's, one beside the importer or above, or as Python would find it."""
    loaded = getattr(sys.modules.get(name), "__file__", None)
    inside = name.split(".")
    candidates = [*([Path(loaded)] if loaded else [])]
    for folder in importer.parents[:3]:
        candidates += [folder.joinpath(*inside).with_suffix(".py"), folder.joinpath(*inside, "__init__.py")]
    if not any(file.is_file() for file in candidates) and (spec := _spec(name)) and spec.origin:
        candidates.append(Path(spec.origin))
    found = next((file for file in candidates if file.is_file()), None)
    return found.resolve() if found is not None and found.suffix == ".py" and is_users(found) else None


def _spec(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def distribution_version(module: str) -> str:
    """Name and version of what is installed for a module, such as "numpy 2.1.0"; "python 3.11.9" for Python's own."""
    top = module.split(".")[0]
    if top in sys.stdlib_module_names:
        return f"python {platform.python_version()}"
    try:
        return ", ".join(f"{name} {version(name)}" for name in _distributions().get(top, [top]))
    except PackageNotFoundError:
        return top


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def file_of(value: Callable[..., Any] | type) -> Path | None:
    """The user's file that defines a function or class; None where there is none, as in a notebook."""
    try:
        file = inspect.getsourcefile(value)
    except (TypeError, OSError):
        return None
    return Path(file) if file is not None and is_users(file) else None
