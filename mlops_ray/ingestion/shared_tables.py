"""Shared tables: what a snapshot has in common with another lies on the disk once, under a name in each.

The rows of a source are divided into tables of some size, in the order of its files, so that new files at the end leave
all but the last table as it is; what was judged of a file that is not small is one. A table's name says what it is made
of. On a local disk the next snapshot then gets another name for the same file (a hard link): each folder can be read,
and deleted, without a thought of the others. Object stores have no second names; there the store itself makes a copy,
which nobody sends.
"""

from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from mlops_ray.artifacts import Artifacts, ContentDigest, digest_json, digest_ordered
from mlops_ray.ingestion.counting import PIECE, POSITION, NamedPiece
from mlops_ray.ingestion.judged import Piece
from mlops_ray.ingestion.snapshot import SNAPSHOTS, Snapshot, last_digest, read_parts

# In memory. Smaller ones are read slower, larger ones are less often the same.
TABLE_BYTES = 16 << 20
# A piece of this size is a table by itself, which is the judged one under a second name: to write months again with
# each new one took as long as half of what the month itself takes.
OWN_BYTES = 1 << 20

Numbered = Sequence[tuple[int, Piece]]


def tables_of(pieces: Sequence[NamedPiece], out: Sequence[pl.DataFrame], values: pl.DataFrame) -> dict[str, Numbered]:
    """By the name of each table of a source the pieces that it is made of, with their numbers.

    out: the places of rows that do not count; values: what is filled in, by its place. Both are part of what a table is
    named by.
    """
    gone, filled = _by_piece(pl.concat(out)), _by_piece(values)
    groups = enumerate(_groups(pieces))
    return {f"part-{number:05}-{_made_of(group, gone, filled)}.parquet": group for number, group in groups}


def _by_piece(places: pl.DataFrame) -> dict[int, pl.DataFrame]:
    """The rows of each piece that has any, by its number, in the order of their positions."""
    divided = places.sort(POSITION).partition_by(PIECE, as_dict=True, include_key=False)
    return {number: rows for (number,), rows in divided.items()}


def _groups(pieces: Sequence[NamedPiece]) -> Iterator[list[tuple[int, Piece]]]:
    group: list[tuple[int, Piece]] = []
    for number, one in enumerate(pieces):
        is_large = one.piece.size >= OWN_BYTES
        if group and (is_large or sum(piece.size for _, piece in group) >= TABLE_BYTES):
            yield group
            group = []
        group.append((number, one.piece))
        if is_large:
            yield group
            group = []
    if group or not pieces:
        yield group


def _made_of(group: Numbered, gone: Mapping[int, pl.DataFrame], values: Mapping[int, pl.DataFrame]) -> str:
    parts = []
    for number, piece in group:
        places, filled = gone.get(number), values.get(number)
        without = ContentDigest() if places is None else digest_ordered(places.select(POSITION))
        made_of = [piece.key, piece.number, piece.sha256[0], without.hex()]
        parts.append(made_of if filled is None else [*made_of, digest_ordered(filled).hex()])
    return digest_json(parts)[:24]


def others(artifacts: Artifacts, snapshot: Snapshot) -> list[tuple[tuple[str, ...], Mapping[str, Mapping[str, str]]]]:
    """Where tables may lie that this snapshot has, too: in that of the last ingest, and of the same rows in other use
    cases. Each folder with the SHA-256 of its tables by source and name."""
    last = last_digest(artifacts, snapshot.use_case)
    places = [] if last in (None, snapshot.digest) else [(SNAPSHOTS, snapshot.use_case, str(last))]
    cases = [entry.name for entry in artifacts.entries(SNAPSHOTS) if entry.name != snapshot.use_case]
    places += [(SNAPSHOTS, case, snapshot.digest) for case in cases]
    return [(place, parts) for place in places if (parts := read_parts(artifacts, *place[1:]))]


def share(artifacts: Artifacts, place: tuple[str, ...], target: tuple[str, ...], sha256: str) -> bool:
    """Give the file at `place` the name `target`, too, if it still has these bytes. False if that cannot be.

    Whoever changes it after the look erases a person, and then nothing of the snapshot stays (`last_erasure`).
    """
    try:
        if artifacts.sha256(*place) != sha256:
            return False
        artifacts.share(place, target)
    except OSError:  # retired meanwhile
        return False
    return True
