"""Blocks: a stretch of a training set, of which one block of rows is read at a time; small ones are one, in memory."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Protocol, Self

import polars as pl

from mlops_ray.errors import ConfigurationError, DataError
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.features.slices import SLICE_ROWS
from mlops_ray.features.spans import borders, read_between, spans
from mlops_ray.features.training_set import TrainingSet

# Of a value while its block is read, sorted and encoded.
_BYTES_OF_VALUE = 24
# A process takes so much before it has read anything; and with less than so many rows a block is not worth reading.
_OF_PROCESS_BYTES, _FEWEST_ROWS = 512 << 20, 2_048
_END = datetime(9999, 12, 31, tzinfo=UTC)


class Block(Protocol):
    """Rows in the order of prediction time. rows: how many."""

    @property
    def rows(self) -> int: ...

    def read(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """All columns, or those named. Raises DataError if they are gone, or are others than they were."""
        ...

    def part(self, start: int, stop: int) -> "Block":
        """The rows from place `start` to `stop` in it."""
        ...


@dataclass(frozen=True)
class Held:
    """A block in memory."""

    frame: pl.DataFrame

    @property
    def rows(self) -> int:
        return self.frame.height

    def read(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        return self.frame if columns is None else self.frame.select(columns)

    def part(self, start: int, stop: int) -> "Held":
        return Held(self.frame[start:stop])


@dataclass(frozen=True)
class Stored:
    """A block in a file: the rows with moments in [since, before) whose label was known at `known_by`, None for all.

    there: how many these are; of them the rows from `start` to `stop` are the block's.
    """

    url: str
    since: datetime | None
    before: datetime | None
    known_by: datetime | None
    there: int = 0
    start: int = 0
    stop: int = 0

    @property
    def rows(self) -> int:
        return self.stop - self.start

    def read(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        frame = self.all(columns)
        if frame.height != self.there:
            raise DataError(
                f"The training set's file {self.url} has {frame.height:,} rows from {self.since} to {self.before}, and "
                f"had {self.there:,} when the fit began. Run the pipeline again from training_set."
            )
        return frame[self.start : self.stop]

    def part(self, start: int, stop: int) -> "Stored":
        return replace(self, start=self.start + start, stop=self.start + stop)

    def all(self, columns: Sequence[str] | None) -> pl.DataFrame:
        """The rows as they are in the file now."""
        asked = columns and list(dict.fromkeys([*columns, PREDICTION_TIME, LABEL_KNOWN_AT]))
        try:
            frame = read_between([self.url], PREDICTION_TIME, self.since, self.before, asked)
        except OSError as error:
            raise DataError(
                f"The training set's file {self.url} cannot be read: {error}. Put it back, or run the pipeline again "
                f"from training_set; what is fitted goes on where it was."
            ) from error
        if self.known_by is not None:
            frame = frame.filter(pl.col(LABEL_KNOWN_AT) <= self.known_by)
        frame = frame.sort(PREDICTION_TIME, maintain_order=True)
        return frame if columns is None else frame.select(columns)


@dataclass(frozen=True)
class Rows:
    """Blocks one after the other, in the order of prediction time; no moment lies in two of them."""

    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Self:
        """Rows in memory, in the order of prediction time."""
        return cls((Held(frame),))

    def __len__(self) -> int:
        return sum(block.rows for block in self.blocks)

    def __getitem__(self, rows: slice) -> Self:
        """The rows from one place to another, without a step."""
        start, stop, _ = rows.indices(len(self))
        found, passed = list[Block](), 0
        for block in self.blocks:
            first, last = max(start - passed, 0), min(stop - passed, block.rows)
            if first < last:
                found.append(block if last - first == block.rows else block.part(first, last))
            passed += block.rows
        return replace(self, blocks=tuple(found))

    def frames(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """The rows a block at a time."""
        yield from (block.read(columns) for block in self.blocks)

    def whole(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """All at once: of many rows only of few columns."""
        found: pl.DataFrame = pl.concat(self.frames(columns), rechunk=False)
        return found

    def some(self, limit: int | None, seed: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """About so many of the rows, chosen by a hash of their places, evenly in time; all where there are no more."""
        if limit is None or len(self) <= limit:
            return self.whole(columns)
        chosen, passed = list[pl.DataFrame](), 0
        for frame in self.frames(columns):
            place = pl.int_range(passed, passed + frame.height, dtype=pl.UInt64)
            chosen.append(frame.filter(place.hash(seed) < pl.lit(int(limit / len(self) * 2**64), pl.UInt64)))
            passed += frame.height
        return pl.concat(chosen)


def stored_rows(
    training_set: TrainingSet,
    since: datetime | None,
    before: datetime | None,
    known_by: datetime | None,
    memory_bytes: int,
    expected: bool = True,
) -> Rows:
    """The rows with moments in [since, before) in blocks of which one fits `memory_bytes` while it is read.

    known_by: rows whose label was not known then are left out; None: none is. Raises ConfigurationError where even a
    few rows are too much, and DataError where there is none though some are expected.
    """
    limit = block_rows(len(training_set.features), memory_bytes)
    found = list[Stored]()
    for block in _divided(training_set, since, before, known_by, limit):
        there = block.all([LABEL]).height
        if there > 2 * max(limit, _FEWEST_ROWS):
            raise ConfigurationError(
                f"{there:,} rows of {block.url} have moments of prediction from {block.since} to {block.before}, and "
                f"{memory_bytes / 1e9:.2g} GB of memory are enough for {limit:,} rows at a time. Give the step "
                f"evaluate more."
            )
        if there:
            found.append(replace(block, there=there, stop=there))
    if expected and not found:
        raise DataError(
            f"The training set has no row from {since or 'its beginning'} to {before or 'its end'} with a label known "
            f"then. Give more data, another as_of or a shorter split."
        )
    return Rows(tuple(found))


def block_rows(features: int, memory_bytes: int) -> int:
    """How many rows of so many features are read at a time. Raises ConfigurationError where even few are too many."""
    row_bytes = (features + 8) * _BYTES_OF_VALUE
    limit = min(SLICE_ROWS, max(0, memory_bytes - _OF_PROCESS_BYTES) // (2 * row_bytes))
    if limit < _FEWEST_ROWS:
        needed = _OF_PROCESS_BYTES + 2 * row_bytes * _FEWEST_ROWS
        raise ConfigurationError(
            f"{memory_bytes / 1e6:.0f} MB of memory are not enough for one batch of {_FEWEST_ROWS:,} rows with "
            f"{features} features. Give the step evaluate at least {math.ceil(needed / 1e6)} MB (mlops-ray cost apply "
            f"--undo takes back what is declared), or use fewer features."
        )
    return limit


def _divided(
    training_set: TrainingSet,
    since: datetime | None,
    before: datetime | None,
    known_by: datetime | None,
    limit: int,
) -> Iterator[Stored]:
    """Blocks of at most about `limit` rows, each in one file."""
    files: list[tuple[str, datetime | None]] = [(part.url, part.first) for part in training_set.parts]
    files = files or [(training_set.url, None)]
    for (url, first), (_, following) in pairwise([*files, ("", None)]):
        first = first if url != files[0][0] else None  # as rows without a moment come before all others
        start = max(filter(None, (since, first)), default=None)
        end = min(filter(None, (before, following)), default=None)
        if start is not None and start >= (end or _END):
            continue
        try:
            inside = spans([url], PREDICTION_TIME)
        except OSError as error:
            raise DataError(
                f"The training set's file {url} is gone ({error}). Put it back, or run the pipeline again from "
                f"training_set."
            ) from error
        count = math.ceil(sum(span.rows for span in inside) / limit)
        edges = [one for one in borders(inside, count) if (start is None or one > start) and one < (end or _END)]
        yield from (Stored(url, *pair, known_by) for pair in pairwise([start, *edges, end]))
