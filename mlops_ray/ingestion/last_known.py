"""Last known values: what `Source.last_known` fills in among the rows that count, and where each value came from."""

from collections.abc import Sequence

import polars as pl

from mlops_ray.artifacts import Artifacts, ContentDigest, digest_each_row
from mlops_ray.ingestion.contract import KNOWN_AT, REPAIRS
from mlops_ray.ingestion.counting import PIECE, PLACES, POSITION, NamedPiece, Partition, that_count, with_values
from mlops_ray.ingestion.judged import Piece
from mlops_ray.ingestion.quarantine import FILE, LINE
from mlops_ray.ingestion.snapshot import LineCounts, SourceCounts
from mlops_ray.use_case import LastKnown, Source

RULE = "last_known"
_VALUE, _SINCE, _DIFFERENT = "__value", "__since", "__different"
_NO_LINES = LineCounts(0, 0, 0, 0, 0)


def find_values(
    artifacts: Artifacts, asked: LastKnown, pieces: Sequence[NamedPiece], out: pl.DataFrame, number: int, of: int
) -> pl.DataFrame:
    """The places of rows that get a value, with file, line, `by`, the value, and since when it is known.

    out: the places of rows that do not count. number, of: only of one partition, which is by a hash of `by`.
    """
    rows = _rows(artifacts, asked, pieces, out)
    rows = rows.filter(pl.struct(asked.by).hash() % of == number) if of > 1 else rows
    has = pl.col(asked.column).is_not_null()
    known = (
        rows.filter(has)
        .group_by(*asked.by, KNOWN_AT)
        .agg(pl.col(asked.column).first().alias(_VALUE), pl.col(asked.column).n_unique().alias(_DIFFERENT))
        .with_columns(pl.col(KNOWN_AT).alias(_SINCE), pl.when(pl.col(_DIFFERENT) == 1).then(_VALUE).alias(_VALUE))
        .sort(KNOWN_AT)
    )
    found = (
        rows.filter(~has)
        .sort(KNOWN_AT)
        .join_asof(
            known,
            on=KNOWN_AT,
            by=list(asked.by),
            strategy="backward",
            tolerance=asked.within,
            allow_exact_matches=False,
            check_sortedness=False,  # both were sorted just now
        )
    )
    places = [*PLACES, FILE, LINE]
    return found.filter(pl.col(_VALUE).is_not_null()).select(*places, *asked.by, _VALUE, _SINCE).sort(*PLACES)


def by_place(source: Source, found: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """What `find_values` found for each repair of the source: a row for each place, a column for each repair, in which
    null is where nothing is filled in."""
    values = pl.DataFrame(schema=PLACES)
    for asked, rows in zip(source.last_known, found, strict=True):
        column = rows.select(*PLACES, pl.col(_VALUE).alias(asked.column))
        values = values.join(column, on=list(PLACES), how="full", coalesce=True)
    return values.sort(*PLACES)


def change_of(artifacts: Artifacts, piece: Piece, values: pl.DataFrame) -> tuple[ContentDigest, int]:
    """By how much the digest of a piece's rows is another with the values, and how many rows had no repair before."""
    before, at = artifacts.read_table(*piece.accepted), values[POSITION]
    after = with_values(before, values)
    repairs = artifacts.read_table(*piece.beside, columns=[REPAIRS])[REPAIRS]
    return digest_each_row(after[at]) - digest_each_row(before[at]), repairs[at].null_count()


def partition_of(
    source: Source, found: Sequence[pl.DataFrame], changes: Sequence[tuple[ContentDigest, int]]
) -> Partition:
    """What the repairs change of the source's counts and digest."""
    fresh = sum(rows for _, rows in changes)
    repairs = {f"{asked.column}:{RULE}": rows.height for asked, rows in zip(source.last_known, found, strict=True)}
    counts = SourceCounts(0, -fresh, fresh, 0, 0, {}, repairs, _NO_LINES)
    return Partition(counts, sum((change for change, _ in changes), ContentDigest()), ContentDigest())


def told(source: Source, found: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The repairs as they are kept: see `Snapshot.repairs`."""
    tables = [
        rows.select(
            FILE,
            LINE,
            pl.lit(asked.column).alias("__column"),
            pl.lit(RULE).alias("__rule"),
            pl.lit(None, pl.String).alias("__old"),
            pl.col(_VALUE).cast(pl.String).alias("__new"),
            _SINCE,
            *asked.by,
        )
        for asked, rows in zip(source.last_known, found, strict=True)
    ]
    return pl.concat(tables, how="diagonal")


def _rows(artifacts: Artifacts, asked: LastKnown, pieces: Sequence[NamedPiece], out: pl.DataFrame) -> pl.DataFrame:
    """The columns that are needed of the rows that count and have all of `by`, with their places."""
    names, frames = [*asked.by, asked.column], []
    for at, one in enumerate(pieces):
        rows = artifacts.read_table(*one.piece.accepted, columns=names).select(names)
        beside = artifacts.read_table(*one.piece.beside, columns=[KNOWN_AT, LINE])
        places = pl.lit(at, PLACES[PIECE]).alias(PIECE), pl.lit(one.file).alias(FILE)
        rows = pl.concat([rows, beside], how="horizontal").with_row_index(POSITION).with_columns(places)
        rows = rows.filter(that_count(rows.height, out.filter(pl.col(PIECE) == at)))
        frames.append(rows.drop_nulls(list(asked.by)))
    return pl.concat(frames, how="diagonal")
