"""Tombstones: whoever was erased stays so when what a node, or batch scoring, still had of them arrives.

One is an empty file at `ledger/<use case>/erased/<digest>-<moment>`: a digest of the hash that was erased, and the
milliseconds since 1970 up to which it counts, so that somebody who comes back later is recorded again. Whoever writes
rows looks at the tombstones after that, and an erasure looks at the rows after it has set one: one of both sees the
other.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.predictions.segments import FEATURE, FOLDER, KEY, delete_named, write_segment

ERASED = "erased"
# A node's clock, by which rows are stamped, may be ahead of the one by which people were erased.
CLOCKS_DIFFER = timedelta(hours=1)
_NAME = re.compile(r"([0-9a-f]{64})-(\d+)")
_HASH_DIGITS = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Tombstones:
    """Of one use case, as they stood when they were read. Falsy where nobody was erased."""

    def __init__(self, until: Mapping[str, datetime]):
        """until: by the digest of each hash, the moment up to which it is erased."""
        self._until = until

    def __bool__(self) -> bool:
        return bool(self._until)

    def without(self, rows: pl.DataFrame, moment: str = "time") -> pl.DataFrame:
        """The rows that are of nobody who was erased. moment: the column that says when they came."""
        gone = pl.lit(False)
        for name in hashable(rows) if self else ():
            found = rows[name].drop_nulls().unique()
            hashes = found.filter(found.str.len_bytes() == _HASH_DIGITS).to_list()
            until = {value: self._until[key] for value in hashes if (key := _digest(value)) in self._until}
            for value, end in until.items():
                gone |= (pl.col(name) == value).fill_null(False) & (pl.col(moment) <= end)
        return rows.filter(~gone)


def set_tombstone(artifacts: Artifacts, use_case: str, hash: str, now: datetime) -> None:
    """Let nothing of `hash` that came until now be kept."""
    until_ms = (now + CLOCKS_DIFFER - _EPOCH) // timedelta(milliseconds=1)
    artifacts.write_bytes(b"", FOLDER, use_case, ERASED, f"{_digest(hash)}-{until_ms}")


def tombstones(artifacts: Artifacts, use_case: str) -> Tombstones:
    """All that stand now."""
    until: dict[str, datetime] = {}
    for digest, moment, _ in _standing(artifacts, use_case):
        until[digest] = max(moment, until.get(digest, moment))
    return Tombstones(until)


def drop_tombstones(artifacts: Artifacts, use_case: str, before: datetime) -> None:
    """Remove those of before a moment: nothing that old is kept anyway."""
    for _, moment, name in _standing(artifacts, use_case):
        if moment < before:
            artifacts.delete(FOLDER, use_case, ERASED, name)


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


def _standing(artifacts: Artifacts, use_case: str) -> list[tuple[str, datetime, str]]:
    """Digest, moment and name of each."""
    names = [entry.name for entry in artifacts.entries(FOLDER, use_case, ERASED)]
    found = [(match, name) for name in names if (match := _NAME.fullmatch(name))]
    return [(match[1], _EPOCH + timedelta(milliseconds=int(match[2])), name) for match, name in found]


def _digest(hash: str) -> str:
    return hashlib.sha256(f"erased {hash}".encode()).hexdigest()
