"""LedgerWriter: what a replica appends its answers to, before it gives them."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.governance.replicas import Unmoved
from mlops_ray.predictions.collect import Collected, Lag, collect_leftovers
from mlops_ray.predictions.disk import disk_of
from mlops_ray.predictions.ids import microseconds
from mlops_ray.predictions.personal import personal_hash
from mlops_ray.predictions.record import Described, Recorder, Route, has_personal
from mlops_ray.predictions.segments import Pause
from mlops_ray.predictions.spool import Spool

ROTATE_BYTES = 16_000_000
ROUND_S = 5.0

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
        self._root, self._artifacts = Path(settings.ledger_wal), Artifacts(settings.artifacts)
        self._recorders: dict[str, tuple[Recorder, bytes]] = {}
        self._spool = Spool(
            "ledger", self._root / use_case, self._collect, settings.ledger_rotate_s, rotate_bytes, ROUND_S,
            settings.ledger_sync, clock,
        )  # fmt: skip
        self.damaged_frames = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Begin to move files to shared storage, in a thread; see `Spool`."""
        self._spool.start()

    def add_version(self, version: str, model: Described) -> None:
        """Learn what a version's records hold. Raises ConfigurationError if a column needs a secret that is not there.

        Given again, it replaces what was known.
        """
        recorder = Recorder(version, model, personal_hash(self._settings) if has_personal(model) else None)
        self._recorders[version] = recorder, _encode(recorder.schema)

    def append(
        self,
        version: str,
        *,
        request_id: str,
        route: Route,
        keys: Sequence[Mapping[str, Any]] | None,
        numbers: NDArray[np.float32],
        categories: NDArray[np.object_],
        answer: NDArray[np.float32],
        latency_s: float,
        as_of: datetime | None = None,
        question: bytes = b"",
        caller: str = "",
        reasons: Sequence[Mapping[str, Any] | None] = (),
    ) -> None:
        """Record an answer, now. When this returns, the record outlives the process.

        keys: the request's columns for each row; None where the caller sent features. numbers: float32 [rows, n] (NaN
        is missing); categories: texts [rows, m] ("" is missing), in the order of the model's features of that kind.
        answer: float32 [rows], or [rows, width] where the width of the version's task is not 1. as_of: the moment the
        features were read for; None: now.
        question: a digest of what was asked: the same id and question again is a repetition, which counts once. caller:
        the principal's id. reasons: of each row, None where there are none; empty where none were asked for.
        Raises KeyError for a version that was not added, and UnavailableError if the local disk takes no more: then
        the record is not kept.
        """
        recorder, schema = self._recorders[version]

        def record(now_us: int) -> bytes:
            as_of_us = now_us if as_of is None else microseconds(as_of)
            return _encode(
                recorder.record(
                    request_id, now_us, as_of_us, route, latency_s, keys, numbers, categories, answer, question,
                    caller, reasons,
                )
            )  # fmt: skip

        self._spool.append(record, version, schema)

    def rotate(self) -> None:
        """Close the current file, so that the next round moves it to shared storage."""
        self._spool.rotate()

    def collect_leftovers(self) -> Collected:
        """Move everything closed or abandoned on this node to shared storage, now; see `collect.collect_leftovers`."""
        return self._spool.collect()

    def lag(self) -> Lag:
        """What of this use case lies on this node and not yet on shared storage."""
        return self._spool.lag()

    def unmoved(self) -> Unmoved:
        """Which of it would be lost with this node, for others to know."""
        try:
            return Unmoved(disk_of(self._root), self.lag().oldest_age_s)
        except OSError:  # a disk that cannot be written can hold nothing new either
            return Unmoved()

    def expect_alive(self) -> None:
        """Raise RuntimeError if the thread that moves files has ended."""
        self._spool.expect_alive()

    def close(self) -> None:
        """Move what there is to shared storage and end the thread. What storage does not take stays on the node."""
        self._spool.close()

    def _collect(self, pause: Pause | None) -> Collected:
        done = collect_leftovers(self._root, self._artifacts, pause)
        self.damaged_frames += done.damaged_frames
        return done
