"""Loading a use case from the file that declares it, with the modules that lie beside it."""

import ast
import builtins
import importlib
import importlib.util
import itertools
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from mlops_ray.errors import NoUseCaseError, UseCaseError
from mlops_ray.quiet import import_ray
from mlops_ray.use_case.use_case import UseCase
from mlops_ray.use_case.user_code import what_happened

_PREFIX = "use_case_"
_numbers = itertools.count(1)


def load_use_case(reference: str) -> UseCase:
    """The use case in a Python file: `reference` is the file's path, or a name meaning `use_cases/<name>.py`.

    The file may import modules and packages that lie beside it; what is installed comes first. Its functions, and
    theirs, travel to workers by value, so workers need not find the files. Each call reads the files again, and what
    an earlier call returned stays as it was.
    Raises UseCaseError if the file does not exist, does not import, or does not hold exactly one UseCase.
    """
    file = Path(reference if reference.endswith(".py") else f"use_cases/{reference}.py").absolute()
    if not file.is_file():
        raise UseCaseError(f"There is no use case {reference!r}: {file} does not exist. Give the path of its file.")
    import_ray()
    from ray import cloudpickle  # Ray carries its own; importing it here keeps declarations free of Ray

    package = _package_of(file.parent)
    cloudpickle.register_pickle_by_value(package)  # and so all modules in it
    try:
        module = _load(file, f"{package.__name__}.{file.stem}")
    except UseCaseError:
        raise
    except Exception as error:
        raise UseCaseError(f"{file} does not import: {what_happened(error)}") from error
    found = [value for value in vars(module).values() if isinstance(value, UseCase)]
    if not found:
        raise NoUseCaseError(f"{file} defines 0 use cases; it must define exactly one.")
    if len(found) != 1:
        raise UseCaseError(f"{file} defines {len(found)} use cases; it must define exactly one.")
    return found[0]


def definitions_folder(use_case: str, given: str | None) -> Path:
    """The folder of the Feast definitions that belong to a use case."""
    if given:
        return Path(given).absolute()
    beside = Path(use_case).absolute().parent.parent if use_case.endswith(".py") else Path()
    return (beside / "feature_repo").absolute()


def case_folder(use_case: str) -> Path:
    """The folder of the use case's file, given as `load_use_case` takes it."""
    return Path(use_case if use_case.endswith(".py") else f"use_cases/{use_case}.py").absolute().parent


def _package_of(folder: Path) -> ModuleType:
    """A package of this load alone with the folder's files, so that those of two use cases do not mix."""
    importlib.invalidate_caches()  # a file may be younger than Python's memory of the folder
    package = ModuleType(f"{_PREFIX}{next(_numbers)}")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    return package


def _load(file: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file, loader=_Loader(name, str(file)))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


class _Finder:
    """Finds the modules of the packages that `_package_of` makes."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, module = name.partition(".")
        if not module or not package.startswith(_PREFIX) or not package.removeprefix(_PREFIX).isdigit():
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Runs a user's file so that its imports find what lies beside the use case.

    The text is compiled each time: Python's compiled files are as old as a second, and would hide an edit.
    """

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path)
        _refuse_late_imports(ast.parse(source, self.path), Path(self.path), fullname)
        code: CodeType = self.source_to_code(source, self.path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        package = module.__name__.partition(".")[0]

        def import_(
            name: str,
            globals: Mapping[str, Any] | None = None,
            locals: Mapping[str, Any] | None = None,
            fromlist: Sequence[str] | None = (),
            level: int = 0,
        ) -> ModuleType:
            if level or not _is_beside(name, package):
                return builtins.__import__(name, globals, locals, fromlist or (), level)
            found = builtins.__import__(f"{package}.{name}", globals, locals, fromlist or ())
            return found if fromlist else sys.modules[f"{package}.{name.partition('.')[0]}"]

        module.__dict__["__builtins__"] = vars(builtins) | {"__import__": import_}
        super().exec_module(module)


def _is_beside(name: str, package: str) -> bool:
    """Whether the module lies beside the use case and is not installed as well."""
    top = name.partition(".")[0]
    beside = PathFinder.find_spec(top, sys.modules[package].__path__)
    if beside is None or top == __name__.partition(".")[0]:  # a use case in a checkout of ours lies beside us
        return False
    installed = next((spec for finder in sys.meta_path if (spec := finder.find_spec(top, None))), None)
    if installed is None:
        return True
    # PYTHONPATH and the like may name the folder, too. A folder without __init__.py has no origin.
    places = [(spec.origin, list(spec.submodule_search_locations or ())) for spec in (beside, installed)]
    return places[0] == places[1]


def _refuse_late_imports(tree: ast.Module, file: Path, module: str) -> None:
    """A function travels to workers without its folder, so what lies there has to be imported before."""
    package = module.partition(".")[0]
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = ["." if node.level else str(node.module)]
            else:
                continue
            if late := [name for name in names if name == "." or _is_beside(name, package)]:
                raise UseCaseError(
                    f"{file}, line {node.lineno}: {function.name} imports {late[0]!r}, which lies beside the use case, "
                    f"when it runs, and workers do not have that folder. Import it at the top of the file."
                )
