"""Shadow: asks a new version what callers asked the champion, after they were answered."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mlops_ray.errors import DataError, ModelError, UnavailableError
from mlops_ray.serving.batching import Probability
from mlops_ray.serving.counters import Counts
from mlops_ray.serving.inquiries import Inquiry
from mlops_ray.serving.predictor import Vectors
from mlops_ray.serving.served_version import Scored, ServedVersion

MAX_WAITING = 256
BATCH = 32
LINGER_S = 0.02  # what comes meanwhile is asked together; at 0.1 s the bursts are long enough for callers to notice
QUICK_S, QUICK_ROWS = 0.003, 64  # how long, and with how many rows, a batch may keep the event loop from callers

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

    Offer from the event loop. A candidate that answered its last batch within `QUICK_S` is asked there, since a thread
    would take turns with the loop at Python's lock and slow both down; any other is asked in a thread.

    keep: writes a shadow's answer to the ledger; UnavailableError if it cannot. `dropped` counts what was not asked.
    """

    def __init__(self, keep: Keep):
        self._keep = keep
        self._waiting: deque[Asked] = deque()
        self._quick: ServedVersion | None = None
        self._at_work: asyncio.Task[None] | None = None
        self.dropped = 0

    def offer(self, asked: Asked) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        self._waiting.append(asked)
        if self._at_work is None or self._at_work.done():
            self._at_work = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(LINGER_S)
            for _ in range(math.ceil(len(self._waiting) / BATCH)):
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                for candidate in dict.fromkeys(asked.candidate for asked in batch):
                    await self._ask(candidate, [asked for asked in batch if asked.candidate is candidate])
                await asyncio.sleep(0)

    async def _ask(self, candidate: ServedVersion, batch: Sequence[Asked]) -> None:
        """Several requests as one question: a model takes hardly longer for 32 rows than for one."""
        started_s = time.perf_counter()
        try:
            if self._may_be_asked_here(candidate, batch):
                vectors, answers = _score(candidate, batch)
            else:
                vectors, answers = await asyncio.to_thread(_score, candidate, batch)
        except Exception as error:
            if isinstance(error, ModelError) and len(batch) > 1:  # count only the requests that it cannot answer
                for asked in batch:
                    await self._ask(candidate, [asked])
                return
            _logger.warning("Shadow version %s failed: %s: %s", candidate.version, type(error).__name__, error)
            for asked in batch:
                asked.counts.failed()
            return
        took_s = time.perf_counter() - started_s
        self._quick = candidate if took_s <= QUICK_S else None
        latency_s = took_s / len(batch)
        _count(batch, answers, latency_s)
        try:
            self._record(batch, vectors, answers, latency_s)
        except UnavailableError as error:
            _logger.warning("Answers of shadow version %s are not in the ledger: %s", candidate.version, error)

    def _may_be_asked_here(self, candidate: ServedVersion, batch: Sequence[Asked]) -> bool:
        rows = sum(len(asked.scored.probability) for asked in batch)
        looks_up = any(asked.looks_up for asked in batch)
        return candidate is self._quick and rows <= QUICK_ROWS and not candidate.waits(looks_up)

    def _record(
        self, batch: Sequence[Asked], vectors: Sequence[Vectors], answers: Probability, latency_s: float
    ) -> None:
        end = 0
        for asked, part in zip(batch, vectors, strict=True):
            begin, end = end, end + len(part)
            given = asked.scored
            self._keep(asked, Scored(given.keys, part, answers[begin:end], given.as_of), latency_s)


def _count(batch: Sequence[Asked], answers: Probability, latency_s: float) -> None:
    counts = batch[0].counts
    of_champion = np.concatenate([asked.scored.probability for asked in batch])
    counts.difference += float(np.abs(answers - of_champion).sum())
    counts.compared += len(answers)
    for _ in batch:
        counts.answered(latency_s)


def _score(candidate: ServedVersion, batch: Sequence[Asked]) -> tuple[list[Vectors], Probability]:
    vectors = [_vectors(asked) for asked in batch]
    together = Vectors(
        np.concatenate([part.numbers for part in vectors]), np.concatenate([part.categories for part in vectors])
    )
    return vectors, candidate.predictor.probability(together)


def _vectors(asked: Asked) -> Vectors:
    if not asked.looks_up:
        return asked.scored.vectors
    if asked.scored.keys is None:
        raise DataError("it takes other features than the champion, and the caller sent the champion's.")
    return asked.candidate.predictor.vectors_of_keys(asked.scored.keys, asked.scored.as_of)
