"""The identity of a view's function: equal while it computes the same from the same tables.

It belongs to a view's definition, so that it must not change with comments, layout, or what else stands in the file,
and must change with all that the function reaches: helpers, constants, closures, values of its object. So it is taken
from the function itself and, name by name, from what it refers to.
"""

import ast
import dataclasses
import datetime
import functools
import hashlib
import inspect
import pickle
import sys
import sysconfig
import textwrap
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import polars as pl

from mlops_ray.artifacts import digest_json, digest_rows
from mlops_ray.errors import UseCaseError

_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
_OURS = str(Path(__file__).parents[1])
_PLAIN = (str, bytes, bool, int, float, complex, type(None), datetime.date, datetime.time, datetime.timedelta,
          datetime.tzinfo, range, Path)  # fmt: skip


def view_code(what: str, function: Any) -> str:
    """SHA-256 of all that a function or callable object consists of.

    Libraries count by name. Raises UseCaseError, which begins with `what`, if a value cannot be told from others.
    """
    return digest_json(_of(function, what, {}))


# What was met before, by its address, with its number; held, so that no other value gets the address.
_Seen = dict[int, tuple[int, Any]]


def _of(value: Any, what: str, seen: _Seen) -> Any:
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, pl.Expr):
        return value.meta.serialize(format="json")
    if isinstance(value, pl.Series):
        value = value.to_frame()
    if isinstance(value, pl.DataFrame):
        return ["frame", str(value.schema), digest_rows(value.with_row_index("__row")).hex()]
    if isinstance(value, Mapping):
        return [[_of(key, what, seen), _of(one, what, seen)] for key, one in value.items()]
    if isinstance(value, list | tuple):
        return [type(value).__name__, *(_of(one, what, seen) for one in value)]
    if isinstance(value, set | frozenset):
        return sorted(repr(one) for one in value)
    if isinstance(value, functools.partial):
        return [_of(part, what, seen) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, MethodType):
        return [_of(value.__func__, what, seen), _of(value.__self__, what, seen)]
    return _of_code(value, what, seen)


def _of_code(value: Any, what: str, seen: _Seen) -> Any:
    if id(value) in seen:
        return f"again {seen[id(value)][0]}"
    seen[id(value)] = len(seen), value
    if isinstance(value, ModuleType):
        file = getattr(value, "__file__", None)
        if file is None or _is_library(file):
            return value.__name__
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    if isinstance(value, functools._lru_cache_wrapper):
        return _of(value.__wrapped__, what, seen)
    if isinstance(value, FunctionType):
        if _is_library(value.__code__.co_filename):
            return f"{value.__module__}.{value.__qualname__}"
        given = [value.__defaults__, value.__kwdefaults__, dict(inspect.getclosurevars(value).nonlocals)]
        reached = {name: value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__}
        return [_text(value), _of(given, what, seen), _of(reached, what, seen)]
    if isinstance(value, type | BuiltinFunctionType) and _is_library_class(value):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, type):
        parts = {name: _plainly(part) for name, part in vars(value).items() if not name.startswith("__weakref")}
        kept = {k: v for k, v in parts.items() if k in ("__init__", "__call__") or not k.startswith("__")}
        return [value.__qualname__, [_of(base, what, seen) for base in value.__bases__], _of(kept, what, seen)]
    if isinstance(value, Enum):
        return repr(value)
    if hasattr(value, "__dict__") or dataclasses.is_dataclass(value):
        return [_of(type(value), what, seen), _of(vars(value), what, seen)]
    try:
        return hashlib.sha256(pickle.dumps(value)).hexdigest()
    except Exception as error:
        raise UseCaseError(
            f"{what} uses a {type(value).__name__}, which cannot be compared with what it was ({error}). Keep plain "
            f"values and data frames in what a view's function uses."
        ) from error


def _plainly(part: Any) -> Any:
    """A member of a class as the function or value behind it."""
    if isinstance(part, staticmethod | classmethod):
        return part.__func__
    if isinstance(part, property):
        return [part.fget, part.fset]
    return part.func if isinstance(part, functools.cached_property) else part


def _text(function: FunctionType) -> Any:
    """Its source without comments and layout; where there is none, or it is part of a line, its code."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError, TypeError):
        return _bytecode(function.__code__)
    if function.__name__ == "<lambda>":
        lambdas = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
        return ast.unparse(lambdas[0]) if len(lambdas) == 1 else _bytecode(function.__code__)
    return ast.unparse(tree)


def _bytecode(code: CodeType) -> list[Any]:
    constants = [_bytecode(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return [code.co_code.hex(), constants, code.co_names, code.co_varnames]


def _names(code: CodeType) -> list[str]:
    inner = [one for constant in code.co_consts if isinstance(constant, CodeType) for one in _names(constant)]
    return sorted({*code.co_names, *inner})


def _is_library(file: str) -> bool:
    return file.startswith((*_LIBRARIES, _OURS, "<frozen"))


def _is_library_class(value: Any) -> bool:
    module = sys.modules.get(value.__module__ or "")
    file = getattr(module, "__file__", None)
    return module is not None and module.__name__ != "__main__" and (file is None or _is_library(file))
