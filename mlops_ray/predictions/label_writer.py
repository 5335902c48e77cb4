"""LabelWriter: what a replica keeps labels with, before it confirms them."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.predictions.collect import Collected, collect_files, put_away
from mlops_ray.predictions.ids import microseconds
from mlops_ray.predictions.labels import (
    BY_REQUEST,
    SAID,
    Label,
    LabelKeys,
    Told,
    delete_by_keys,
    frame_by_keys,
    write_by_keys,
    write_by_request,
)
from mlops_ray.predictions.segments import Pause
from mlops_ray.predictions.spool import Spool
from mlops_ray.predictions.tombstones import tombstones
from mlops_ray.predictions.wal import FrameReader
from mlops_ray.use_case import ColumnType
from mlops_ray.use_case.column import DTYPES

# Below the ledger's folder, where no use case can have it: their names begin with a letter.
FOLDER = "_labels"
ROUND_S = 2.0
ROTATE_S = 10.0
ROTATE_BYTES = 16_000_000

_encode = msgspec.msgpack.Encoder().encode


class _Keys(msgspec.Struct, array_like=True, tag=0, frozen=True):
    """What the values of labels by keys are, from here on in the file."""

    event_time: str
    types: tuple[tuple[str, ColumnType], ...]


class _Told(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """The labels of one request. Each: (request id, row, label, known at), or (values of the keys, label, known at).

    label_type: of the labels; without it, as it was not written before, yes or no.
    """

    received_us: int
    by_request: list[tuple[str, int, Told, int]]
    by_keys: list[tuple[list[Any], Told, int]]
    label_type: ColumnType = "boolean"


_decode = msgspec.msgpack.Decoder(_Keys | _Told).decode


class LabelWriter:
    """Appends labels of one use case to a local write-ahead file, and moves closed files to shared storage.

    As the ledger's writer: what `append` returned from outlives this process. Call `start` once and `close` at the
    end. Safe for threads. `rotate_s`: a file is closed after so many seconds at the latest.
    """

    def __init__(
        self,
        settings: Settings,
        use_case: str,
        rotate_s: float | None = None,
        clock: Callable[[], float] = time.time,
    ):
        self._root, self._artifacts = Path(settings.ledger_wal) / FOLDER, Artifacts(settings.artifacts)
        self._spool = Spool(
            "writer of labels", self._root / use_case, self._collect,
            rotate_s or min(ROTATE_S, settings.ledger_rotate_s),
            ROTATE_BYTES, ROUND_S, settings.ledger_sync, clock,
        )  # fmt: skip

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Begin to move files to shared storage, in a thread; see `Spool`."""
        self._spool.start()

    def append(self, labels: Sequence[Label], keys: LabelKeys | None = None, type_: ColumnType = "boolean") -> None:
        """Keep labels, now. keys: how those by keys are stored; needed if there are any. type_: of the labels.

        Raises UnavailableError if the local disk takes no more: then none of them is kept.
        """

        def told(now_us: int) -> bytes:
            by_request, by_keys = [], []
            for one in labels:
                known_us = now_us if one.known_at is None else microseconds(one.known_at)
                if one.request_id is not None:
                    by_request.append((one.request_id, one.row, one.label, known_us))
                else:
                    assert keys is not None
                    assert one.keys is not None
                    by_keys.append((keys.values(one.keys), one.label, known_us))
            return _encode(_Told(now_us, by_request, by_keys, type_))

        described = keys is not None and any(one.keys is not None for one in labels)
        header = _encode(_Keys(keys.event_time, keys.types)) if described and keys is not None else b""
        self._spool.append(told, "keys", header)

    def rotate(self) -> None:
        """Close the current file, so that the next round moves it to shared storage."""
        self._spool.rotate()

    def collect(self) -> Collected:
        """Move everything closed or abandoned on this node to shared storage, now."""
        return self._spool.collect()

    def expect_alive(self) -> None:
        """Raise RuntimeError if the thread that moves files has ended."""
        self._spool.expect_alive()

    def close(self) -> None:
        """Move what there is to shared storage and end the thread. What storage does not take stays on the node."""
        self._spool.close()

    def _collect(self, pause: Pause | None) -> Collected:
        return collect_files(self._root, self._convert)

    def _convert(self, path: Path, content: bytes) -> Collected:
        frames, use_case = FrameReader(content), path.parent.name
        by_request: dict[ColumnType, list[tuple[Any, ...]]] = {}
        by_keys: dict[tuple[_Keys, ColumnType], tuple[list[list[Any]], list[tuple[Any, ...]]]] = {}
        keys, damaged = None, 0
        for frame in frames:
            try:
                found = _decode(frame)
            except msgspec.MsgspecError:
                damaged += 1
                continue
            if isinstance(found, _Keys):
                keys = found
                continue
            if found.by_request:
                told = by_request.setdefault(found.label_type, [])
                told += [(*one, found.received_us) for one in found.by_request]
            if found.by_keys and keys is None:
                damaged += 1
            elif found.by_keys and keys is not None:
                values, said = by_keys.setdefault((keys, found.label_type), ([], []))
                values += [one[0] for one in found.by_keys]
                said += [(*one[1:], found.received_us) for one in found.by_keys]
        for number, (type_, told) in enumerate(by_request.items()):
            labels = _frame(told, {**BY_REQUEST, "label": DTYPES[type_]})
            write_by_request(self._artifacts, use_case, _id(path, number), labels)
        for number, ((schema, type_), (values, said)) in enumerate(by_keys.items()):
            labels = frame_by_keys(schema.types, values, _frame(said, {**SAID, "label": DTYPES[type_]}))
            segment_id = _id(path, number)
            write_by_keys(self._artifacts, use_case, segment_id, schema.event_time, labels)
            self._leave_out_erased(use_case, segment_id, schema.event_time, labels)
        put_away(path, damaged + frames.damaged)
        rows = sum(map(len, by_request.values())) + sum(len(said) for _, said in by_keys.values())
        return Collected(1, rows, damaged + frames.damaged)

    def _leave_out_erased(self, use_case: str, segment_id: str, event_time: str, labels: pl.DataFrame) -> None:
        """Take out of labels that were just written who was erased."""
        rest = tombstones(self._artifacts, use_case).without(labels, "received_at")
        if rest.height < labels.height:
            delete_by_keys(self._artifacts, use_case, segment_id, event_time, labels)
            write_by_keys(self._artifacts, use_case, segment_id, event_time, rest)


def _id(path: Path, number: int) -> str:
    """Of the segment with the labels of one kind in a file."""
    return path.stem if number == 0 else f"{path.stem}-{number}"


def _frame(rows: list[tuple[Any, ...]], schema: dict[str, Any]) -> pl.DataFrame:
    """A table of rows whose moments are microseconds since 1970."""
    raw = {name: pl.Int64() if type_.is_temporal() else type_ for name, type_ in schema.items()}
    return pl.DataFrame(rows, schema=raw, orient="row").cast(pl.Schema(schema))
