"""Compaction of labels: the many small files of a day become few, and say the same."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.predictions.labels import Labels, LabelSegment, delete_labels, rewrite_labels
from mlops_ray.predictions.segments import read_segment
from mlops_ray.predictions.tombstones import tombstones

LEAST_FILES = 16  # of a part; fewer are as quickly read as one
SMALL_BYTES, MERGED_BYTES = 4 << 20, 32 << 20  # in memory about ten times as much


def compact_labels(artifacts: Artifacts, use_case: str) -> int:
    """Merge small segments of the same part that have the same columns; returns how many went.

    Killed between writing and deleting, it leaves labels that lie there twice, which count once, and the next
    compaction makes one of them. Only one may be at work, and no erasure (see `erasure.upkeep_lease`).
    """
    merged = 0
    for batch in _batches(Labels(artifacts, use_case).segments()):
        tables: defaultdict[tuple[tuple[str, str], ...], list[tuple[LabelSegment, pl.DataFrame]]] = defaultdict(list)
        for segment in batch:
            rows = read_segment(segment.url)
            tables[tuple((name, str(type_)) for name, type_ in rows.schema.items())].append((segment, rows))
        for found in tables.values():
            if len(found) > 1:
                _merge(artifacts, use_case, [segment for segment, _ in found], [rows for _, rows in found])
                merged += len(found)
    return merged


def _merge(artifacts: Artifacts, use_case: str, found: Sequence[LabelSegment], rows: Sequence[pl.DataFrame]) -> None:
    ids = sorted(segment.id for segment in found)
    name = f"merged-{hashlib.sha256(' '.join(ids).encode()).hexdigest()[:32]}"
    whole = LabelSegment(found[0].part, name, "")
    # Of a writer that was killed before it had looked at the tombstones.
    kept = tombstones(artifacts, use_case).without(pl.concat(rows), "received_at")
    rewrite_labels(artifacts, use_case, whole, kept.unique(maintain_order=True))
    for segment in found:
        delete_labels(artifacts, use_case, segment)


def _batches(found: Sequence[LabelSegment]) -> Iterator[list[LabelSegment]]:
    """Of each part with many small segments these, as many at a time as make a file. Imported files stay: imported
    again, each replaces itself."""
    parts: defaultdict[str, list[LabelSegment]] = defaultdict(list)
    for segment in found:
        if segment.bytes < SMALL_BYTES and not segment.id.startswith("file-"):
            parts[segment.part].append(segment)
    for small in parts.values():
        batch: list[LabelSegment] = []
        for segment in small if len(small) >= LEAST_FILES else ():
            batch.append(segment)
            if sum(one.bytes for one in batch) >= MERGED_BYTES:
                yield batch
                batch = []
        yield batch
