"""Inquiries: who asked what under which id, so that a repetition is told from another question."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from mlops_ray.predictions.record import QUESTION_BYTES
from mlops_ray.serving.http import Request
from mlops_ray.serving.served_version import Scored
from mlops_ray.tasks.task import Task

KEPT_S = 600.0
KEPT_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Inquiry:
    """question: a digest of the body, which a client that repeats itself sends again byte for byte. caller: the
    principal's id. may_come_again: whether the id is the caller's, who else could not repeat it."""

    request_id: str
    question: bytes
    caller: str
    may_come_again: bool


def inquiry_of(request: Request, content: bytes) -> Inquiry:
    return Inquiry(
        request.request_id,
        hashlib.blake2b(content, digest_size=QUESTION_BYTES).digest(),
        request.principal.id if request.principal else "",
        request.named,
    )


@dataclass(frozen=True)
class Given:
    """An answer as it was given and recorded: by a version, whose answers are those of a task."""

    version: str
    task: Task
    scored: Scored


class RecentAnswers:
    """The answers of the last minutes, up to `most_rows` rows. A repetition that comes to the same replica gets what is
    recorded, so that the record is what the caller has received; of two that different replicas answer, both are
    recorded, and the first counts."""

    def __init__(self, most_rows: int = KEPT_ROWS, clock: Callable[[], float] = time.monotonic):
        self._most_rows, self._clock, self._rows = most_rows, clock, 0
        self._given: OrderedDict[Inquiry, tuple[float, Given]] = OrderedDict()

    def find(self, inquiry: Inquiry) -> Given | None:
        found = self._given.get(inquiry) if inquiry.may_come_again else None
        return found[1] if found and self._clock() - found[0] < KEPT_S else None

    def keep(self, inquiry: Inquiry, given: Given) -> None:
        if not inquiry.may_come_again:
            return
        if before := self._given.pop(inquiry, None):
            self._rows -= len(before[1].scored.answer)
        self._given[inquiry] = self._clock(), given
        self._rows += len(given.scored.answer)
        while self._given and (self._rows > self._most_rows or self._oldest_s() >= KEPT_S):
            self._rows -= len(self._given.popitem(last=False)[1][1].scored.answer)

    def _oldest_s(self) -> float:
        return self._clock() - next(iter(self._given.values()))[0]
