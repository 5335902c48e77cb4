"""Inquiries: who asked what under which id, so that a repetition is told from another question."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mlops_ray.predictions.record import QUESTION_BYTES
from mlops_ray.serving.http import Request
from mlops_ray.serving.served_version import Scored
from mlops_ray.tasks.task import Task

KEPT_S = 600.0
KEPT_ROWS = 20_000
KEPT_BYTES = 32_000_000  # of bodies; in memory an answer takes some times what was asked


@dataclass(frozen=True, slots=True)
class Inquiry:
    """question: a digest of who asked which version what; a client that repeats itself sends the same body again byte
    for byte. caller: the principal's id. may_come_again: whether the id is the caller's, who else could not repeat it.
    size: bytes of the body."""

    request_id: str
    question: bytes
    caller: str
    may_come_again: bool
    size: int


def inquiry_of(request: Request, content: bytes, version: str) -> Inquiry:
    """version: that the caller names, the champion included: without a name the same question may be a canary's, or
    the next champion's; "" where none is named."""
    caller = request.principal.id if request.principal else ""
    question = hashlib.blake2b(f"{caller}\0{version}\0".encode() + content, digest_size=QUESTION_BYTES).digest()
    return Inquiry(request.request_id, question, caller, request.named, len(content))


@dataclass(frozen=True)
class Given:
    """An answer as it was given and recorded: by a version, whose answers are those of a task."""

    version: str
    task: Task
    scored: Scored


class RecentAnswers:
    """The answers of the last minutes, up to `most_rows` rows and `most_bytes` of their bodies, and of those at work. A
    repetition that comes to the same replica gets what is recorded, so that the record is what the caller has received;
    of two that different replicas answer, both are recorded, and the first counts. For one event loop."""

    def __init__(
        self, most_rows: int = KEPT_ROWS, most_bytes: int = KEPT_BYTES, clock: Callable[[], float] = time.monotonic
    ):
        self._most_rows, self._most_bytes, self._clock = most_rows, most_bytes, clock
        self._rows = self._bytes = 0
        self._given: OrderedDict[Inquiry, tuple[float, Given]] = OrderedDict()
        self._at_work: dict[Inquiry, asyncio.Future[Given | None]] = {}

    async def once(self, inquiry: Inquiry, ask: Callable[[], Awaitable[Given]]) -> Given:
        """The recorded answer, that of the same inquiry at work here included; else what `ask` gives and records.

        Raises what its own `ask` raises. Where another's fails, or is ended with its caller, those who wait for it are
        not: one of them asks anew.
        """
        if not inquiry.may_come_again:
            return await ask()
        while (given := self.find(inquiry)) is None:
            at_work = self._at_work.get(inquiry)
            if at_work is None:
                return await self._asked(inquiry, ask)
            # Who is ended while waiting ends nobody else; what is too large to be kept is handed over all the same.
            if (given := await asyncio.shield(at_work)) is not None:
                return given
        return given

    async def _asked(self, inquiry: Inquiry, ask: Callable[[], Awaitable[Given]]) -> Given:
        given: Given | None = None
        outcome = self._at_work[inquiry] = asyncio.get_running_loop().create_future()
        try:
            given = await ask()
            self.keep(inquiry, given)
            return given
        finally:
            del self._at_work[inquiry]
            outcome.set_result(given)

    def find(self, inquiry: Inquiry) -> Given | None:
        found = self._given.get(inquiry) if inquiry.may_come_again else None
        return found[1] if found and self._clock() - found[0] < KEPT_S else None

    def keep(self, inquiry: Inquiry, given: Given) -> None:
        if not inquiry.may_come_again:
            return
        if inquiry in self._given:
            self._forget(inquiry)
        self._given[inquiry] = self._clock(), given
        self._rows += len(given.scored.answer)
        self._bytes += inquiry.size
        while self._given and self._has_too_much():
            self._forget(next(iter(self._given)))

    def _has_too_much(self) -> bool:
        oldest_s = self._clock() - next(iter(self._given.values()))[0]
        return self._rows > self._most_rows or self._bytes > self._most_bytes or oldest_s >= KEPT_S

    def _forget(self, inquiry: Inquiry) -> None:
        _, given = self._given.pop(inquiry)
        self._rows -= len(given.scored.answer)
        self._bytes -= inquiry.size
