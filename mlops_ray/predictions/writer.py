"""LedgerWriter: what a replica appends its answers to, before it gives them."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import UnavailableError
from mlops_ray.predictions.collect import Collected, Lag, collect_leftovers, lag_of
from mlops_ray.predictions.ids import microseconds
from mlops_ray.predictions.personal import PersonalHash, load_secret
from mlops_ray.predictions.record import Described, Recorder, Route, has_personal
from mlops_ray.predictions.segments import Pause
from mlops_ray.predictions.wal import WalFile

ROTATE_BYTES = 16_000_000
ROUND_S = 5.0
_PAUSE = 4.0  # times as long as it works does the conversion pause: requests wait for Python's lock meanwhile

_logger = logging.getLogger(__name__)
_encode = msgspec.msgpack.Encoder().encode


class LedgerWriter:
    """Appends records of one use case to a local write-ahead file, and moves closed files to shared storage.

    Call `start` once, then `add_version` for each version before its first `append`; `close` at the end. Safe for
    threads. What `append` returned from outlives this process, however it ends; what a node had not yet moved is lost
    with the node (at most one rotation, unless storage was away).
    """

    def __init__(
        self,
        settings: Settings,
        use_case: str,
        rotate_bytes: int = ROTATE_BYTES,
        clock: Callable[[], float] = time.time,
    ):
        self._settings = settings
        self._root = Path(settings.ledger_wal)
        self._folder = self._root / use_case
        self._artifacts = Artifacts(settings.artifacts)
        self._rotate_us, self._rotate_bytes = int(settings.ledger_rotate_s * 1e6), rotate_bytes
        self._clock = clock
        self._recorders: dict[str, tuple[Recorder, bytes]] = {}
        self._file: WalFile | None = None
        self._lock = threading.Lock()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._problem: str | None = None
        self.damaged_frames = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Begin to collect, in a thread: first what others left behind, then our own files as they are closed."""
        self._thread = threading.Thread(target=self._collect_until_closed, name="ledger", daemon=True)
        self._thread.start()

    def add_version(self, version: str, model: Described) -> None:
        """Learn what a version's records hold. Raises ConfigurationError if a column needs a secret that is not there.

        Given again, it replaces what was known.
        """
        personal = PersonalHash(load_secret(self._settings.ledger_secret_file)) if has_personal(model) else None
        recorder = Recorder(version, model, personal)
        with self._lock:
            self._recorders[version] = recorder, _encode(recorder.schema)
            if self._file is not None:
                self._file.versions.discard(version)

    def append(
        self,
        version: str,
        *,
        request_id: str,
        route: Route,
        keys: Sequence[Mapping[str, Any]] | None,
        numbers: NDArray[np.float32],
        categories: NDArray[np.object_],
        probability: NDArray[np.float32],
        latency_s: float,
        as_of: datetime | None = None,
        question: bytes = b"",
        caller: str = "",
    ) -> None:
        """Record an answer, now. When this returns, the record outlives the process.

        keys: the request's columns for each row; None where the caller sent features. numbers: float32 [rows, n] (NaN
        is missing); categories: texts [rows, m] ("" is missing), in the order of the model's features of that kind.
        probability: float32 [rows]. as_of: the moment the features were read for; None: now.
        question: a digest of what was asked: the same id and question again is a repetition, which counts once. caller:
        the principal's id.
        Raises KeyError for a version that was not added, and UnavailableError if the local disk takes no more: then
        the record is not kept.
        """
        recorder, schema = self._recorders[version]
        with self._lock:
            now_us = int(self._clock() * 1e6)
            as_of_us = now_us if as_of is None else microseconds(as_of)
            record = recorder.record(
                request_id, now_us, as_of_us, route, latency_s, keys, numbers, categories, probability, question, caller
            )
            content = _encode(record)
            try:
                file = self._current(now_us)
                if version not in file.versions:
                    file.append(schema)
                    file.versions.add(version)
                file.append(content)
            except OSError as error:
                raise UnavailableError(
                    f"The ledger cannot write to {self._folder}: {error.strerror}. Make room on this disk, or set "
                    f"ledger_wal to another."
                ) from error
            if file.size >= self._rotate_bytes:
                self._close_file()
                self._wake.set()

    def rotate(self) -> None:
        """Close the current file, so that the next round moves it to shared storage."""
        with self._lock:
            self._close_file()
        self._wake.set()

    def collect_leftovers(self, pause: Pause | None = None) -> Collected:
        """Move everything closed or abandoned on this node to shared storage, now; see `collect.collect_leftovers`."""
        done = collect_leftovers(self._root, self._artifacts, pause)
        self.damaged_frames += done.damaged_frames
        if done.problem is not None and self._problem is None:
            _logger.warning("The ledger cannot be moved to %s: %s", self._artifacts.root, done.problem)
        elif done.problem is None and self._problem is not None:
            _logger.info("The ledger is moved to %s again (%d files)", self._artifacts.root, done.files)
        self._problem = done.problem
        return done

    def lag(self) -> Lag:
        """What of this use case lies on this node and not yet on shared storage."""
        return lag_of(self._folder, datetime.fromtimestamp(self._clock(), UTC))

    def close(self) -> None:
        """Move what there is to shared storage and end the thread. What storage does not take stays on the node."""
        self._stopping.set()
        self.rotate()
        if self._thread is not None:
            self._thread.join()
        self.collect_leftovers()

    def _current(self, now_us: int) -> WalFile:
        """The file for a record of this moment; a new one when the time is up, or when the clock was set back."""
        if self._file is not None and not 0 <= now_us - self._file.opened_us < self._rotate_us:
            self._close_file()
            self._wake.set()
        if self._file is None:
            self._file = WalFile.create(self._folder, now_us)
        return self._file

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _collect_until_closed(self) -> None:
        while not self._stopping.is_set():
            try:
                self._close_if_due()
                self.collect_leftovers(lambda worked_s: self._stopping.wait(worked_s * _PAUSE))
            except Exception:  # the thread must live: what it does not move now, it moves later
                _logger.exception("A round of the ledger failed")
            self._wake.wait(min(ROUND_S, self._rotate_us / 1e6))
            self._wake.clear()

    def _close_if_due(self) -> None:
        with self._lock:
            if self._file is not None and self._clock() * 1e6 - self._file.opened_us >= self._rotate_us:
                self._close_file()
