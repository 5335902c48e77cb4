"""Windows that labels can still change, but nobody looks at: in files of 64, which a commit names.

With labels that come after months the watch knows a hundred thousand windows. It keeps the last ones at hand, and of
the others what tells which file has those that a label is about. They lie at `monitoring/<use case>/windows/<name>`.
"""

import zlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

import msgspec

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import DataError
from mlops_ray.monitoring.earlier_records import decode
from mlops_ray.monitoring.version_watch import Stream, VersionWatch
from mlops_ray.monitoring.window_record import WindowBlock, WindowRecord
from mlops_ray.predictions.ids import uuid7_at

FOLDER = "windows"
# So many are at hand: what a person is shown, and most labels are about.
KEPT_WINDOWS = 60
BLOCK_WINDOWS = 64
_FORMAT = 1


class WindowArchive:
    """The files of one use case."""

    def __init__(self, artifacts: Artifacts, use_case: str):
        self._artifacts, self._path = artifacts, ("monitoring", use_case, FOLDER)

    def put_away(self, watch: VersionWatch) -> VersionWatch:
        """The watch with no more than a few dozen windows of a kind at hand; the older ones are in files."""
        for name, stream in watch.streams.items():
            blocks, records = list(stream.archive), stream.records
            while len(records) >= KEPT_WINDOWS + BLOCK_WINDOWS:
                blocks.append(self._write(records[:BLOCK_WINDOWS]))
                records = records[BLOCK_WINDOWS:]
            if len(records) < len(stream.records):
                kept = replace(stream, records=records, archive=tuple(sorted(blocks, key=lambda one: one.first)))
                watch = replace(watch, streams={**watch.streams, name: kept})
        return watch

    def taken_out(self, stream: Stream, numbers: Iterable[int], most: int) -> Stream:
        """The stream with the windows of these numbers at hand, and those of their files; of at most so many files."""
        wanted = set(numbers)
        blocks = [one for one in stream.archive if any(one.first <= number <= one.last for number in wanted)][:most]
        records = [record for block in blocks for record in self.read(block)]
        rest = tuple(block for block in stream.archive if block not in blocks)
        together = tuple(sorted((*records, *stream.records), key=lambda record: record.number))
        return replace(stream, records=together, archive=rest)

    def read(self, block: WindowBlock) -> tuple[WindowRecord, ...]:
        content = self._artifacts.read_bytes(*self._path, block.name)
        try:
            format, records = msgspec.msgpack.decode(zlib.decompress(content), type=tuple[int, bytes])
            if format != _FORMAT:
                raise DataError(f"The windows {block.name} have format {format}; this code reads {_FORMAT}.")
            found: tuple[WindowRecord, ...] = decode(records, tuple[WindowRecord, ...])
            return found
        except (msgspec.MsgspecError, zlib.error) as error:
            raise DataError(f"{block.name}: {len(content)} bytes are not windows of this code: {error}") from error

    def remove(self, name: str) -> None:
        self._artifacts.delete(*self._path, name)

    def _write(self, records: tuple[WindowRecord, ...]) -> WindowBlock:
        name = uuid7_at(int(datetime.now(UTC).timestamp() * 1000))
        content = zlib.compress(msgspec.msgpack.encode((_FORMAT, msgspec.msgpack.encode(records))), 1)
        self._artifacts.write_bytes(content, *self._path, name)
        young = [record.end for record in records if record.quality and not record.grown_up]
        return WindowBlock(
            name, records[0].number, records[-1].number,
            min(record.start for record in records), max(record.answered_to for record in records),
            (min(record.panes[0] for record in records), max(record.panes[1] for record in records)),
            min(young, default=None),
        )  # fmt: skip
