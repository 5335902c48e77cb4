"""Deadlines: the end of what takes too long."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

LOOK_EVERY_S = 0.05

_T = TypeVar("_T")


class Deadlines:
    """One timer looks after all requests, where `asyncio.timeout` makes one for each: a sixteenth of their time.

    What is late runs up to `LOOK_EVERY_S` longer than it should.
    """

    def __init__(self, deadline_s: float):
        self.deadline_s = deadline_s
        self._running: dict[asyncio.Task[object], float] = {}
        self._late: set[asyncio.Task[object]] = set()
        self._looked_after_by: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        """What runs now."""
        return len(self._running)

    async def keep(self, work: Awaitable[_T], spent_s: float = 0.0) -> _T:
        """The result of `work`, done in the calling task. Raises TimeoutError once it is late and was cancelled.

        spent_s: how much of the time is gone already.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        self._running[task] = loop.time() + self.deadline_s - spent_s
        if self._looked_after_by is not loop:
            self._looked_after_by = loop
            loop.call_later(LOOK_EVERY_S, self._look, loop)
        try:
            return await work
        except asyncio.CancelledError:
            if task in self._late and task.uncancel() <= cancelling:
                raise TimeoutError from None
            raise
        finally:
            self._running.pop(task, None)
            self._late.discard(task)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = loop.time()
        for task, until_s in list(self._running.items()):
            if now_s >= until_s:
                del self._running[task]
                self._late.add(task)
                task.cancel()
        self._looked_after_by = loop if self._running else None
        if self._running:
            loop.call_later(LOOK_EVERY_S, self._look, loop)
