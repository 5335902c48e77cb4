"""Counting: which of the rows that the contract accepts count as of a moment, whatever files they came in."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts, ContentDigest, digest_each_row
from mlops_ray.ingestion.contract import JUDGEMENT, KNOWN_AT, NOT_KNOWN_YET, REASON, REPAIRS
from mlops_ray.ingestion.judged import BESIDE, KEY, Piece, count_codes
from mlops_ray.ingestion.keys import judge_keys, missing_key
from mlops_ray.ingestion.quarantine import FILE, LINE, LINES, RAW, quarantined
from mlops_ray.ingestion.snapshot import LineCounts, SourceCounts, sum_counts
from mlops_ray.use_case import Source

T = TypeVar("T")
Read = TypeVar("Read")
PIECE, POSITION, _LATE = "__piece", "__position", "__late"
PLACES = {PIECE: pl.UInt32, POSITION: pl.UInt32}
"""A row by its piece, counted as they are given, and where it stands in that."""
_READERS = 4
_FEW_ROWS = 1 << 20
_REFUSED = {LINE: pl.Int64, LINES: pl.Int64, REASON: pl.String, RAW: pl.Binary, FILE: pl.String}


@dataclass(frozen=True)
class NamedPiece:
    """A piece of a file and the file's name."""

    file: str
    piece: Piece


@dataclass(frozen=True)
class Partition:
    """What one partition of a source adds to its counts and digests; they are sums."""

    counts: SourceCounts
    accepted: ContentDigest
    quarantined: ContentDigest


def count_partition(
    artifacts: Artifacts, source: Source, pieces: Sequence[NamedPiece], as_of: datetime | None, number: int, of: int
) -> tuple[Partition, pl.DataFrame, pl.DataFrame]:
    """The partition's summary, the places of its rows that do not count, and the refused ones as quarantine keeps them.

    Every so many-th piece belongs to a partition with what is known of it; a row that does not count belongs to the one
    of its key. Only what is needed is read: keys, the rows that do not count, and the refused ones.
    """
    mine = pieces[number::of]
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(_refused, artifacts, mine)
        out = left_out(artifacts, source, pieces, as_of, number, of)
    late, refused = out.filter(pl.col(REASON) == NOT_KNOWN_YET), out.filter(pl.col(REASON) != NOT_KNOWN_YET)
    kept = quarantined(pl.concat([reading.result(), refused.drop(*PLACES, KNOWN_AT, strict=False)], how="diagonal"))
    repairs = out[REPAIRS].drop_nulls()
    known = sum_counts([one.piece.counts for one in mine])
    gone = SourceCounts(
        rows_in=0,
        accepted=repairs.len() - out.height,
        repaired=-repairs.len(),
        quarantined=refused.height,
        not_yet_known=late.height,
        reasons=count_codes(refused[REASON]),
        repairs={code: -count for code, count in count_codes(repairs).items()},
        lines=LineCounts(0, 0, -_sum(out[LINES]), _sum(refused[LINES]), _sum(late[LINES])),
    )
    accepted = sum((one.piece.digest for one in mine), ContentDigest())
    accepted -= digest_each_row(out.drop(REASON, FILE, *PLACES, *BESIDE, strict=False))
    return Partition(sum_counts([known, gone]), accepted, digest_each_row(kept)), out.select(list(PLACES)), kept


def left_out(
    artifacts: Artifacts, source: Source, pieces: Sequence[NamedPiece], as_of: datetime | None, number: int, of: int
) -> pl.DataFrame:
    """The accepted rows of a partition that do not count, with reason, file and place: not known yet at `as_of`, or
    without a key, or another row with their key counts."""
    suspects = _suspects(artifacts, source, pieces, as_of, number, of)
    rows = [
        _at(artifacts, pieces[at].piece, places).with_columns(pl.lit(pieces[at].file).alias(FILE))
        for (at,), places in suspects.partition_by(PIECE, as_dict=True, maintain_order=True).items()
    ]
    if not rows:
        return pl.DataFrame(schema={**JUDGEMENT, **_REFUSED, **PLACES})
    found = pl.concat(rows, how="diagonal")
    reason = missing_key(source)
    if as_of is not None and KNOWN_AT in found.columns:
        reason = pl.when(pl.col(KNOWN_AT) > as_of).then(pl.lit(NOT_KNOWN_YET)).otherwise(reason)
    found = found.with_columns(reason.alias(REASON))
    apart = [KNOWN_AT, *PLACES]
    judged = judge_keys(found.drop(apart, strict=False), source)
    return found.with_columns(judged[REASON]).filter(pl.col(REASON).is_not_null())


def _at(artifacts: Artifacts, piece: Piece, places: pl.DataFrame) -> pl.DataFrame:
    """The rows of a piece that stand at some places, with what is kept beside them."""
    tables = [artifacts.read_rows(places[POSITION], *name) for name in (piece.accepted, piece.beside)]
    return pl.concat([*tables, places], how="horizontal").drop(KEY, strict=False)


def write_accepted(
    artifacts: Artifacts,
    pieces: Sequence[tuple[int, Piece]],
    name: tuple[str, ...],
    values: pl.DataFrame,
    *out: pl.DataFrame,
) -> str:
    """Write the rows of some pieces that count as one table; returns the SHA-256 of its bytes. pieces: with their
    numbers; values: what is filled in, by its place; out: the places of what does not count."""
    gone, frames = pl.concat(out), []
    for at, piece in pieces:
        places, filled = gone.filter(pl.col(PIECE) == at), values.filter(pl.col(PIECE) == at)
        rows = with_values(artifacts.read_table(*piece.accepted), filled)
        frames.append(rows.filter(that_count(rows.height, places)) if places.height else rows)
    artifacts.write_table(pl.concat(frames, how="diagonal"), *name)
    return artifacts.sha256(*name)


