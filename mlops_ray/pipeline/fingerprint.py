"""Fingerprints: any value of a declaration as plain JSON, equal when the value does the same.

By value: numbers, texts, containers, dataclasses and objects with all their attributes, expressions as polars
serializes them, frames and arrays by content. Functions and classes by their code (see mlops_ray.import_closure), the
values of their defaults, closures, and of the module's variables that they read. Nothing by its repr, which can hold
an address or leave out the middle of a table: what cannot be compared is refused.
"""

import copyreg
import functools
import hashlib
import inspect
import json
import logging
import pickle
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import polars as pl

from mlops_ray.artifacts import digest_json
from mlops_ray.errors import UseCaseError
from mlops_ray.import_closure import distribution_version, is_ours, our_code
from mlops_ray.user_files import file_of, is_users, user_code

T = TypeVar("T")
_PICKLE = b"\x80"
_AS_BYTES = {pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Float32, pl.Float64}


@dataclass(frozen=True)
class Known(Generic[T]):
    """A value that is known by `content`, such as a digest, which is what counts: where it lies does not."""

    content: Any
    value: T


def fingerprint(value: Any) -> str:
    """SHA-256 of `canonical(value)`."""
    return digest_json(canonical(value))


def canonical(value: Any, name: str = "", versions: bool = True) -> Any:
    """The value as JSON: a leaf as it is, everything else as a list that begins with its kind.

    name: what the value is called, for the message. versions: without them what is installed, this package included,
    counts by its names alone: what was declared is the same although it may do something else. Raises UseCaseError
    naming what cannot be compared with what it was in another process, such as a connection or a lock.
    """
    return _Canonical(versions).of(value, name or type(value).__name__)


