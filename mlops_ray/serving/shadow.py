"""Shadow: asks a new version what callers asked the champion, after they were answered, in a thread of its own."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mlops_ray.errors import DataError
from mlops_ray.serving.counters import Counts
from mlops_ray.serving.predictor import Vectors
from mlops_ray.serving.served_version import Scored, ServedVersion

MAX_WAITING = 256
BATCH = 32
LINGER_S = 0.02  # what comes meanwhile is asked together; at 0.1 s the bursts are long enough for callers to notice

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """A request that the champion has answered."""

    request_id: str
    champion: ServedVersion
    candidate: ServedVersion
    scored: Scored
    counts: Counts


Keep = Callable[[Asked, Scored, float], None]


class Shadow:
    """Works off what it is offered, and drops what it cannot: callers never wait for it.

    keep: writes a shadow's answer to the ledger. `dropped` counts what was not asked.
    """

    def __init__(self, keep: Keep):
        self._keep = keep
        self._waiting: deque[Asked] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self._thread.start()

    def offer(self, asked: Asked) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        self._waiting.append(asked)
        self._wake.set()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout=5)

    def _work(self) -> None:
        while not self._stopping:
            self._wake.wait()
            time.sleep(LINGER_S)
            self._wake.clear()
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                for candidate in dict.fromkeys(asked.candidate for asked in batch):
                    self._ask([asked for asked in batch if asked.candidate is candidate])

    def _ask(self, batch: Sequence[Asked]) -> None:
        """Several requests as one question: a model takes hardly longer for 32 rows than for one."""
        candidate, counts = batch[0].candidate, batch[0].counts
        started_s = time.perf_counter()
        try:
            vectors = [_vectors(asked) for asked in batch]
            together = Vectors(
                np.concatenate([part.numbers for part in vectors]), np.concatenate([p.categories for p in vectors])
            )
            answers = candidate.predictor.probability(together)
        except Exception as error:
            _logger.warning("Shadow version %s failed: %s: %s", candidate.version, type(error).__name__, error)
            for _ in batch:
                counts.failed()
            return
        latency_s = (time.perf_counter() - started_s) / len(batch)
        of_champion = np.concatenate([asked.scored.probability for asked in batch])
        counts.difference += float(np.abs(answers - of_champion).sum())
        counts.compared += len(answers)
        end = 0
        for asked, part in zip(batch, vectors, strict=True):
            begin, end = end, end + len(part)
            counts.answered(latency_s)
            given = asked.scored
            self._keep(asked, Scored(given.keys, part, answers[begin:end], given.as_of), latency_s)


def _vectors(asked: Asked) -> Vectors:
    """The champion's vectors, where both versions take the same features in the same order, else its own."""
    if asked.candidate.takes == asked.champion.takes:
        return asked.scored.vectors
    if asked.scored.keys is None:
        raise DataError("it takes other features than the champion, and the caller sent the champion's.")
    return asked.candidate.predictor.vectors_of_keys(asked.scored.keys, asked.scored.as_of)
