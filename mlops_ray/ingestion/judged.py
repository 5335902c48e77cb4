"""Judged files: the rows of a raw file with what the contract says of each, kept, so that a file is read once.

They are named by all that they depend on: the file's bytes and format, the source's declaration, the code. What depends
on other files or on `as_of` is not decided here, see `counting`.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self

import polars as pl

from mlops_ray.artifacts import Artifacts, ContentDigest, digest_each_row, digest_json
from mlops_ray.errors import DataError, MlopsRayError
from mlops_ray.ingestion.contract import KNOWN_AT, REASON, REPAIRS, judge_rows
from mlops_ray.ingestion.keys import missing_key
from mlops_ray.ingestion.layout import Layout
from mlops_ray.ingestion.parquet_rows import row_as_json
from mlops_ray.ingestion.quarantine import LINE, LINES, MALFORMED, RAW
from mlops_ray.ingestion.raw_rows import PLACE, RawRows
from mlops_ray.ingestion.readers import read_file
from mlops_ray.ingestion.snapshot import LineCounts, SourceCounts, sum_counts
from mlops_ray.ingestion.sources import SourceFile, file_format
from mlops_ray.use_case import Source
from mlops_ray.use_case.column import DTYPES

FOLDER = "judged"
_MANIFEST = "manifest.json"
PIECE_BYTES = 16 << 20
_GROUP_ROWS = 65_536  # as of two rows with one key no others are read
RETYPED_ROWS = 100  # fewer than these can all be wrong by chance
KEY = "__key"
BESIDE = (REPAIRS, KNOWN_AT, LINE, LINES, RAW, KEY)
"""What is kept beside the accepted rows. `__key` is a hash of the key, null where a column of it is null; it is the
same in all processes with one version of polars."""
_PLACE = {"line": LINE, "lines": LINES, "raw": RAW}
_REFUSED = {LINE: pl.Int64, LINES: pl.Int64, REASON: pl.String, RAW: pl.Binary}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """Some rows of a file, in order: the accepted in one table, as a snapshot has them, and row by row the columns of
    `BESIDE` in another; the refused in a third.

    Accepted are all that the contract accepts, whatever their key, and whenever they became known; counts, digest and
    known_until (the latest moment at which one became known) are of these. size: of them in memory, in bytes.
    sha256: of the bytes of the tables, as they were written.
    """

    key: str
    number: int
    counts: SourceCounts
    digest: ContentDigest
    known_until: datetime | None
    size: int
    sha256: tuple[str, ...] = ()

    @property
    def accepted(self) -> tuple[str, ...]:
        return (FOLDER, self.key, f"accepted-{self.number:05}.parquet")

    @property
    def beside(self) -> tuple[str, ...]:
        return (FOLDER, self.key, f"beside-{self.number:05}.parquet")

    @property
    def refused(self) -> tuple[str, ...]:
        return (FOLDER, self.key, f"refused-{self.number:05}.parquet")

    @property
    def tables(self) -> tuple[tuple[str, ...], ...]:
        return self.accepted, self.beside, self.refused

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"known_until": self.known_until and self.known_until.isoformat()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        known_until = value["known_until"] and datetime.fromisoformat(value["known_until"])
        digest, counts = ContentDigest(**value["digest"]), SourceCounts.from_json(value["counts"])
        given = {"counts": counts, "digest": digest, "known_until": known_until, "sha256": tuple(value["sha256"])}
        return cls(**{**value, **given})


@dataclass(frozen=True)
class JudgedFile:
    """The pieces of a file, at least one; or why there are none: the kind of the error and its sentence.

    more: columns that the file has and the contract does not name. layout: of its records.
    """

    pieces: tuple[Piece, ...] = ()
    error: tuple[str, str] | None = None
    more: tuple[str, ...] = ()
    layout: Layout = field(default_factory=Layout)

    def to_json(self) -> dict[str, Any]:
        pieces = [piece.to_json() for piece in self.pieces]
        return {"pieces": pieces, "error": self.error, "more": self.more, "layout": asdict(self.layout)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        error = value["error"] and tuple(value["error"])
        pieces, layout = tuple(map(Piece.from_json, value["pieces"])), Layout.from_json(value["layout"])
        return cls(pieces, error, tuple(value["more"]), layout)


def key_of(file: SourceFile, contract: str) -> str:
    """The name of what becomes of a file. contract: stands for the source, and for the code that judges its rows."""
    return digest_json([file.sha256, *(file_format(file.name) if file.url else [file.name]), contract])


def kept_file(artifacts: Artifacts, key: str) -> JudgedFile | None:
    """What is kept of a file under its key; None if that is nothing. Of its tables nothing is read: see `is_whole`."""
    try:
        found = artifacts.read_json(FOLDER, key, _MANIFEST)
        if found is None:
            return None
        if found["digest"] == digest_json(found["judged"]):
            return JudgedFile.from_json(found["judged"])
        why = "other content than was written"
    except (ValueError, TypeError, LookupError) as error:
        why = f"no content that makes sense ({error!r})"
    _logger.warning("%s has %s: the file that it is of is judged again.", artifacts.url(FOLDER, key, _MANIFEST), why)
    return None


def drop_judged(artifacts: Artifacts, key: str) -> None:
    """Forget a file, which is judged again the next time."""
    with suppress(FileNotFoundError):  # by somebody else, at the same time
        artifacts.delete(FOLDER, key)


def layout_of(artifacts: Artifacts, key: str) -> Layout | None:
    """How the records of a judged file stand in their bytes; None if nothing is kept under its key."""
    found = kept_file(artifacts, key)
    return None if found is None else found.layout


def is_whole(artifacts: Artifacts, judged: JudgedFile) -> bool:
    """Whether all tables of the pieces are there, with the bytes that were written."""
    for piece in judged.pieces:
        for name, sha256 in zip(piece.tables, piece.sha256, strict=True):
            try:
                found = artifacts.sha256(*name)
            except FileNotFoundError:
                found = "nothing"
            if found != sha256:
                _logger.warning(
                    "%s was written with SHA-256 %s, and there is %s: the file that it is of is judged again.",
                    artifacts.url(*name), sha256, found,
                )  # fmt: skip
                return False
    return True


def judge_file(artifacts: Artifacts, file: SourceFile, source: Source, key: str) -> JudgedFile:
    """Judge the rows of a file, a bounded number of bytes at a time, and keep them; the manifest is written last.

    Of a file that cannot be read, or has not the columns of the contract, nothing is kept.
    """
    pieces, seen = list[Piece](), _Seen()
    try:
        for rows in _pieces(_stretches(file, source, seen)):
            pieces.append(_kept(artifacts, rows, key, len(pieces)))
        _expect_types(pieces, file, source)
    except MlopsRayError as error:
        return JudgedFile(error=(type(error).__name__, str(error)))
    judged = JudgedFile(tuple(pieces), more=tuple(sorted(seen.more)), layout=seen.layout)
    content = judged.to_json()
    manifest = {"judged": content, "digest": digest_json(content), "file": file.sha256}
    artifacts.write_json(manifest, FOLDER, key, _MANIFEST)
    return judged


@dataclass
class _Seen:
    """Of a file that is being read: columns that the contract does not name, and how records stand in it."""

    more: set[str] = field(default_factory=set)
    layout: Layout = field(default_factory=Layout)


@dataclass(frozen=True)
class _Rows:
    """Some rows of a file, in order; and the lines between them that are none."""

    accepted: pl.DataFrame
    refused: pl.DataFrame
    header_lines: int
    blank_lines: int

    def __add__(self, other: "_Rows") -> "_Rows":
        return _Rows(
            pl.concat([self.accepted, other.accepted], how="diagonal"),
            pl.concat([self.refused, other.refused]),
            self.header_lines + other.header_lines,
            self.blank_lines + other.blank_lines,
        )

    def size(self) -> int:
        return int(self.accepted.estimated_size() + self.refused.estimated_size())


def _kept(artifacts: Artifacts, rows: _Rows, key: str, number: int) -> Piece:
    piece = Piece(key, number, _counts(rows), ContentDigest(), None, rows.size())
    accepted = rows.accepted.drop(BESIDE, strict=False)
    beside = [name for name in rows.accepted.columns if name in BESIDE]
    tables = zip(piece.tables, (accepted, rows.accepted.select(beside), rows.refused), strict=True)
    is_plain = set(accepted.dtypes) <= set(DTYPES.values())
    with ThreadPoolExecutor(1) as thread:  # to write takes as long as to hash, and neither holds Python's lock
        write = partial(artifacts.write_table, distinct=(KEY, LINE), group_rows=_GROUP_ROWS)
        written = [thread.submit(write, table, *name) for name, table in tables]
        digest = digest_each_row(accepted) if is_plain else ContentDigest()
        for one in written:
            one.result()
    if not is_plain:  # of what will be read: Parquet has other types than polars, such as of categories
        digest = digest_each_row(artifacts.read_table(*piece.accepted))
    latest = rows.accepted[KNOWN_AT].max() if KNOWN_AT in beside else None
    return replace(
        piece,
        digest=digest,
        known_until=latest.astimezone(UTC) if isinstance(latest, datetime) else None,
        sha256=tuple(artifacts.sha256(*name) for name in piece.tables),
    )


def _counts(rows: _Rows) -> SourceCounts:
    accepted, refused, repairs = rows.accepted, rows.refused, rows.accepted[REPAIRS].drop_nulls()
    return SourceCounts(
        rows_in=accepted.height + refused.height,
        accepted=accepted.height - repairs.len(),
        repaired=repairs.len(),
        quarantined=refused.height,
        not_yet_known=0,
        reasons=count_codes(refused[REASON]),
        repairs=count_codes(repairs),
        lines=LineCounts(
            rows.header_lines, rows.blank_lines, int(accepted[LINES].sum()), int(refused[LINES].sum()), not_yet_known=0
        ),
    )


def count_codes(codes: pl.Series) -> dict[str, int]:
    """How often each code occurs in texts that join several by `;`."""
    return dict(sorted(Counter(code for text in codes for code in text.split(";")).items()))


def _pieces(stretches: Iterator[_Rows]) -> Iterator[_Rows]:
    """The stretches joined to pieces of a bounded size."""
    piece = next(stretches)
    for rows in stretches:
        if piece.size() + rows.size() > PIECE_BYTES:
            yield piece
            piece = rows
        else:
            piece += rows
    yield piece


def _expect_types(pieces: Sequence[Piece], file: SourceFile, source: Source) -> None:
    """Raise DataError naming the columns of which no row has a value of their type: they are gone, or were retyped."""
    counts = sum_counts(piece.counts for piece in pieces)
    rows, bad = counts.rows_in - counts.reasons.get(MALFORMED, 0), counts.reasons
    wrong = [
        f"{column.name} as {column.type}"
        for column in source.columns
        if bad.get(f"{column.name}:not_{column.type}", 0) + bad.get(f"{column.name}:missing", 0) == rows
    ]
    if wrong and rows >= RETYPED_ROWS:
        raise DataError(
            f"File {file.name}: in none of its {rows:,} rows can be read {', '.join(wrong)}. Repair the file; or, if "
            f"the column is gone or has another type now, change the contract."
        )


def _stretches(file: SourceFile, source: Source, seen: _Seen) -> Iterator[_Rows]:
    """seen: gets what is not of the rows."""
    nothing = RawRows(
        pl.DataFrame(schema={column.name: pl.String for column in source.columns}),
        pl.DataFrame(schema=PLACE),
        pl.DataFrame(schema=PLACE),
    )
    yield _judged(nothing, file, source)  # so that a file without rows has columns, too
    for raw in read_file(file, source):
        seen.more |= raw.more
        seen.layout = raw.layout
        yield _judged(raw, file, source)


def _judged(raw: RawRows, file: SourceFile, source: Source) -> _Rows:
    judged = judge_rows(raw.frame, source, f"File {file.name}")
    refused = judged[REASON].is_not_null()
    places = raw.places.rename(_PLACE)
    if places[RAW].null_count():  # of Parquet files, in which a row has no bytes of its own
        no_key = judged.select(missing_key(source).is_not_null()).to_series()
        places = places.with_columns(_as_json(raw.frame, refused | no_key))
    rows = pl.concat([judged, places], how="horizontal")
    malformed = raw.malformed.rename(_PLACE).with_columns(pl.lit(MALFORMED).alias(REASON))
    accepted = rows.filter(~refused).drop(REASON)
    if source.key:
        accepted = accepted.with_columns(_key_hash(source))
    if not source.key:  # else another row with its key may turn out to be right, and this one goes to quarantine
        accepted = accepted.drop(RAW)
    aside = [frame.select(list(_REFUSED)) for frame in (rows.filter(refused), malformed)]
    return _Rows(accepted, pl.concat(aside).cast(pl.Schema(_REFUSED)), raw.header_lines, raw.blank_lines)


def _key_hash(source: Source) -> pl.Expr:
    is_there = pl.all_horizontal(pl.col(source.key).is_not_null())
    return pl.when(is_there).then(pl.struct(source.key).hash()).alias(KEY)


def _as_json(frame: pl.DataFrame, wanted: pl.Series) -> pl.Series:
    """Of each row that is wanted its JSON, null for the others."""
    texts = [None, *(row_as_json(row) for row in frame.filter(wanted).iter_rows(named=True))]
    return pl.Series(RAW, texts, pl.Binary).gather(wanted.cum_sum() * wanted)
