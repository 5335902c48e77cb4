"""Compaction: segments become rows of the ledger's table, each once, whoever is killed when and however many try."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import ConflictError
from mlops_ray.predictions.segments import Segment, delete_segment, read_segment, segments
from mlops_ray.predictions.table import SEGMENT, LedgerTable
from mlops_ray.predictions.tombstones import tombstones

# Of a file's size; its rows take about five times as much memory.
BATCH_BYTES = 256 << 20

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compacted:
    """What one compaction did: the segments it removed, and the rows of theirs that it added to the table."""

    segments: int
    rows: int


def compact(
    artifacts: Artifacts, use_case: str, ready: Callable[[Segment], bool], batch_bytes: int = BATCH_BYTES
) -> Compacted:
    """Move the segments that are `ready` to the table, in batches of one day, oldest first.

    A batch is one commit, and its segments go after it: killed between, the next compaction finds their names in the
    table and removes them. So it does with one that a collector, which was killed itself, writes a second time.
    Raises ConflictError if another compaction or an erasure is at work; what was moved until then is whole.
    """
    table, started = LedgerTable(artifacts, use_case), time.monotonic()
    moved = rows = 0
    for batch in _batches([one for one in segments(artifacts, use_case) if ready(one)], batch_bytes):
        begun = table.begin()
        try:
            # Of a collector that was killed before it had looked at the tombstones.
            erased = tombstones(artifacts, use_case)
            kept = [erased.without(_rows(segment)) for segment in batch]
            rows += table.append(begun, kept, [segment.id for segment in batch])
        except FileNotFoundError as error:
            raise ConflictError(f"Others move segments of {use_case}. Run it again when they are done.") from error
        for segment in batch:
            delete_segment(artifacts, use_case, segment)
        moved += len(batch)
    table.tidy(datetime.now(UTC).date())
    seconds = time.monotonic() - started
    _logger.info("Ledger of %s: %d rows of %d segments compacted in %.1f s", use_case, rows, moved, seconds)
    return Compacted(moved, rows)


def _batches(found: list[Segment], most_bytes: int) -> Iterator[list[Segment]]:
    batch: list[Segment] = []
    for segment in found:
        full = sum(one.bytes for one in batch) + segment.bytes > most_bytes
        if batch and (full or segment.time.date() != batch[0].time.date()):
            yield batch
            batch = []
        batch.append(segment)
    if batch:
        yield batch


def _rows(segment: Segment) -> pl.DataFrame:
    return read_segment(segment.url).with_columns(pl.lit(segment.id).alias(SEGMENT))
