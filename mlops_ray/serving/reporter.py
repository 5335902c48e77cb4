"""Reporter: says what a replica holds, loads and has counted, so that nobody decides over its head."""

import logging
import time
from collections.abc import Callable

from mlops_ray.errors import MlopsRayError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.replicas import Replica, count_alive, leave, report
from mlops_ray.serving.auth import Guard

IDLE_S, BUSY_S = 3.0, 1.0
REPLICAS_A_SECOND = 200  # of them may report; more of them report less often
COUNTED_EVERY_S = 10.0

_logger = logging.getLogger(__name__)


class Reporter:
    """Reports what `describe` says: every second while a version comes in, else every three. What it holds and loads is
    news to who decides, and said at once; which version answers is not, and where there are many replicas it waits for
    its turn: when all of a thousand go back, the database has them read what is live first.

    It also tells the guard among how many replicas a caller's rate is shared.
    """

    def __init__(self, store: ControlStore, use_case: str, guard: Guard, describe: Callable[[], Replica]):
        self._store, self._use_case, self._guard, self._describe = store, use_case, guard, describe
        self._said_s, self._counted_s = float("-inf"), float("-inf")
        self._said: tuple[object, ...] = ()
        self._said_answers: tuple[object, ...] = ()

    def round(self) -> None:
        """Report if it is time, or if there is something new to say."""
        mine = self._describe()
        turn_s = self._guard.replicas / REPLICAS_A_SECOND
        every_s = max(BUSY_S if mine.step or mine.loading else IDLE_S, turn_s)
        if self._answers(mine) != self._said_answers:
            every_s = turn_s
        if self._news(mine) != self._said or time.monotonic() - self._said_s >= every_s:
            self.report(mine)

    def report(self, mine: Replica | None = None) -> None:
        """Report now."""
        mine = mine or self._describe()
        report(self._store, self._use_case, mine)
        self._said, self._said_answers, self._said_s = self._news(mine), self._answers(mine), time.monotonic()
        if self._said_s - self._counted_s >= COUNTED_EVERY_S:
            self._counted_s = self._said_s
            self._guard.replicas = max(1, count_alive(self._store, self._use_case))

    def _news(self, mine: Replica) -> tuple[object, ...]:
        return mine.loaded, mine.failed, mine.step, *mine.loading

    def _answers(self, mine: Replica) -> tuple[object, ...]:
        return mine.revision, mine.serving

    def leave(self) -> None:
        """Say that this replica is gone."""
        try:
            leave(self._store, self._use_case, self._describe())
        except MlopsRayError as error:
            _logger.warning("%s", error)
