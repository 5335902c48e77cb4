"""Beside: what takes longer to read of a use case than a page may wait, read beside the pages when somebody looks."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import ClassVar, Generic, TypeVar

Found = TypeVar("Found")


class ReadBeside(Generic[Found]):
    """read: asked about one use case after the other, in one thread. again_s: how old what is shown may get before it
    is read again; a page shows it at its next refresh. wait_s: for how long a page waits for what was never read."""

    again_s: ClassVar[float]
    wait_s: ClassVar[float] = 0.02

    def __init__(self, name: str, read: Callable[[str], Found]):
        self._read = read
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._known: dict[str, Found] = {}
        self._read_at: dict[str, float] = {}
        self._work: Future[None] | None = None

    def of(self, use_cases: Iterable[str]) -> dict[str, Found]:
        """Of those that are known by now; who was never read is waited for."""
        asked, now_s = list(use_cases), time.monotonic()
        due = [name for name in asked if now_s - self._read_at.get(name, float("-inf")) >= self.again_s]
        if due and (self._work is None or self._work.done()):
            self._work = self._threads.submit(self._read_all, due)
        if self._work is not None and any(name not in self._known for name in asked):
            with suppress(TimeoutError):
                self._work.result(self.wait_s)
        return {name: self._known[name] for name in asked if name in self._known}

    def _read_all(self, use_cases: Iterable[str]) -> None:
        for name in use_cases:
            self._known[name] = self._read(name)
            self._read_at[name] = time.monotonic()
