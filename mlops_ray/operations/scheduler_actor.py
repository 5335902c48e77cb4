"""The scheduler as a named actor: one for all use cases of a cluster, which looks every few seconds."""

import hashlib
import logging
import threading
import time
from typing import Any

import ray

from mlops_ray.config import Settings
from mlops_ray.errors import MlopsRayError, UnavailableError
from mlops_ray.governance.control_store import open_store
from mlops_ray.import_closure import code_digest
from mlops_ray.operations.run_launchers import NAMESPACE, find_run_launcher
from mlops_ray.operations.scheduler import RunLauncher, Scheduler

NAME = "scheduler"
EVERY_S = 5.0
_ATTEMPTS = 10
_ANSWER_S = 60.0

_logger = logging.getLogger(__name__)


def start_scheduler(settings: Settings, config: str | None = None) -> Any:
    """The actor that carries schedules out, started if there is none; one with other code or settings is replaced.

    It outlives the driver and is restarted. config: the settings' file, for the runs. Raises UnavailableError if there
    is none after a while.
    """
    options = {"name": NAME, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(SchedulerActor)
    launcher = find_run_launcher(settings, config)
    made_of = hashlib.sha256(f"{code_digest(__name__)}{settings!r}{launcher!r}".encode()).hexdigest()
    for _ in range(_ATTEMPTS):
        handle = actor.options(**options).remote(settings, launcher, made_of)
        try:
            if ray.get(handle.made_of.remote(), timeout=_ANSWER_S) == made_of:
                return handle
            _logger.info("The scheduler is of other code or settings, and is replaced")
            ray.get(handle.leave.remote(), timeout=_ANSWER_S)
        except (ray.exceptions.RayError, AttributeError) as error:
            _logger.warning("The scheduler does not answer as it should: %s", error)
        ray.kill(handle)
        time.sleep(0.5)  # until its name is free
    raise UnavailableError("The scheduler could not be started. See Ray's logs.")


class SchedulerActor:
    """A round every EVERY_S. It holds nothing that the control store does not. made_of: by what `start_scheduler` tells
    whether it is still the one wanted."""

    def __init__(self, settings: Settings, launcher: RunLauncher, made_of: str) -> None:
        self._scheduler = Scheduler(open_store(settings), launcher)
        self._made_of, self._left = made_of, threading.Event()
        self._thread = threading.Thread(target=self._follow, name="scheduler", daemon=True)
        self._thread.start()

    def made_of(self) -> str:
        """Of which code and settings, as a digest."""
        return self._made_of

    def leave(self) -> None:
        """End the rounds, and let another begin at once."""
        self._left.set()
        self._thread.join()
        self._scheduler.leave()

    def _follow(self) -> None:
        while not self._left.is_set():
            try:
                self._scheduler.round()
            except MlopsRayError as error:
                _logger.warning("The scheduler could not look: %s", error)
            except Exception:
                _logger.exception("A round of the scheduler failed")
            self._left.wait(EVERY_S)
