"""LabelWriter: what a replica keeps labels with, before it confirms them."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import UnavailableError
from mlops_ray.predictions.collect import Collected, collect_files, put_away
from mlops_ray.predictions.ids import microseconds
from mlops_ray.predictions.labels import (
    BY_REQUEST,
    SAID,
    Label,
    LabelKeys,
    frame_by_keys,
    write_by_keys,
    write_by_request,
)
from mlops_ray.predictions.wal import FrameReader, WalFile
from mlops_ray.use_case import ColumnType

# Below the ledger's folder, where no use case can have it: their names begin with a letter.
FOLDER = "_labels"
ROUND_S = 2.0
ROTATE_S = 10.0

_logger = logging.getLogger(__name__)
_encode = msgspec.msgpack.Encoder().encode


class _Keys(msgspec.Struct, array_like=True, tag=0, frozen=True):
    """What the values of labels by keys are, from here on in the file."""

    event_time: str
    types: tuple[tuple[str, ColumnType], ...]


class _Told(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """The labels of one request. Each: (request id, row, label, known at), or (values of the keys, label, known at)."""

    received_us: int
    by_request: list[tuple[str, int, bool | None, int]]
    by_keys: list[tuple[list[Any], bool | None, int]]


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
        self._root = Path(settings.ledger_wal) / FOLDER
        self._folder = self._root / use_case
        self._artifacts = Artifacts(settings.artifacts)
        self._rotate_us = int((rotate_s or min(ROTATE_S, settings.ledger_rotate_s)) * 1e6)
        self._clock = clock
        self._file: WalFile | None = None
        self._keys: bytes = b""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._problem: str | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Begin to collect, in a thread."""
        self._thread = threading.Thread(target=self._collect_until_closed, name="labels", daemon=True)
        self._thread.start()

    def append(self, labels: Sequence[Label], keys: LabelKeys | None = None) -> None:
        """Keep labels, now. keys: how those by keys are stored; needed if there are any.

        Raises UnavailableError if the local disk takes no more: then none of them is kept.
        """
        now_us = int(self._clock() * 1e6)
        by_request, by_keys = [], []
        for one in labels:
            known_us = now_us if one.known_at is None else microseconds(one.known_at)
            if one.request_id is not None:
                by_request.append((one.request_id, one.row, one.label, known_us))
            else:
                assert keys is not None
                assert one.keys is not None
                by_keys.append((keys.values(one.keys), one.label, known_us))
        content = _encode(_Told(now_us, by_request, by_keys))
        described = _encode(_Keys(keys.event_time, keys.types)) if by_keys and keys is not None else b""
        with self._lock:
            try:
                self._append(content, described, now_us)
            except OSError as error:
                raise UnavailableError(
                    f"Labels cannot be written to {self._folder}: {error.strerror}. Make room on this disk, or set "
                    f"ledger_wal to another."
                ) from error

    def rotate(self) -> None:
        """Close the current file, so that the next round moves it to shared storage."""
        with self._lock:
            self._close_file()

    def collect(self) -> Collected:
        """Move everything closed or abandoned on this node to shared storage, now."""
        done = collect_files(self._root, self._convert)
        if done.problem is not None and self._problem is None:
            _logger.warning("Labels cannot be moved to %s: %s", self._artifacts.root, done.problem)
        elif done.problem is None and self._problem is not None:
            _logger.info("Labels are moved to %s again (%d files)", self._artifacts.root, done.files)
        self._problem = done.problem
        return done

    def close(self) -> None:
        """Move what there is to shared storage and end the thread. What storage does not take stays on the node."""
        self._stopping.set()
        self.rotate()
        if self._thread is not None:
            self._thread.join()
        self.collect()

    def _append(self, content: bytes, described: bytes, now_us: int) -> None:
        if self._file is not None and not 0 <= now_us - self._file.opened_us < self._rotate_us:
            self._close_file()
        if self._file is None:
            self._file, self._keys = WalFile.create(self._folder, now_us), b""
        if described and described != self._keys:
            self._file.append(described)
            self._keys = described
        self._file.append(content)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _collect_until_closed(self) -> None:
        while not self._stopping.wait(ROUND_S):
            try:
                with self._lock:
                    if self._file is not None and self._clock() * 1e6 - self._file.opened_us >= self._rotate_us:
                        self._close_file()
                self.collect()
            except Exception:  # the thread must live: what it does not move now, it moves later
                _logger.exception("A round of collecting labels failed")

    def _convert(self, path: Path, content: bytes) -> Collected:
        frames, use_case = FrameReader(content), path.parent.name
        by_request: list[tuple[Any, ...]] = []
        by_keys: dict[_Keys, tuple[list[list[Any]], list[tuple[Any, ...]]]] = {}
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
            by_request += [(*one, found.received_us) for one in found.by_request]
            if found.by_keys and keys is None:
                damaged += 1
            elif keys is not None:
                values, said = by_keys.setdefault(keys, ([], []))
                values += [one[0] for one in found.by_keys]
                said += [(*one[1:], found.received_us) for one in found.by_keys]
        if by_request:
            write_by_request(self._artifacts, use_case, path.stem, _frame(by_request, BY_REQUEST))
        for number, (schema, (values, said)) in enumerate(by_keys.items()):
            labels = frame_by_keys(schema.types, values, _frame(said, SAID))
            segment_id = path.stem if number == 0 else f"{path.stem}-{number}"
            write_by_keys(self._artifacts, use_case, segment_id, schema.event_time, labels)
        put_away(path, damaged + frames.damaged)
        rows = len(by_request) + sum(len(said) for _, said in by_keys.values())
        return Collected(1, rows, damaged + frames.damaged)


def _frame(rows: list[tuple[Any, ...]], schema: dict[str, Any]) -> pl.DataFrame:
    """A table of rows whose moments are microseconds since 1970."""
    raw = {name: pl.Int64() if type_.is_temporal() else type_ for name, type_ in schema.items()}
    return pl.DataFrame(rows, schema=raw, orient="row").cast(pl.Schema(schema))