class _Canonical:
    """One walk over a value; what is being looked at, so that what refers to itself ends."""

    def __init__(self, versions: bool) -> None:
        self._versions = versions
        self._open: dict[int, int] = {}

    def of(self, value: Any, name: str) -> Any:
        if value is None or (isinstance(value, bool | int | str) and type(value) in (bool, int, str)):
            return value
        if type(value) is float:
            return value if np.isfinite(value) else ["float", repr(value)]
        if id(value) in self._open:
            return ["again", len(self._open) - self._open[id(value)]]
        self._open[id(value)] = len(self._open)
        try:
            return self._composite(value, name)
        finally:
            del self._open[id(value)]

    def _installed(self, module: str) -> str:
        return distribution_version(module) if self._versions else module.split(".")[0]

    def _users(self, module: str, file: Path) -> Any:
        code = user_code(module, file)
        return code.to_json() if self._versions else dict(sorted(code.texts.items()))

    def _ours(self, module: str, qualname: str) -> Any:
        return our_code(module, qualname.split(".")[0]).to_json() if self._versions else None

    def _composite(self, value: Any, name: str) -> Any:
        match value:
            case Known():
                return self.of(value.content, name)
            case list() | tuple() if type(value) in (list, tuple):
                return [type(value).__name__, *(self.of(one, f"{name}[{at}]") for at, one in enumerate(value))]
            case dict() | types.MappingProxyType() if type(value) in (dict, types.MappingProxyType):
                return ["mapping", *([self.of(k, name), self.of(v, f"{name}.{k}")] for k, v in value.items())]
            case set() | frozenset():
                return ["set", *sorted((self.of(one, name) for one in value), key=digest_json)]
            case bytes() | bytearray():
                return ["bytes", hashlib.sha256(value).hexdigest()]
            case datetime() | date() | time():
                return [type(value).__name__, value.isoformat(), str(getattr(value, "tzinfo", None))]
            case timedelta():
                return ["timedelta", str(value)]
            case pl.Expr() | pl.LazyFrame():
                return self._expression(value, name)
            case pl.DataFrame() | pl.Series():
                return self._frame(value, name)
            case np.ndarray():
                return self._array(value, name)
            case types.ModuleType():
                return ["module", *self._code_of_module(value)]
            case logging.Logger():
                return ["logger", value.name]
            case type():
                return self._class(value, name)
            case types.FunctionType():
                return self._function(value, name)
            case types.CodeType():
                return self._compiled(value, name)
            case types.MethodType():
                return ["method", self.of(value.__func__, name), self.of(value.__self__, name)]
            case functools.partial():
                parts = (value.func, value.args, value.keywords)
                return ["partial", *(self.of(part, name) for part in parts)]
            case types.BuiltinFunctionType() | types.MethodDescriptorType() | types.WrapperDescriptorType():
                return self._builtin(value, name)
            case types.CellType():
                return self.of(value.cell_contents, name)
        if hasattr(type(value), "__canonical__"):
            return value.__canonical__(lambda part, inner: self.of(part, f"{name}.{inner}"))
        if type(value).__module__.split(".")[0] == "pandas" and hasattr(value, "to_numpy"):
            return self._pandas(value, name)
        if is_dataclass(value):
            return self._dataclass(value, name)
        return self._object(value, name)

    def _expression(self, value: pl.Expr | pl.LazyFrame, name: str) -> Any:
        """As polars serializes it. A Python function in it stands there pickled, by name alone if it has a module."""
        try:
            text = value.meta.serialize(format="json") if isinstance(value, pl.Expr) else None
            tree = json.loads(text) if text is not None else None
        except (pl.exceptions.PolarsError, ValueError) as error:
            raise self._refused(value, name, error) from error
        if tree is None:
            return ["LazyFrame", value.explain(optimized=False), self.of(value.collect(), name)]  # type: ignore[union-attr]
        return ["expression", self._without_pickles(tree, name)]

    def _without_pickles(self, node: Any, name: str) -> Any:
        if isinstance(node, dict):
            return {key: self._without_pickles(inner, name) for key, inner in node.items()}
        if not isinstance(node, list):
            return node
        if node and all(isinstance(one, int) and not isinstance(one, bool) for one in node):
            return self._bytes_of_expression(bytes(one & 255 for one in node), name)
        return [self._without_pickles(one, name) for one in node]

    def _bytes_of_expression(self, content: bytes, name: str) -> Any:
        if not content.startswith(b"PLPYFN"):
            return ["bytes", hashlib.sha256(content).hexdigest()]
        try:
            function = pickle.loads(content[content.index(_PICKLE + b"\x05") :])
        except Exception as error:  # whatever the user's function raises when it is loaded
            raise self._refused(pl.Expr, name, error) from error
        return ["function of expression", self.of(function, name)]

    def _frame(self, value: pl.DataFrame | pl.Series, name: str) -> Any:
        """By content: what lies under a null does not count, the order of rows and columns does."""
        frame = value.to_frame() if isinstance(value, pl.Series) else value
        return ["frame", frame.height, *([one.name, str(one.dtype), self._column(one, name)] for one in frame)]

    def _column(self, column: pl.Series, name: str) -> Any:
        digest = hashlib.sha256(np.packbits(column.is_null().to_numpy()).tobytes())
        if column.dtype == pl.String:
            digest.update(column.str.len_bytes().fill_null(0).to_numpy().tobytes())
            digest.update("".join(column.fill_null("")).encode())
        elif column.dtype in _AS_BYTES or column.dtype.is_temporal():
            digest.update(column.to_physical().fill_null(0).to_numpy().tobytes())
        else:
            return self.of(column.to_list(), name)
        return digest.hexdigest()

    def _array(self, value: np.ndarray[Any, Any], name: str) -> Any:
        described = ["array", str(value.dtype), list(value.shape)]
        if value.dtype.hasobject:
            return [*described, self.of(value.tolist(), name)]
        return [*described, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]

    def _pandas(self, value: Any, name: str) -> Any:
        columns = [value[one] for one in value.columns] if hasattr(value, "columns") else [value]
        index = getattr(value, "index", None)
        labels = [] if index is None else [self.of(index.to_numpy(), name)]
        named = [[self.of(one.name, name), str(one.dtype), self.of(one.to_numpy(), name)] for one in columns]
        return ["pandas", type(value).__name__, *labels, *named]

    def _dataclass(self, value: Any, name: str) -> Any:
        """Every field, and what `__post_init__` added; not what a cached property keeps for later."""
        names = [one.name for one in fields(value)]
        kept = getattr(value, "__dict__", {})
        cached = {key for key in kept if isinstance(getattr(type(value), key, None), functools.cached_property)}
        names += sorted(set(kept) - set(names) - cached)
        parts = [[one, self.of(getattr(value, one), f"{name}.{one}")] for one in names]
        return ["object", self.of(type(value), name), ["mapping", *parts]]

    def _object(self, value: Any, name: str) -> Any:
        """Any other object as it would be pickled: how it is made again, and from what."""
        try:
            reduce = copyreg.dispatch_table.get(type(value))
            made = reduce(value) if reduce else value.__reduce_ex__(4)
        except Exception as error:  # each type says in its own way that it cannot be pickled
            raise self._refused(value, name, error) from error
        if isinstance(made, str):
            return ["global", made, self._installed(type(value).__module__)]
        function, arguments, *rest = (*made, None, None, None)[:5]
        state, items, pairs = rest
        if getattr(function, "__name__", "") in ("__newobj__", "__newobj_ex__"):
            function, arguments = arguments[0], arguments[1:]
        content: list[Any] = [self.of(arguments, name)] if arguments else []
        for kind, part in (("items", items), ("pairs", pairs)):
            content += [[kind, self.of(list(part), name)]] if part is not None else []
        content += [self.of(state, name)] if state is not None else []
        return ["object", self.of(function, name), *content]

    def _class(self, value: type, name: str) -> Any:
        named = f"{value.__module__}.{value.__qualname__}"
        if (file := file_of(value)) is not None:
            return ["class", value.__qualname__, self._users(value.__module__, file)]
        if is_ours(value.__module__):
            return ["class", named, self._ours(value.__module__, value.__qualname__)]
        if _is_installed(value):
            return ["class", named, self._installed(value.__module__)]
        # Defined in a notebook: by what it is made of.
        parts = {key: part for key, part in vars(value).items() if key not in _OF_EVERY_CLASS}
        inner = [[key, self.of(_plain_function(part), f"{name}.{key}")] for key, part in parts.items()]
        bases = [self.of(base, name) for base in value.__bases__ if base is not object]
        return ["class", value.__qualname__, bases, ["mapping", *inner]]

    def _function(self, value: types.FunctionType, name: str) -> Any:
        values = [value.__defaults__, value.__kwdefaults__, list(value.__closure__ or ())]
        by_value = [self.of(one, name) for one in values]
        module = value.__module__ or ""
        if is_ours(module):
            code = self._ours(module, value.__qualname__)
            return ["function", f"{module}.{value.__qualname__}", code, *by_value]
        file = file_of(value)
        if file is None and _is_installed(value):
            return ["function", f"{module}.{value.__qualname__}", self._installed(module), *by_value]
        if file is None:
            where = [self._source(value, name)]
        else:
            where = [self._users(module, file), value.__code__.co_firstlineno]
            if value.__name__ == "<lambda>":  # of two in one line
                where.append(self._compiled(value.__code__, name))
        return ["function", value.__qualname__, *where, *by_value, self._variables(value, name, code_too=file is None)]

    def _source(self, value: types.FunctionType, name: str) -> Any:
        """The text of a cell; of what was typed without one, what Python made of it."""
        try:
            return inspect.getsource(value)
        except (OSError, TypeError):
            return self._compiled(value.__code__, name)

    def _compiled(self, code: types.CodeType, name: str) -> Any:
        constants = [self.of(one, name) for one in code.co_consts]
        return [
            "code",
            hashlib.sha256(code.co_code).hexdigest(),
            list(code.co_names),
            list(code.co_varnames),
            constants,
        ]

    def _variables(self, value: types.FunctionType, name: str, code_too: bool) -> Any:
        """The module's variables that the function reads: a table that was loaded when the module was imported.

        Of code in a file the functions, classes and modules among them count with the file.
        """
        found = {one: value.__globals__[one] for one in sorted(_names_read(value.__code__)) if one in value.__globals__}
        if not code_too:
            found = {key: one for key, one in found.items() if not _is_code(one)}
        return ["mapping", *([key, self.of(one, f"{key}, which {name} reads,")] for key, one in found.items())]

    def _builtin(self, value: Any, name: str) -> Any:
        module = str(getattr(value, "__module__", None) or "builtins")
        owner = getattr(value, "__self__", None)
        bound = [] if owner is None or isinstance(owner, types.ModuleType) else [self.of(owner, name)]
        return ["builtin", f"{module}.{value.__qualname__}", self._installed(module), *bound]

    def _code_of_module(self, value: types.ModuleType) -> list[Any]:
        file = getattr(value, "__file__", None)
        if is_users(file):
            return [value.__name__, self._users(value.__name__, Path(str(file)))]
        return [value.__name__, self._installed(value.__name__)]

    def _refused(self, value: Any, name: str, error: Exception) -> UseCaseError:
        kind = value if isinstance(value, type) else type(value)
        return UseCaseError(
            f"{name} is a {kind.__module__}.{kind.__qualname__}, which cannot be compared with what it was in another "
            f"run ({error}), so nobody could tell whether results are still right. Make it inside the function that "
            f"uses it, or give plain values, frames, functions or dataclasses of them in its place."
        )


