"""Spool: write-ahead files of one process for one use case, and the thread that moves them to shared storage."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from mlops_ray.errors import UnavailableError
from mlops_ray.predictions.collect import Collected, Lag, lag_of
from mlops_ray.predictions.segments import Pause
from mlops_ray.predictions.wal import WalFile

_PAUSE = 4.0  # times as long as it works does the conversion pause: requests wait for Python's lock meanwhile

_logger = logging.getLogger(__name__)


class Spool:
    """Appends frames to a file that is closed after `rotate_s` seconds or `rotate_bytes`, and has closed files
    collected each `round_s` seconds. Safe for threads.

    what: how messages call what is kept. collect: one round; see `collect.collect_files`. sync: whether a frame is on
    the disk itself, not only with the operating system, when `append` returns.
    """

    def __init__(
        self,
        what: str,
        folder: Path,
        collect: Callable[[Pause | None], Collected],
        rotate_s: float,
        rotate_bytes: int,
        round_s: float,
        sync: bool,
        clock: Callable[[], float] = time.time,
    ):
        self._what, self._folder, self._collect = what, folder, collect
        self._rotate_us, self._rotate_bytes = int(rotate_s * 1e6), rotate_bytes
        self._round_s, self._sync, self._clock = min(round_s, rotate_s), sync, clock
        self._file: WalFile | None = None
        self._opened_s = 0.0
        self._lock, self._round = threading.Lock(), threading.Lock()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._problem: str | None = None

    def start(self) -> None:
        """Begin to collect, in a thread: first what others left behind, then our own files as they are closed."""
        self._thread = threading.Thread(target=self._collect_until_closed, name=self._what, daemon=True)
        self._thread.start()

    def append(self, content: Callable[[int], bytes], topic: str = "", header: bytes = b"") -> None:
        """Keep a frame, now; `content` makes it from the moment in microseconds, in the order of the file.

        header: the frame by which those of a topic are read, written before the first of them in a file and when it
        changes. Raises UnavailableError if the local disk takes no more: then neither is kept.
        """
        with self._lock:
            now_us = int(self._clock() * 1e6)
            frame = content(now_us)
            try:
                file = self._current(now_us)
                described = not header or file.headers.get(topic) == header
                file.append(*([frame] if described else [header, frame]))
                if self._sync:
                    file.sync()
                if not described:
                    file.headers[topic] = header
            except OSError as error:
                raise UnavailableError(
                    f"The {self._what} cannot write to {self._folder}: {error.strerror}. Make room on this disk, or "
                    f"set ledger_wal to another."
                ) from error
            if file.size >= self._rotate_bytes:
                self._close_file()
                self._wake.set()

    def rotate(self) -> None:
        """Close the current file, so that the next round moves it to shared storage."""
        with self._lock:
            self._close_file()
        self._wake.set()

    def collect(self, pause: Pause | None = None) -> Collected:
        """One round, after one that is under way. Why files had to stay is logged once, and that they go again."""
        with self._round:
            done = self._collect(pause)
        if done.problem is not None and self._problem is None:
            _logger.warning("Moving the %s to shared storage fails: %s", self._what, done.problem)
        elif done.problem is None and self._problem is not None:
            _logger.info("Moving the %s to shared storage works again (%d files)", self._what, done.files)
        self._problem = done.problem
        return done

    def lag(self) -> Lag:
        """What of this use case lies on this node and not yet on shared storage."""
        return lag_of(self._folder, datetime.fromtimestamp(self._clock(), UTC))

    def expect_alive(self) -> None:
        """Raise RuntimeError if the thread has ended, so that Serve replaces the replica: nothing would be moved."""
        if self._thread is not None and not self._thread.is_alive() and not self._stopping.is_set():
            raise RuntimeError(f"The thread {self._what!r} of this replica has ended.")

    def close(self) -> None:
        """Move what there is to shared storage and end the thread. What storage does not take stays on the node."""
        self._stopping.set()
        self.rotate()
        if self._thread is not None:
            self._thread.join()
        self.collect()

    def _current(self, now_us: int) -> WalFile:
        """The file for a record of this moment; a new one when the time is up, or when the clock was set back."""
        if self._file is not None and not 0 <= now_us - self._file.opened_us < self._rotate_us:
            self._close_file()
            self._wake.set()
        if self._file is None:
            self._file, self._opened_s = WalFile.create(self._folder, now_us), time.monotonic()
        return self._file

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _collect_until_closed(self) -> None:
        while not self._stopping.is_set():
            try:
                self._close_if_due()
                self.collect(lambda worked_s: self._stopping.wait(worked_s * _PAUSE))
            except Exception:  # the thread must live: what it does not move now, it moves later
                _logger.exception("A round of the %s failed", self._what)
            self._wake.wait(self._round_s)
            self._wake.clear()

    def _close_if_due(self) -> None:
        """By either clock: where the moments are set back, what was kept before would wait until they are made up."""
        with self._lock:
            if self._file is None:
                return
            open_us = max(self._clock() * 1e6 - self._file.opened_us, (time.monotonic() - self._opened_s) * 1e6)
            if open_us >= self._rotate_us:
                self._close_file()
