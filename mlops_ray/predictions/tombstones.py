"""Tombstones: whoever was erased stays so when what a node, or batch scoring, still had of them arrives.

One is an empty file at `ledger/<use case>/erased/<digest>-<moment>`: a digest of the hash that was erased, and the
milliseconds since 1970 up to which it counts, so that somebody who comes back later is recorded again. Of a value that
the ledger keeps as it is the name ends with `-<column>`, and its digest is salted (`erased/salt`): whoever reads the
folder can test a guess, and has no list of values. A number has one for each way a type writes it (`5`, `5.0`). Whoever
writes rows looks at the tombstones after that, and an erasure looks at the rows after it has set one: one of both sees
the other.
"""

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.predictions.segments import FEATURE, FOLDER, KEY, delete_named, write_segment
from mlops_ray.predictions.value import read_as
from mlops_ray.use_case.column import DTYPES

ERASED = "erased"
# A node's clock, by which rows are stamped, may be ahead of the one by which people were erased.
CLOCKS_DIFFER = timedelta(hours=1)
_NAME = re.compile(r"([0-9a-f]{64})-(\d+)(?:-(.+))?")
_SALT = "salt"
_HASH_DIGITS = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Tombstones:
    """Of one use case, as they stood when they were read. Falsy where nobody was erased."""

    def __init__(self, until: Mapping[str, Mapping[str, datetime]], salt: bytes = b""):
        """until: by column ("" for a personal hash in any) and digest the moment up to which it is erased. salt: of the
        digests of values."""
        self._until, self._salt = until, salt

    def __bool__(self) -> bool:
        return bool(self._until)

    def without(self, rows: pl.DataFrame, moment: str = "time") -> pl.DataFrame:
        """The rows that are of nobody who was erased. moment: the column that says when they came."""
        gone, hashes = pl.lit(False), self._until.get("", {})
        for name in hashable(rows) if hashes else ():
            found = rows[name].drop_nulls().unique()
            texts = found.filter(found.str.len_bytes() == _HASH_DIGITS).to_list()
            for text, end in _ends(hashes, {_digest(text): text for text in texts}):
                gone |= (pl.col(name) == text).fill_null(False) & (pl.col(moment) <= end)
        for name in rows.columns:
            if values := self._until.get(_column_of(name)) if _column_of(name) else None:
                as_text = pl.col(name).cast(pl.String)
                texts = rows.select(as_text.drop_nulls().unique()).to_series().to_list()
                for value, end in _ends(values, {_salted(self._salt, one): one for one in texts}):
                    gone |= (as_text == value).fill_null(False) & (pl.col(moment) <= end)
        return rows.filter(~gone)


def _ends(until: Mapping[str, datetime], texts: Mapping[str, str]) -> list[tuple[str, datetime]]:
    """Of the texts, by digest, those that are erased, each with the moment up to which it is."""
    return [(text, until[digest]) for digest, text in texts.items() if digest in until]


def _column_of(name: str) -> str:
    """The column of the request that a column of the ledger holds; "" for another."""
    for prefix in (KEY, FEATURE):
        if name.startswith(prefix):
            return name.removeprefix(prefix).partition(":")[0]
    return ""


def set_tombstone(artifacts: Artifacts, use_case: str, hash: str, now: datetime) -> None:
    """Let nothing of `hash` that came until now be kept."""
    artifacts.write_bytes(b"", FOLDER, use_case, ERASED, f"{_digest(hash)}-{_until_ms(now)}")


def set_tombstone_of_value(artifacts: Artifacts, use_case: str, column: str, value: str, now: datetime) -> None:
    """Let nothing that came until now be kept of which a column of the request is this value; as a column of any type
    writes it, as nobody knows which type it will have."""
    artifacts.create_bytes(secrets.token_bytes(16), FOLDER, use_case, ERASED, _SALT)
    salt = artifacts.read_bytes(FOLDER, use_case, ERASED, _SALT)
    for text in _written(value):
        name = f"{_salted(salt, text)}-{_until_ms(now)}-{quote(column, safe='')}"
        artifacts.write_bytes(b"", FOLDER, use_case, ERASED, name)


def _written(value: str) -> set[str]:
    """A value as texts of each type that it is one of."""
    texts = {value}
    for dtype in (*DTYPES.values(), pl.Float32()):
        if (read := read_as(value, dtype)) is not None:
            numbers = [read, -read] if isinstance(read, float) and not read else [read]
            texts |= set(pl.Series(numbers, dtype=dtype).cast(pl.String))
    return texts


def tombstones(artifacts: Artifacts, use_case: str) -> Tombstones:
    """All that stand now."""
    until: dict[str, dict[str, datetime]] = {}
    for one in _standing(artifacts, use_case):
        of_column = until.setdefault(one.column, {})
        of_column[one.digest] = max(one.until, of_column.get(one.digest, one.until))
    salt = artifacts.read_bytes(FOLDER, use_case, ERASED, _SALT) if any(until) else b""
    return Tombstones(until, salt)


def drop_tombstones(artifacts: Artifacts, use_case: str, before: datetime) -> None:
    """Remove those of before a moment: nothing that old is kept anyway."""
    for one in _standing(artifacts, use_case):
        if one.until < before:
            artifacts.delete(FOLDER, use_case, ERASED, one.name)


def leave_out_erased(artifacts: Artifacts, use_case: str, segment_id: str, rows: pl.DataFrame) -> None:
    """Take out of a segment, which was just written with `rows`, whoever was erased."""
    rest = tombstones(artifacts, use_case).without(rows)
    if rest.height == rows.height:
        return
    if rest.is_empty():
        delete_named(artifacts, use_case, segment_id)
    else:
        write_segment(artifacts, use_case, segment_id, rest)


def hashable(rows: pl.DataFrame) -> list[str]:
    """The columns that can hold a person's hash."""
    return [name for name, dtype in rows.schema.items() if dtype == pl.String and name.startswith((KEY, FEATURE))]


@dataclass(frozen=True)
class _Standing:
    """A tombstone. column: "" of a personal hash."""

    name: str
    digest: str
    until: datetime
    column: str


def _standing(artifacts: Artifacts, use_case: str) -> list[_Standing]:
    names = [entry.name for entry in artifacts.entries(FOLDER, use_case, ERASED)]
    found = [(match, name) for name in names if (match := _NAME.fullmatch(name))]
    return [
        _Standing(name, match[1], _EPOCH + timedelta(milliseconds=int(match[2])), unquote(match[3] or ""))
        for match, name in found
    ]


def _until_ms(now: datetime) -> int:
    return (now + CLOCKS_DIFFER - _EPOCH) // timedelta(milliseconds=1)


def _digest(hash: str) -> str:
    return hashlib.sha256(f"erased {hash}".encode()).hexdigest()


def _salted(salt: bytes, value: str) -> str:
    return hashlib.sha256(salt + value.encode()).hexdigest()
