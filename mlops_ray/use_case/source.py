"""Source: raw rows of one kind, as the organisation has them."""

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import polars as pl

from mlops_ray.errors import UseCaseError
from mlops_ray.use_case.column import Column
from mlops_ray.use_case.expectations import Expectations
from mlops_ray.use_case.last_known import LastKnown
from mlops_ray.use_case.reader import Reader

Tables = Mapping[str, pl.DataFrame]

WIDE_ENCODINGS = {"utf-16": 2, "utf-16-le": 2, "utf-16-be": 2, "utf-32": 4, "utf-32-le": 4, "utf-32-be": 4}


@dataclass(frozen=True)
class Source:
    """Files of one kind, as the organisation has them, or what a reader reads in their place.

    path: which files below the data folder, as in a shell: `*` stays within a folder, `**` takes all folders below,
    and names that begin with a dot match only a pattern that does. The ending says the format: .csv, .tsv, .txt
    (delimited text), .jsonl, .ndjson (JSON lines), each also with .gz, and .parquet; capital letters are as good.
    A file that several links lead to is read once.
    reader: with path=None, where rows come from that are not files: `SqlTable`, `DeltaFiles`, or a `Reader` of one's
    own.
    delimiter, quote (None: a quote is a character like any other), encoding: how delimited text is written; JSON lines
    take the encoding too. header: whether the first line names the columns; without one they come in the order of
    `columns`, and no others.
    key: the columns that identify a row. keep: which of several different rows with one key counts: the "last" or the
    "first" by the column `keep_by`; by default none of them, as nobody knows which is right. Rows that are equal in
    all columns are the same row, and one of them counts in any case. What does not count is quarantined.
    derived: columns computed from the accepted ones. rules: by name, what must hold of each row, over its columns and
    derived ones; a row for which one is false goes to quarantine, with the reason `rule:<name>`; null holds, as in SQL.
    last_known: what a missing value is taken from, see `LastKnown`; it comes last, after derived columns and rules.
    expects: what the rows must be like together. known_at: the moment a row became known; rows known later than
    `as_of` stay out. Without it a row counts as known from the beginning.
    """

    path: str | None
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    derived: Mapping[str, pl.Expr] = field(default_factory=dict)
    known_at: pl.Expr | None = None
    delimiter: str = ","
    quote: str | None = '"'
    encoding: str = "utf-8"
    header: bool = True
    keep: Literal["first", "last"] | None = None
    keep_by: str | None = None
    rules: Mapping[str, pl.Expr] = field(default_factory=dict)
    expects: Expectations = field(default_factory=Expectations)
    reader: Reader | None = None
    last_known: tuple[LastKnown, ...] = ()

    def __post_init__(self) -> None:
        self._check_text()
        if (self.path is None) == (self.reader is None):
            raise UseCaseError(f"Source {self.path}: give a path of files or, with path=None, a reader.")
        if self.path is not None and self._is_elsewhere(self.path):
            raise UseCaseError(f"Source path {self.path!r} must lie below the data folder. Give it relative to that.")
        names = [*(column.name for column in self.columns), *self.derived]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise UseCaseError(f"Source {self.path}: column {', '.join(twice)} is declared twice. Give each a name.")
        if reserved := [name for name in names if name.startswith("__")]:
            raise UseCaseError(f"Source {self.path}: names that begin with __ are ours. Rename {', '.join(reserved)}.")
        if (self.keep is None) != (self.keep_by is None) or (self.keep and not self.key):
            raise UseCaseError(
                f"Source {self.path}: keep, keep_by and key go together (keep is {self.keep!r}, keep_by "
                f"{self.keep_by!r}, key {self.key}). Say which rows are the same, and by which column one comes last."
            )
        if self.keep not in (None, "first", "last"):
            raise UseCaseError(f"Source {self.path}: keep is {self.keep!r}. Give 'first', 'last' or None.")
        for role, name in [("key", name) for name in self.key] + [("keep_by", self.keep_by)]:
            if name is not None and name not in names:
                raise UseCaseError(f"Source {self.path}: {role} {name!r} is not a column ({', '.join(names)}).")

    @staticmethod
    def _is_elsewhere(path: str) -> bool:
        return path.startswith("/") or "://" in path or bool({".", ".."} & set(path.split("/")))

    def _check_text(self) -> None:
        try:
            known = codecs.lookup(self.encoding).name
            "".encode(known)  # a codec such as base64 is none of texts
        except LookupError:
            raise UseCaseError(
                f"Source {self.path}: encoding {self.encoding!r} is unknown. Give one that Python knows, such as "
                f"'utf-8', 'latin-1', 'cp1252' or 'utf-16'."
            ) from None
        for role, sign in (("delimiter", self.delimiter), ("quote", self.quote)):
            if sign is not None and (len(sign) != 1 or not sign.isascii() or sign in "\r\n\0"):
                raise UseCaseError(
                    f"Source {self.path}: {role} {sign!r} must be one ASCII character and no end of a line."
                )
        if self.delimiter == self.quote:
            raise UseCaseError(f"Source {self.path}: delimiter and quote are both {self.quote!r}.")
        signs = f"\r\n{self.delimiter}{self.quote or ''}"
        if known not in WIDE_ENCODINGS and (hidden := _signs_within_characters(known, signs)):
            raise UseCaseError(
                f"Source {self.path}: in {self.encoding} the byte of {hidden!r} can be part of another character, so "
                f"that lines and columns cannot be told. Convert the files to utf-8."
            )

    def personal_columns(self) -> tuple[str, ...]:
        """Names of the columns that tell of a person, and of the derived ones that are computed from such."""
        found = [column.name for column in self.columns if column.personal is not None]
        for name, expression in self.derived.items():
            if set(found) & set(expression.meta.root_names()):
                found.append(name)
        return tuple(found)

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)


@cache
def _signs_within_characters(encoding: str, signs: str) -> str:
    """Those of the ASCII `signs` whose byte is not theirs alone in an encoding of bytes."""
    if encoding == "utf-8":
        return ""
    own = {ord(sign): sign for sign in signs}
    taken = {sign for sign in signs if sign.encode(encoding, "ignore").removeprefix(codecs.BOM_UTF8) != sign.encode()}
    for code in range(0x80, 0x10000):
        taken.update(own[byte] for byte in chr(code).encode(encoding, "ignore") if byte in own)
    return "".join(sorted(taken))