# What Python and its decorators add to a class, and what follows from the rest of it.
_OF_EVERY_CLASS = {
    *("__module__", "__dict__", "__weakref__", "__doc__", "__annotations__", "__orig_bases__", "__parameters__"),
    *("__dataclass_fields__", "__dataclass_params__", "__match_args__", "__abstractmethods__", "_abc_impl"),
    *("__protocol_attrs__", "__non_callable_proto_members__", "_is_protocol", "_is_runtime_protocol"),
}


def _plain_function(value: Any) -> Any:
    if isinstance(value, staticmethod | classmethod):
        return value.__func__
    return [value.fget, value.fset] if isinstance(value, property) else value


def _names_read(code: types.CodeType) -> set[str]:
    inner = (one for one in code.co_consts if isinstance(one, types.CodeType))
    return set(code.co_names).union(*map(_names_read, inner))


def _is_code(value: Any) -> bool:
    return isinstance(value, types.FunctionType | types.ModuleType | type | types.BuiltinFunctionType)


def _is_installed(value: Any) -> bool:
    """Whether a class or function comes from something with a version, and not from a notebook or a REPL."""
    module = sys.modules.get(value.__module__ or "")
    file = getattr(module, "__file__", None)
    if module is None or value.__module__ == "__main__":
        return False
    return file is None or not is_users(file)


def tree(parts: Mapping[str, Any]) -> Any:
    """Named values as one canonical value."""
    return ["mapping", *([name, canonical(value, name)] for name, value in parts.items())]
