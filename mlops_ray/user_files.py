"""The user's own code: a file with all files of theirs that it imports, however it imports them.

Whole files count by their text. What is neither the standard library nor installed nor this package is the user's.
"""

import ast
import hashlib
import inspect
import os
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mlops_ray.errors import UseCaseError
from mlops_ray.import_closure import Code, find_spec, is_ours, libraries, names_wanted

_INSTALLED = tuple({str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "purelib", "platlib")})
_PACKAGE = Path(__file__).parent


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
        for wanted in {*_imports_of_file(text, package), *_globals_of(name, path, text)}:
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
    installed = str(path).startswith(_INSTALLED) or not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    return not installed and _PACKAGE not in path.parents


def file_of(value: Callable[..., Any] | type) -> Path | None:
    """The user's file that defines a function or class; None where there is none, as in a notebook."""
    try:
        file = inspect.getsourcefile(value)
    except (TypeError, OSError):
        return None
    return Path(file) if file is not None and is_users(file) else None


@cache
def _imports_of_file(text: str, package: str) -> tuple[str, ...]:
    """Modules that a file imports, and what may be modules among the names that it takes from packages."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for wanted, name in names_wanted(node, package):
                # A file outside of any package has no relative imports of its own; what it means lies beside it.
                wanted = wanted.lstrip(".")
                found += [one for one in (wanted, f"{wanted}.{name}".lstrip(".")) if one and not one.endswith("*")]
    return tuple(found)


def _globals_of(module: str, path: Path, text: str) -> Iterator[str]:
    """Modules that the file's module holds or has taken something from in another way than by an import statement.

    A package holds each of its modules that anybody has imported, too: one that its text does not name is not its own.
    """
    loaded = sys.modules.get(module)
    if loaded is None or Path(getattr(loaded, "__file__", None) or "").resolve() != path:
        return
    for key, value in list(vars(loaded).items()):
        name = value.__name__ if isinstance(value, types.ModuleType) else _home(value)
        if name == f"{module}.{key}" and key not in text:
            continue
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
    if is_ours(name):
        return [], {parts[0]}
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
    if not any(file.is_file() for file in candidates) and (spec := find_spec(name)) and spec.origin:
        candidates.append(Path(spec.origin))
    found = next((file for file in candidates if file.is_file()), None)
    return found.resolve() if found is not None and found.suffix == ".py" and is_users(found) else None


def _changed_since_import(text: str, name: str, path: Path) -> str | None:
    """A function that runs here as the file no longer says it; in a notebook an edited file is not imported anew."""
    loaded = sys.modules.get(name)
    if loaded is None or Path(getattr(loaded, "__file__", None) or "").resolve() != path:
        return None
    if "@pytest_ar" in vars(loaded):  # pytest has rewritten its assertions
        return None
    written = _compiled(text)
    for qualname, value in _loaded_functions(vars(loaded), vars(loaded), path):
        if not any(_instructions(one) == _instructions(value) for one in written.get(qualname, ())):
            return qualname
    return None


@cache
def _compiled(text: str) -> Mapping[str, list[types.CodeType]]:
    """By qualified name; a name can be defined in both branches of a condition."""
    found: dict[str, list[types.CodeType]] = {}
    for name, code in _functions(compile(text, "", "exec", dont_inherit=True)):
        found.setdefault(name, []).append(code)
    return found


def _functions(code: types.CodeType, within: str = "") -> tuple[tuple[str, types.CodeType], ...]:
    """Functions and methods of compiled code by their qualified names; not those inside of functions."""
    found: list[tuple[str, types.CodeType]] = []
    for one in code.co_consts:
        if isinstance(one, types.CodeType) and not one.co_name.startswith("<"):
            is_class = "__module__" in one.co_names and "__qualname__" in one.co_names
            found += _functions(one, f"{within}{one.co_name}.") if is_class else [(f"{within}{one.co_name}", one)]
    return tuple(found)


def _loaded_functions(
    scope: Mapping[str, Any], module: Mapping[str, Any], path: Path
) -> Iterator[tuple[str, types.CodeType]]:
    """Functions and methods that came from the file as they stand there: neither wrapped nor made by a decorator, which
    has given what it made their file and their name, but not their module."""
    for key, value in list(scope.items()):
        if inspect.isclass(value) and value.__qualname__ == key:
            yield from ((f"{key}.{inner}", code) for inner, code in _loaded_functions(vars(value), module, path))
        elif inspect.isfunction(value) and value.__globals__ is module:
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
