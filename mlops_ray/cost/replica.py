"""What one replica of an endpoint uses, by hour and by the version that it was used for."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

import uuid6

from mlops_ray.config import Settings
from mlops_ray.cost.prices import digest_of
from mlops_ray.cost.usage import Usage, histogram
from mlops_ray.cost.work import Work
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.usage import Part, UsageState, hour_of, keep_prices, now, write_usage

LOOK_S = 10.0
_ROUNDS = 6  # looks, after which it is written


class ReplicaMeter:
    """Measures the process that it is made in, from then on; `round` is to be called every `LOOK_S`.

    champion: the version that answers who asks for none. answered: how many requests each version has answered since
    the replica began. gpus: that it holds. What is used between two rounds belongs to the versions as they answered in
    it, and to the champion where none did.
    """

    def __init__(
        self,
        store: ControlStore,
        settings: Settings,
        use_case: str,
        champion: Callable[[], int],
        answered: Callable[[], Mapping[int, int]],
        work: Work,
        gpus: float = 0.0,
    ):
        self._store, self._use_case, self._champion, self._answered = store, use_case, champion, answered
        self._work, self._gpus, self._run = work, gpus, str(uuid6.uuid7())
        self._prices, self._priced, self._is_kept = settings.prices, digest_of(settings.prices), False
        self._before: Mapping[int, int] = {}
        self._hour: datetime | None = None
        self._fresh: defaultdict[int, Usage] = defaultdict(Usage)
        self._written: defaultdict[int, Usage] = defaultdict(Usage)
        self._rounds = 0

    def round(self) -> None:
        """Look, and from time to time write. Raises UnavailableError if that fails; nothing is lost by it."""
        self._look()
        self._rounds += 1
        if self._rounds % _ROUNDS == 0:
            self._write("running")

    def end(self) -> None:
        """The last word. Raises as `round`."""
        self._look()
        self._write("ended")

    def _look(self) -> None:
        used, counts = self._work.more(), dict(self._answered())
        fresh = {version: count - self._before.get(version, 0) for version, count in counts.items()}
        fresh = {version: count for version, count in fresh.items() if count > 0}
        self._before, total = counts, sum(fresh.values())
        if used.wall_s:
            used += Usage(gpu_s=self._gpus * used.wall_s, cpus=histogram(used.cpu_s / used.wall_s, used.wall_s))
        for version, count in (fresh or {self._champion(): 0}).items():
            share = count / total if total else 1.0
            self._fresh[version] += replace(share_of(used, share), predictions=count)

    def _write(self, state: UsageState) -> None:
        """What was used before an hour began and is written after it belongs to the new one: a minute at most."""
        if self._prices is not None and not self._is_kept:
            keep_prices(self._store, self._priced, self._prices.model_dump())
            self._is_kept = True
        hour = hour_of(now(self._store))
        if self._hour != hour:
            self._hour = hour
            self._written.clear()
        for version in list(self._fresh):
            together = self._written[version] + self._fresh[version]
            part = Part(self._run, "replica", str(version), self._use_case, "", self._priced)
            write_usage(self._store, part, hour, together.to_json(), state)
            self._written[version] = together
            del self._fresh[version]


def share_of(used: Usage, share: float) -> Usage:
    """So much of what was used; peaks and what was asked for are those of the whole."""
    parts = ("wall_s", "cpu_s", "gpu_s", "byte_s")
    numbers = {name: getattr(used, name) * share for name in parts}
    moved = {name: round(getattr(used, name) * share) for name in ("read_bytes", "written_bytes")}
    return replace(used, **numbers, **moved)
