"""What a process uses that works for several use cases, or for one beside its replicas: by use case and hour."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

import uuid6

from mlops_ray.config import Settings
from mlops_ray.cost.prices import digest_of
from mlops_ray.cost.replica import share_of
from mlops_ray.cost.usage import Usage, histogram
from mlops_ray.cost.work import Work
from mlops_ray.errors import UnavailableError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.usage import Part, hour_of, keep_prices, now, write_usage

LOOK_S = 60.0

_logger = logging.getLogger(__name__)


class ServiceMeter:
    """Measures the process that it is made in, from then on; `round` is to be called every `LOOK_S`, and at the end.

    name: of what it does. done: how much it has done for each use case since it began, in whichever unit. What is used
    between two rounds belongs to the use cases by what was done for them meanwhile; where nothing was, to each alike.
    """

    def __init__(
        self,
        store: ControlStore,
        settings: Settings,
        name: str,
        done: Callable[[], Mapping[str, float]],
        work: Work,
        gpus: float = 0.0,
    ):
        self._store, self._settings, self._name, self._done = store, settings, name, done
        self._work, self._gpus, self._run, self._is_kept = work, gpus, str(uuid6.uuid7()), False
        self._before: Mapping[str, float] = {}
        self._hour: datetime | None = None
        self._fresh: defaultdict[str, Usage] = defaultdict(Usage)
        self._written: defaultdict[str, Usage] = defaultdict(Usage)

    def round(self) -> None:
        """Raises UnavailableError if it cannot be written; nothing is lost by it."""
        done = dict(self._done())
        if not done:
            return  # of nobody yet
        fresh = {use_case: max(0.0, much - self._before.get(use_case, 0.0)) for use_case, much in done.items()}
        self._before, total, used = done, sum(fresh.values()), self._work.more()
        if used.wall_s:
            used = replace(used, gpu_s=self._gpus * used.wall_s, cpus=histogram(used.cpu_s / used.wall_s, used.wall_s))
        for use_case, much in fresh.items():
            self._fresh[use_case] += share_of(used, much / total if total else 1 / len(fresh))
        self._write()

    def begin(self) -> None:
        """Do so, in a thread, as long as the process lives."""
        threading.Thread(target=self._follow, name="cost", daemon=True).start()

    def _follow(self) -> None:
        while True:
            time.sleep(LOOK_S)
            try:
                self.round()
            except UnavailableError as error:
                _logger.warning("What %s uses is written later. %s", self._name, error)
            except Exception:  # who measures must not stop because one look failed
                _logger.exception("A look at what %s uses failed", self._name)

    def _write(self) -> None:
        """As for replicas, what was used before an hour began and is written after it belongs to the new one."""
        prices, priced = self._settings.prices, digest_of(self._settings.prices)
        if prices is not None and not self._is_kept:
            keep_prices(self._store, priced, prices.model_dump())
            self._is_kept = True
        hour = hour_of(now(self._store))
        if self._hour != hour:
            self._hour = hour
            self._written.clear()
        for use_case in list(self._fresh):
            together = self._written[use_case] + self._fresh[use_case]
            part = Part(f"{self._run}/{use_case}", "service", self._name, use_case, "", priced)
            write_usage(self._store, part, hour, together.to_json(), "running")
            self._written[use_case] = together
            del self._fresh[use_case]
