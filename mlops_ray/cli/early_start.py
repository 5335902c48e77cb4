"""Early start: Ray, and where it can be the endpoint, come up while the command does something else."""

import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from mlops_ray.config import Settings
from mlops_ray.operations.local_ray import prepare_ray, running_ray


class EarlyStart:
    """A Ray for a command, which ends with it. Starting it takes 4 to 9 s, and an endpoint on it 10 s more, much of it
    waiting: another thread does that.

    Raises, when it is entered, as `prepare_ray`.
    """

    def __init__(self, settings: Settings, serving: bool):
        self._settings, self._serving = settings, serving
        self._thread, self._ending = ThreadPoolExecutor(1, "early-start"), ExitStack()
        self._ray: Future[Any] | None = None
        self._endpoint: Future[Any] | None = None

    def __enter__(self) -> Self:
        if self._serving:
            self._start_ray()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._endpoint is not None:
            self._endpoint.cancel()
        # In the thread that started it, whose end Ray's processes do not outlive (PR_SET_PDEATHSIG).
        self._thread.submit(self._ending.close).result()
        self._thread.shutdown()

    def ray(self) -> None:
        """Wait until Ray is there for other work. An endpoint that was begun is stopped, as its replicas hold CPUs."""
        self._start_ray().result()
        if self._endpoint is not None:
            from mlops_ray.serving.local import stop

            self._endpoint.exception()
            self._endpoint = None
            stop()

    def begin_serving(self, serve: Callable[[], Any]) -> None:
        """Call `serve` as soon as Ray is there, if it is our own: of another the endpoint stays what it is."""
        if self._own:
            self._endpoint = self._thread.submit(serve)

    def serve(self, serve: Callable[[], Any]) -> None:
        """Wait for the endpoint that was begun; else call `serve` now."""
        self._start_ray().result()
        if self._endpoint is None:
            serve()
        else:
            self._endpoint.result()

    def _start_ray(self) -> Future[Any]:
        if self._ray is None:
            self._own = prepare_ray(self._settings, self._serving)
            # As Ray does where it is started in the main thread: what was started is ended.
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
            running = running_ray(self._settings, self._own)
            self._ray = self._thread.submit(self._ending.enter_context, running)
        return self._ray
