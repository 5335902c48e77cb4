"""The ledger as a stream: new segments in their order, each prediction once."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.monitoring.known_answers import IDENTITY, KnownAnswers, identities
from mlops_ray.predictions.record import UNWATCHED
from mlops_ray.predictions.segments import COLUMNS, FEATURE, Segment, read_segment, segments, together
from mlops_ray.tasks.stored import ANSWER_COLUMNS

# A segment that comes later than this after the newest is not read any more: ids of older ones are not kept.
LATEST = timedelta(days=7)
# Younger segments are not moved to the table: who begins to watch looks back for repetitions, and finds them quickest.
SETTLED = timedelta(hours=1)
# Each batch is a commit, and a file of members: of few features a segment is small, of 100 it is 10 MB at full speed.
BATCH_BYTES = 32 << 20
_BATCH_SEGMENTS = 200
# What makes an answer one (see `identities`), while a batch is read.
_ANSWER = "__answer"

FeaturesOf = Callable[[str], Collection[str]]


@dataclass(frozen=True)
class Batch:
    """Predictions of some segments, in the order in which they were answered, without repetitions.

    rows: request_id, row, time, as_of, version, route, the answer and `feature.<name>` of what the versions want.
    repeated: how many were left out.
    """

    segments: tuple[Segment, ...]
    rows: pl.DataFrame
    repeated: int


class LedgerFeed:
    """Reads one use case's ledger. listed: ids of all segments that `batches` last found."""

    def __init__(self, artifacts: Artifacts, use_case: str):
        self._artifacts, self._use_case = artifacts, use_case
        self._known = KnownAnswers(artifacts, use_case)
        self.listed: frozenset[str] = frozenset()

    def batches(self, newest: datetime | None, done: Iterable[str]) -> list[tuple[Segment, ...]]:
        """The segments that are not `done`, in their order, in batches that fit into memory.

        newest: the moment of the newest segment that was read.
        """
        start = None if newest is None else newest - LATEST
        known = frozenset(done)
        there = segments(self._artifacts, self._use_case, start)
        self.listed = frozenset(segment.id for segment in there)
        found = [s for s in there if s.id not in known and (start is None or s.time >= start)]
        batches: list[list[Segment]] = []
        size = 0
        for segment in sorted(found, key=lambda one: (one.time, one.id)):
            if not batches or size + segment.bytes > BATCH_BYTES or len(batches[-1]) == _BATCH_SEGMENTS:
                batches.append([])
                size = 0
            batches[-1].append(segment)
            size += segment.bytes
        return [tuple(batch) for batch in batches]

    def read(self, batch: Sequence[Segment], done: Collection[str], features_of: FeaturesOf) -> Batch:
        """The predictions in `batch` that are not in the segments that are `done`, without those of `UNWATCHED` routes.

        features_of: the features that are wanted of a version.
        """
        frames = [self._segment(segment, features_of) for segment in batch]
        empty = pl.DataFrame(schema={**COLUMNS, _ANSWER: pl.UInt64()})
        rows = together([empty, *frames]).sort("time", maintain_order=True)
        answers = rows.drop_in_place(_ANSWER)
        fresh = answers.is_first_distinct() & ~pl.Series(self._known.of(batch, answers.to_numpy(), rows["time"], done))
        for segment, frame in zip(batch, frames, strict=True):
            self._known.read(segment, frame[_ANSWER].to_numpy(), frame["time"])
        return Batch(tuple(batch), rows.filter(fresh), int((~fresh).sum()))

    def _segment(self, segment: Segment, features_of: FeaturesOf) -> pl.DataFrame:
        heads = read_segment(segment.url, IDENTITY)
        here = ~heads["route"].is_in(UNWATCHED)
        if not here.any():
            return heads.head(0).with_columns(pl.lit(0, pl.UInt64()).alias(_ANSWER))
        versions = heads.filter(here)["version"].unique().sort()
        features = dict.fromkeys(f"{FEATURE}{name}" for version in versions for name in features_of(version))
        rows = heads.hstack(read_segment(segment.url, (*ANSWER_COLUMNS, *features))).filter(here)
        return rows.with_columns(pl.Series(_ANSWER, identities(rows)))


def moment() -> pl.Expr:
    """The moment that a prediction is about: its features are of then, and nobody knows them later than he answers."""
    return pl.min_horizontal("as_of", "time")


def may_be_moved(newest: datetime | None, done: Iterable[str], now: datetime) -> Callable[[Segment], bool]:
    """Which segments the feed does not look for any more: those it has read, and those too old for it.

    newest, done: of the watch's state; where there is none yet, only what is old on the clock is left alone.
    """
    known, oldest = frozenset(done), (newest or now) - LATEST
    return lambda segment: segment.id in known or segment.time < oldest
