"""The ledger as a stream: new segments in their order, each prediction once."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts
from mlops_ray.predictions.reader import LONGEST_RETRY
from mlops_ray.predictions.segments import (
    COLUMNS,
    FEATURE,
    LONGEST_SEGMENT,
    Segment,
    read_between,
    read_segment,
    segments,
)
from mlops_ray.predictions.table import LedgerTable

# A segment that comes later than this after the newest is not read any more: ids of older ones are not kept.
LATEST = timedelta(days=7)
BATCH_BYTES = 16 << 20
_BATCH_SEGMENTS = 200
_HELD_IDENTITIES = 4_000_000
_IDENTITY = ("request_id", "row", "time", "as_of", "version", "route", "question")

FeaturesOf = Callable[[str], Collection[str]]


@dataclass(frozen=True)
class Batch:
    """Predictions of some segments, in the order in which they were answered, without repetitions.

    rows: request_id, row, time, as_of, version, route, probability and `feature.<name>` of what the versions want.
    repeated: how many were left out.
    """

    segments: tuple[Segment, ...]
    rows: pl.DataFrame
    repeated: int


class LedgerFeed:
    """Reads one use case's ledger. It remembers identities of rows only to save reading them again."""

    def __init__(self, artifacts: Artifacts, use_case: str):
        self._artifacts, self._use_case = artifacts, use_case
        self._identities: OrderedDict[str, NDArray[np.uint64]] = OrderedDict()

    def batches(self, newest: datetime | None, done: Iterable[str]) -> list[tuple[Segment, ...]]:
        """The segments that are not `done`, in their order, in batches that fit into memory.

        newest: the moment of the newest segment that was read.
        """
        start = None if newest is None else newest - LATEST
        known = frozenset(done)
        found = [s for s in segments(self._artifacts, self._use_case, start) if s.id not in known]
        found = [s for s in found if start is None or s.time >= start]
        batches: list[list[Segment]] = []
        size = 0
        for segment in sorted(found, key=lambda one: (one.time, one.id)):
            if not batches or size + segment.bytes > BATCH_BYTES or len(batches[-1]) == _BATCH_SEGMENTS:
                batches.append([])
                size = 0
            batches[-1].append(segment)
            size += segment.bytes
        return [tuple(batch) for batch in batches]

    def read(self, batch: Sequence[Segment], done: Iterable[str], features_of: FeaturesOf) -> Batch:
        """The predictions in `batch` that are not in the segments that are `done`; batch scoring is left out.

        features_of: the features that are wanted of a version.
        """
        frames = [self._segment(segment, features_of) for segment in batch]
        rows = pl.concat([pl.DataFrame(schema=COLUMNS), *frames], how="diagonal_relaxed").sort(
            "time", maintain_order=True
        )
        identity = _identities(rows)
        first = pl.Series(identity).is_first_distinct()
        known = self._known(batch, rows, frozenset(done))
        fresh = first & ~pl.Series(np.isin(identity, known))
        for segment, frame in zip(batch, frames, strict=True):
            self._remember(segment.id, _identities(frame))
        return Batch(tuple(batch), rows.filter(fresh), int((~fresh).sum()))

    def _segment(self, segment: Segment, features_of: FeaturesOf) -> pl.DataFrame:
        heads = read_segment(segment.url, _IDENTITY)
        here = heads["route"] != "batch"
        if not here.any():
            return heads.head(0)
        versions = heads.filter(here)["version"].unique().sort()
        features = dict.fromkeys(f"{FEATURE}{name}" for version in versions for name in features_of(version))
        return heads.hstack(read_segment(segment.url, ("probability", *features))).filter(here)

    def _known(self, batch: Sequence[Segment], rows: pl.DataFrame, done: frozenset[str]) -> NDArray[np.uint64]:
        """Identities in the segments that are done and can hold an earlier answer to the same requests."""
        if rows.is_empty() or not done:
            return np.empty(0, dtype=np.uint64)
        begin = min(segment.time for segment in batch) - LONGEST_RETRY - LONGEST_SEGMENT
        last = rows["time"][-1]
        near = segments(self._artifacts, self._use_case, begin, last + LONGEST_RETRY)
        parts = [self._of_segment(segment) for segment in near if segment.id in done]
        # Only what was read here is ever moved to the table.
        for file in LedgerTable(self._artifacts, self._use_case).files(begin, last + LONGEST_RETRY):
            rows = read_between(file.url, "time", begin, last + LONGEST_RETRY, _IDENTITY.__contains__)
            parts.append(_identities(rows.filter(pl.col("route") != "batch")))
        return np.concatenate([np.empty(0, dtype=np.uint64), *parts])

    def _of_segment(self, segment: Segment) -> NDArray[np.uint64]:
        found = self._identities.get(segment.id)
        if found is None:
            rows = read_segment(segment.url, _IDENTITY)
            found = _identities(rows.filter(rows["route"] != "batch"))
            self._remember(segment.id, found)
        self._identities.move_to_end(segment.id)
        return found

    def _remember(self, segment_id: str, identities: NDArray[np.uint64]) -> None:
        self._identities[segment_id] = identities
        while sum(map(len, self._identities.values())) > _HELD_IDENTITIES and len(self._identities) > 1:
            self._identities.popitem(last=False)


def _identities(rows: pl.DataFrame) -> NDArray[np.uint64]:
    """64 bits of what makes an answer one: request, row, question, and the version if it was asked in shadow."""
    shadow = pl.when(pl.col("route") == "shadow").then("version").alias("shadow")
    question = pl.col("question") if "question" in rows.columns else pl.lit(None, pl.Int64).alias("question")
    return rows.select("request_id", "row", question, shadow).hash_rows().to_numpy()


def moment() -> pl.Expr:
    """The moment that a prediction is about: its features are of then, and nobody knows them later than he answers."""
    return pl.min_horizontal("as_of", "time")


def may_be_moved(newest: datetime | None, done: Iterable[str], now: datetime) -> Callable[[Segment], bool]:
    """Which segments the feed does not look for any more: those it has read, and those too old for it.

    newest, done: of the watch's state; where there is none yet, only what is old on the clock is left alone.
    """
    known, oldest = frozenset(done), (newest or now) - LATEST
    return lambda segment: segment.id in known or segment.time < oldest