def with_values(rows: pl.DataFrame, values: pl.DataFrame) -> pl.DataFrame:
    """The rows of a piece, in order, with the values that are filled in at their positions."""
    if values.is_empty():
        return rows
    names = [name for name in values.columns if name not in PLACES]
    found = values.select(POSITION, *(pl.col(name).alias(f"__{name}") for name in names))
    joined = rows.with_row_index(POSITION).join(found, on=POSITION, how="left", maintain_order="left")
    return joined.with_columns(pl.coalesce(name, f"__{name}").alias(name) for name in names).select(rows.columns)


def that_count(rows: int, gone: pl.DataFrame) -> pl.Series:
    """Which of so many rows are not at these places."""
    return pl.int_range(rows, eager=True, dtype=pl.UInt32).is_in(gone[POSITION].implode()).not_()


def known_until(artifacts: Artifacts, pieces: Sequence[Piece], *out: pl.DataFrame) -> datetime | None:
    """The latest moment at which a row became known that counts; None if no row has such a moment."""
    gone, found = pl.concat(out), []
    for at, piece in enumerate(pieces):
        latest = piece.known_until
        places = gone.filter(pl.col(PIECE) == at)
        if latest is not None and places.height:
            moments = artifacts.read_table(*piece.beside, columns=[KNOWN_AT])[KNOWN_AT]
            latest = moments.filter(that_count(moments.len(), places)).max()  # type: ignore[assignment]
        found += [] if latest is None else [latest]
    return max(found, default=None)


def _suspects(
    artifacts: Artifacts, source: Source, pieces: Sequence[NamedPiece], as_of: datetime | None, number: int, of: int
) -> pl.DataFrame:
    """The places of rows that may not count: late, without a key, or with a hash of it that another has too.

    What is read first is hashes alone, and then places of those few that are looked for: eight bytes of memory a row.
    Where rows are few they are read once.
    """
    key = [KEY] if source.key else []

    def read_piece(at: int) -> pl.DataFrame:
        may_be_late = _may_be_late(pieces[at].piece, as_of)
        asked = [*key, *([KNOWN_AT] if may_be_late else [])]
        rows = artifacts.read_table(*pieces[at].piece.beside, columns=asked).with_row_index(POSITION)
        late = (pl.col(KNOWN_AT) > as_of).fill_null(False) if may_be_late else pl.lit(False)
        meeting = pl.col(KEY).fill_null(0) if key else pl.col(POSITION)
        return rows.with_columns(late.alias(_LATE)).filter(meeting % of == number)

    def hashes(at: int) -> NDArray[np.uint64]:
        return read(at).filter(~pl.col(_LATE))[KEY].drop_nulls().to_numpy()

    wanted = [at for at, one in enumerate(pieces) if key or _may_be_late(one.piece, as_of)]
    expected = sum(pieces[at].piece.counts.rows_in for at in wanted) // of
    read = cache(read_piece) if expected <= _FEW_ROWS else read_piece
    doubtful = pl.col(_LATE)
    if key:
        twice = _twice(_joined(_each(artifacts, hashes, wanted), expected))
        doubtful |= pl.col(KEY).is_null() | pl.col(KEY).is_in(twice.implode())

    def places(at: int) -> pl.DataFrame:
        return read(at).filter(doubtful).select(pl.lit(at, PLACES[PIECE]).alias(PIECE), POSITION)

    return pl.concat([pl.DataFrame(schema=PLACES), *_each(artifacts, places, wanted)])


def _joined(parts: Iterable[NDArray[np.uint64]], expected: int) -> NDArray[np.uint64]:
    """One after the other, without a second copy where they are about as many as expected."""
    joined, filled = np.empty(expected + expected // 16, np.uint64), 0
    for part in parts:
        if filled + len(part) > len(joined):
            joined.resize(2 * (filled + len(part)), refcheck=False)
        joined[filled : filled + len(part)] = part
        filled += len(part)
    return joined[:filled]


def _twice(hashes: NDArray[np.uint64]) -> pl.Series:
    """Those that more than one row has. Sorts them in their place."""
    hashes.sort()  # with the processor's vectors, in a fifth of what polars takes
    return pl.Series(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]), dtype=pl.UInt64)


def _may_be_late(piece: Piece, as_of: datetime | None) -> bool:
    return as_of is not None and piece.known_until is not None and piece.known_until > as_of


def _refused(artifacts: Artifacts, pieces: Sequence[NamedPiece]) -> pl.DataFrame:
    def read(one: NamedPiece) -> pl.DataFrame:
        return artifacts.read_table(*one.piece.refused).with_columns(pl.lit(one.file).alias(FILE))

    frames = list(_each(artifacts, read, [one for one in pieces if one.piece.counts.quarantined]))
    return pl.concat(frames) if frames else pl.DataFrame(schema=_REFUSED)


def _each(artifacts: Artifacts, read: Callable[[T], Read], of: Sequence[T]) -> Iterator[Read]:
    """What is read of each: at once where to open a table takes longer than to read it, which on a local disk it does
    not, and threads would take turns."""
    if artifacts.is_local:
        yield from map(read, of)
        return
    with ThreadPoolExecutor(_READERS) as threads:
        yield from threads.map(read, of)


def _sum(numbers: pl.Series) -> int:
    return int(numbers.sum() or 0)
