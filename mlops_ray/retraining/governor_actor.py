"""The governor as a named actor: rounds at an interval, or when it is told the time."""

import hashlib
import logging
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray

from mlops_ray.config import Settings
from mlops_ray.errors import UnavailableError
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.development_keys import acting
from mlops_ray.import_closure import code_digest
from mlops_ray.monitoring.foreign_model import every_version
from mlops_ray.retraining.blind_champion import BlindChampion
from mlops_ray.retraining.governor import Governor
from mlops_ray.retraining.launcher import Launcher
from mlops_ray.retraining.new_labels import NewLabels
from mlops_ray.retraining.policy import Decision
from mlops_ray.retraining.ray_launchers import NAMESPACE, find_launcher
from mlops_ray.use_case import UseCase

EVERY_S = 30.0
_ATTEMPTS = 10
_ANSWER_S = 60.0

_logger = logging.getLogger(__name__)


def governor_name(use_case: str) -> str:
    """The name of its actor, in the namespace `mlops_ray`."""
    return f"governor-{use_case}"


def start_governor(
    use_case: UseCase,
    settings: Settings,
    feature_repo: Path,
    reference: str,
    every_s: float | None = EVERY_S,
    launcher: Launcher | None = None,
    config: str | None = None,
) -> Any:
    """The actor that governs the use case, started if there is none; one with other code, declaration or settings is
    replaced. It outlives the driver, and is restarted; what it knew is in the audit log.

    reference: how `mlops-ray` names the use case, for a job. every_s: the time between rounds; None: only when asked,
    which is for simulated time. launcher: what starts retrainings; by default Ray's job API, if it is there.
    config: the settings' file, for a job too. Raises UnavailableError if there is none after a while.
    """
    options = {"name": governor_name(use_case.name), "namespace": NAMESPACE, "lifetime": "detached"}
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(GovernorActor)
    launcher = launcher or find_launcher(use_case, settings, feature_repo, reference, config)
    decides = use_case.retraining, use_case.split, use_case.approval
    text = repr((decides, settings, str(feature_repo), reference, every_s, config))
    made_of = hashlib.sha256(f"{code_digest(__name__)}{text}".encode()).hexdigest()
    for _ in range(_ATTEMPTS):
        handle = actor.options(get_if_exists=True, **options).remote(use_case, settings, launcher, every_s, made_of)
        try:
            if ray.get(handle.made_of.remote(), timeout=_ANSWER_S) == made_of:
                return handle
            _logger.info("The governor of %s is of other code or declares other limits, and is replaced", use_case.name)
            ray.kill(handle)
        except AttributeError:  # of a version that did not say what it was made of
            ray.kill(handle)
        except ray.exceptions.RayError as error:
            _logger.warning("The governor of %s does not answer: %s", use_case.name, error)
        time.sleep(0.5)  # until its name is free
    raise UnavailableError(f"The governor of {use_case.name} could not be started. See Ray's logs.")


def stop_governor(use_case: str) -> None:
    """End the actor of a use case, if there is one. A retraining that runs goes on."""
    try:
        ray.kill(ray.get_actor(governor_name(use_case), namespace=NAMESPACE))
    except ValueError:
        return


class GovernorActor:
    """Rounds every `every_s` (None: only when asked). It holds nothing but the lock by which they follow one another:
    the governor's memory is the audit log. made_of: by what `start_governor` tells whether it is still the one wanted.
    """

    def __init__(
        self, use_case: UseCase, settings: Settings, launcher: Launcher, every_s: float | None, made_of: str
    ) -> None:
        store = open_store(settings)
        actor = acting(store, settings, os.environ.get("MLOPS_RAY_API_KEY"), use_case.name)
        new_rows = NewLabels(settings, use_case.name)
        blind = BlindChampion(every_version(settings, store), store, use_case.name)
        self._governor = Governor(use_case, settings, launcher, new_rows, actor, blind=blind)
        self._lock = threading.Lock()
        self._made_of = made_of
        if every_s is not None:
            threading.Thread(target=self._follow, args=(every_s,), name="governor", daemon=True).start()

    def made_of(self) -> str:
        """Of which code, declaration and settings, as a digest."""
        return self._made_of

    def round(self, now: datetime | None = None) -> Decision:
        with self._lock:
            return self._governor.round(now or datetime.now(UTC))

    def _follow(self, every_s: float) -> None:
        pause = threading.Event()
        while True:
            try:
                self.round()
            except UnavailableError as error:
                _logger.warning("The governor could not look: %s", error)
            except Exception:
                _logger.exception("A round of the governor failed")
            pause.wait(every_s)
