"""A circuit breaker (M. Nygard, Release It!, 2007): callers do not wait for what has just failed several times."""

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from mlops_ray.errors import UnavailableError

FAILURES = 3
RETRY_S = 0.5

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")


class Breaker:
    """Stands before a store that may be away, and opens after it has not answered `FAILURES` questions in a row.

    While it is open every call fails at once. A thread asks the store something small each `RETRY_S`, so that no caller
    pays for finding out, and closes the breaker once it answers. A question that the store refuses, or that is too
    large for it, says nothing of others: the first is not counted, and neither is asked again.
    """

    def __init__(self, what: str, is_away: Callable[[Exception], bool], probe: Callable[[], object]):
        """what: the thing that is asked, as the subject of a sentence. is_away: whether an error says that it does not
        answer. probe: asks so little that nothing else can fail."""
        self._what, self._is_away, self._probe = what, is_away, probe
        self._failures = 0
        self._open = False
        self._lock, self._closing = threading.Lock(), threading.Event()

    def call(self, ask: Callable[[], _T]) -> _T:
        """The result of `ask`. Raises UnavailableError if it raises anything, or without trying it while open."""
        if self._open:
            raise UnavailableError(
                f"{self._what} does not answer; {FAILURES} attempts failed, and until one succeeds requests do not "
                f"wait for it. Ask again."
            )
        try:
            result = ask()
        except Exception as error:
            if not self._is_away(error):
                raise UnavailableError(f"{self._what} refuses this question: {error}. Ask its operator.") from error
            self._failed(error)
            raise UnavailableError(f"{self._what} does not answer ({type(error).__name__}). Is it running?") from error
        self._failures = 0
        return result

    def close(self) -> None:
        """End the thread, if there is one."""
        self._closing.set()

    def _failed(self, error: Exception) -> None:
        with self._lock:
            self._failures += 1
            _logger.warning("%s: attempt %d failed: %s", self._what, self._failures, error)
            if self._failures < FAILURES or self._open:
                return
            self._open = True
        threading.Thread(target=self._wait, name="breaker", daemon=True).start()

    def _wait(self) -> None:
        while not self._closing.wait(RETRY_S):
            try:
                self._probe()
            except Exception as error:
                if self._is_away(error):
                    _logger.debug("%s still does not answer: %s", self._what, error)
                    continue
            _logger.warning("%s answers again", self._what)
            self._failures, self._open = 0, False
            return
