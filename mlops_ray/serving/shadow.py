"""Shadow: asks a new version what callers asked the champion, after they were answered."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mlops_ray.errors import DataError, UnavailableError
from mlops_ray.serving.batching import Answers
from mlops_ray.serving.counters import Counts
from mlops_ray.serving.failures import FAILURES
from mlops_ray.serving.inquiries import Inquiry
from mlops_ray.serving.predictor import Vectors
from mlops_ray.serving.served_version import Scored, ServedVersion

MAX_WAITING, MAX_WAITING_BYTES = 256, 32_000_000  # requests, and their bodies
BATCH = 32
LINGER_S = 0.02  # what comes meanwhile is asked together; at 0.1 s the bursts are long enough for callers to notice
ANSWER_S = 10.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """A request that the champion has answered."""

    inquiry: Inquiry
    champion: ServedVersion
    candidate: ServedVersion
    scored: Scored
    counts: Counts

    @property
    def looks_up(self) -> bool:
        """Whether the candidate takes other features than the champion, or in another order."""
        return self.candidate.takes != self.champion.takes


Keep = Callable[[Asked, Scored, float], None]


class Shadow:
    """Works off what it is offered, and drops what it cannot: callers never wait for it.

    Offer from the event loop. A candidate is asked in its own thread, never on the loop: one that hangs would hold up
    everybody. What it does not answer within `ANSWER_S` has failed.

    keep: writes a shadow's answer to the ledger; UnavailableError if it cannot. `dropped` counts what was not asked.
    """

    def __init__(self, keep: Keep, answer_s: float = ANSWER_S):
        self._keep, self._answer_s = keep, answer_s
        self._waiting: deque[Asked] = deque()
        self._waiting_bytes = 0
        self._at_work: asyncio.Task[None] | None = None
        self.dropped = 0

    def offer(self, asked: Asked) -> None:
        size = asked.inquiry.size
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
            self.dropped += 1
            return
        self._waiting.append(asked)
        self._waiting_bytes += size
        if self._at_work is None or self._at_work.done():
            self._at_work = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(LINGER_S)
            for _ in range(math.ceil(len(self._waiting) / BATCH)):
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                self._waiting_bytes -= sum(asked.inquiry.size for asked in batch)
                for candidate in dict.fromkeys(asked.candidate for asked in batch):
                    await self._ask(candidate, [asked for asked in batch if asked.candidate is candidate])
                await asyncio.sleep(0)

    async def _ask(self, candidate: ServedVersion, batch: Sequence[Asked]) -> None:
        """Several requests together: a model takes hardly longer for 32 rows than for one."""
        if candidate.is_stuck:  # with what it was asked before: what comes now would wait behind that
            self._failed(candidate, batch, TimeoutError())
            return
        started_s = time.perf_counter()
        try:
            async with asyncio.timeout(self._answer_s):
                answers: Sequence[_Answer | BaseException] = await candidate.in_its_thread(_score, candidate, batch)
        except FAILURES as error:
            self._failed(candidate, batch, error)
            return
        share_s = (time.perf_counter() - started_s) / len(batch)
        for asked, answer in zip(batch, answers, strict=True):
            if isinstance(answer, BaseException):
                self._failed(candidate, [asked], answer)
            else:
                _count(asked, answer)
                self._record(asked, answer, share_s)

    def _failed(self, candidate: ServedVersion, batch: Sequence[Asked], error: BaseException) -> None:
        _logger.warning("Shadow version %s failed: %s: %s", candidate.version, type(error).__name__, error)
        for asked in batch:
            asked.counts.failed()

    def _record(self, asked: Asked, answer: "_Answer", share_s: float) -> None:
        given, latency_s = asked.scored, share_s if answer.work_s is None else answer.work_s
        try:
            self._keep(asked, Scored(given.keys, answer.vectors, answer.answers, given.as_of), latency_s)
        except UnavailableError as error:
            _logger.warning("Answers of shadow version %s are not in the ledger: %s", asked.candidate.version, error)


@dataclass(frozen=True)
class _Answer:
    """work_s: how long looking up and asking took, where that was done for this request alone."""

    vectors: Vectors
    answers: Answers
    work_s: float | None = None


def _count(asked: Asked, answer: _Answer) -> None:
    counts = asked.counts
    counts.requests += 1
    task, champions = asked.candidate.schema.task, asked.champion.schema.task
    if (task.kind, task.parts) == (champions.kind, champions.parts):  # others cannot be compared
        counts.difference += float(task.apart(answer.answers, asked.scored.answer).sum())
        counts.compared += len(answer.answers)
    if answer.work_s is not None:
        counts.worked(answer.work_s)


def _score(candidate: ServedVersion, batch: Sequence[Asked]) -> list[_Answer | BaseException]:
    """What becomes of each request. Only those pay whose rows it cannot answer.

    One of them is asked alone, as callers ask the champion, so that the times of both can be compared; the others are
    asked together.
    """
    answers: dict[int, _Answer | BaseException] = {}
    vectors: dict[int, Vectors] = {}
    lookup_s: dict[int, float] = {}
    for number, asked in enumerate(batch):
        started_s = time.perf_counter()
        try:
            vectors[number] = _vectors(asked)
        except UnavailableError as error:  # the others would wait for the same store
            return [answers.get(other, error) for other in range(len(batch))]
        except FAILURES as error:
            answers[number] = error
        lookup_s[number] = time.perf_counter() - started_s if asked.looks_up else asked.scored.lookup_s
    if vectors:
        first, *others = vectors
        answers[first] = _alone(candidate, vectors[first], lookup_s[first])
        answers |= _together(candidate, {number: vectors[number] for number in others})
    return [answers[number] for number in range(len(batch))]


def _alone(candidate: ServedVersion, vectors: Vectors, lookup_s: float | None = None) -> _Answer | BaseException:
    started_s = time.perf_counter()
    try:
        answers = candidate.predictor.answers(vectors)
    except FAILURES as error:
        return error
    work_s = None if lookup_s is None else lookup_s + time.perf_counter() - started_s
    return _Answer(vectors, answers, work_s)


def _together(candidate: ServedVersion, vectors: dict[int, Vectors]) -> dict[int, _Answer | BaseException]:
    if not vectors:
        return {}
    parts = list(vectors.values())
    together = Vectors(
        np.concatenate([part.numbers for part in parts]), np.concatenate([part.categories for part in parts])
    )
    try:
        answers = candidate.predictor.answers(together)
    except FAILURES:
        return {number: _alone(candidate, part) for number, part in vectors.items()}
    split = np.split(answers, np.cumsum([len(part) for part in parts])[:-1])
    return {number: _Answer(vectors[number], own) for number, own in zip(vectors, split, strict=True)}


def _vectors(asked: Asked) -> Vectors:
    if not asked.looks_up:
        return asked.scored.vectors
    if asked.scored.keys is None:
        raise DataError("it takes other features than the champion, and the caller sent the champion's.")
    keys = asked.scored.keys
    return asked.candidate.predictor.vectors_of_keys(keys, [asked.scored.as_of] * len(keys))
