"""Statements: what each one of a module binds, uses and says, found once for the bytes of the module's file.

To parse all files of this package, and to write their statements anew, takes a second or two in every command. So what
was found is kept beside Python's compiled files, under the SHA-256 of each file: nothing that a file system says of a
file is trusted. Who can write there can change compiled code as well.
"""

import ast
import hashlib
import importlib.util
import platform
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

_DOTTED = re.compile(r"mlops_ray(\.\w+)+")


class Statement(msgspec.Struct, frozen=True, eq=False, array_like=True):
    """binds: the names that it gives a value. text: SHA-256 of it, without comments. is_import: whether it is an import
    and nothing else. imports: of each import in it the name that is bound, the module, and the name in it ("*" is all).
    names: those that it uses. dotted: texts in it that look like a name in this package."""

    binds: tuple[str, ...]
    text: str
    is_import: bool
    imports: tuple[tuple[str, str, str], ...]
    names: tuple[str, ...]
    dotted: tuple[str, ...]


class _Kept(msgspec.Struct):
    """by: what found it. modules: by name, the digest of the file and its statements."""

    by: str
    modules: dict[str, tuple[str, tuple[Statement, ...]]]


class Statements:
    """Those of the modules below one folder."""

    def __init__(self, folder: Path):
        self._file = Path(importlib.util.cache_from_source(str(folder / "statements.py"))).with_suffix(".json")
        self._by = f"{_sha256(Path(__file__).read_bytes())} {platform.python_version()}"
        self._kept = _Kept(self._by, {})
        self._changed = False
        with suppress(OSError, msgspec.MsgspecError):
            kept = msgspec.json.decode(self._file.read_bytes(), type=_Kept)
            if kept.by == self._by:
                self._kept = kept

    def of(self, module: str, file: Path, package: str) -> tuple[Statement, ...]:
        """The statements of a module, in order, but for its texts and what is there for types alone.

        package: what its relative imports start from.
        """
        content = file.read_bytes()
        digest = _sha256(content)
        known = self._kept.modules.get(module)
        if known is None or known[0] != digest:
            known = digest, tuple(_found(content, package))
            self._kept.modules[module] = known
            self._changed = True
        return known[1]

    def keep(self) -> None:
        """Write down what is new, where that may be written; of two that do so at once, one has to look again."""
        if not self._changed or sys.dont_write_bytecode:
            return
        self._changed = False
        with suppress(OSError):
            self._file.parent.mkdir(exist_ok=True)
            partial = self._file.with_name(f".{self._file.name}.{secrets.token_hex(8)}")
            partial.write_bytes(msgspec.json.encode(self._kept))
            partial.replace(self._file)


def wanted(node: ast.Import | ast.ImportFrom, alias: ast.alias, package: str) -> tuple[str, str]:
    """(module, name) of what a name in an import statement is; the name "*" is all of the module."""
    if isinstance(node, ast.Import):
        return alias.name, "*"
    base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    return ".".join([*base, *([node.module] if node.module else [])]), alias.name


def _found(content: bytes, package: str) -> Iterator[Statement]:
    for node in ast.parse(content).body:
        if not (_is_for_types(node) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))):
            yield _statement(node, package)


def _statement(statement: ast.stmt, package: str) -> Statement:
    imports: list[tuple[str, str, str]] = []
    names, dotted = set[str](), set[str]()
    for node in ast.walk(statement):
        match node:
            case ast.Import() | ast.ImportFrom():
                imports += [(_bound(alias), *wanted(node, alias, package)) for alias in node.names]
            case ast.Name(id=name):
                names.add(name)
            case ast.Constant(value=str(text)) if _DOTTED.fullmatch(text):
                dotted.add(text)
    return Statement(
        tuple(_names_bound(statement)),
        _sha256(ast.unparse(statement).encode(errors="surrogatepass")),
        isinstance(statement, ast.Import | ast.ImportFrom),
        tuple(imports),
        tuple(sorted(names)),
        tuple(sorted(dotted)),
    )


def _is_for_types(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test)


def _names_bound(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement gives a value; none for one that changes what is another's, as `other.name = …` does."""
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            yield from map(_bound, names)
        case ast.Assign(targets=targets):
            nodes = [node for target in targets for node in ast.walk(target)]
            if not any(isinstance(node, ast.Attribute | ast.Subscript) for node in nodes):
                yield from (node.id for node in nodes if isinstance(node, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name


def _bound(alias: ast.alias) -> str:
    return alias.asname or alias.name.split(".")[0]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
