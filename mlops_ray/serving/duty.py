"""Duty: something done again and again in a thread of its own, so that nothing else waits for it."""

import logging
import threading
from collections.abc import Callable

from mlops_ray.errors import MlopsRayError

_logger = logging.getLogger(__name__)


class Duty:
    """Does `work` every `every_s` seconds until it is stopped. What fails is logged, and done again."""

    def __init__(self, name: str, work: Callable[[], object], every_s: float):
        self._name, self._work, self._every_s = name, work, every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let it end, without waiting for what it may wait for."""
        self._stopping.set()

    def join(self, timeout_s: float) -> None:
        """Wait until the round that is under way has ended, but not for longer than that."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def expect_alive(self) -> None:
        """Raise RuntimeError if the thread has ended, so that Serve replaces the replica."""
        if not self._thread.is_alive():
            raise RuntimeError(f"The thread {self._name!r} of this replica has ended.")

    def _repeat(self) -> None:
        while not self._stopping.wait(self._every_s):
            try:
                self._work()
            except MlopsRayError as error:
                _logger.warning("%s goes on with what was known: %s", self._name, error)
            except Exception:
                _logger.exception("A round of %s failed", self._name)
