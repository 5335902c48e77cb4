"""A watcher: the watches of many endpoints in one process, in turn. It knows no Ray.

Which endpoints it has stands below the artifacts, as a process that is started again knows nothing: for each,
`monitoring/<use case>/watched_by.json` names the pool, and which of the pool's watchers it is follows from the name of
the use case. For a moment two may have the same one: of two commits one counts (see `watch_state.Commits`).
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import DataError, MlopsRayError, UnavailableError
from mlops_ray.extras import missing_extra
from mlops_ray.governance.control_store import ControlStore, database_now, open_store
from mlops_ray.governance.monitoring_definitions import definition_of
from mlops_ray.governance.replicas import heard
from mlops_ray.governance.unwatched import report_unwatched
from mlops_ray.monitoring.definition import versions_with_traffic
from mlops_ray.monitoring.drift_watch import DriftWatch, Round
from mlops_ray.monitoring.label_times import set_label_times
from mlops_ray.monitoring.ledger_upkeep import keep_up_if_due

# What a person must mend is tried again so much later.
STANDS_STILL_S = 60.0
REQUESTS_S = 60.0
_PLACE, _FILE = "monitoring", "watched_by.json"

_logger = logging.getLogger(__name__)

OpenWatch = Callable[[str, ControlStore], DriftWatch]
# What a round has left: the use case, its watch, the store, when the round began (monotonic seconds; None while more
# waits to be read), and the time by the clock that all share.
Show = Callable[[str, DriftWatch, ControlStore, float | None, datetime], None]


def assign(artifacts: Artifacts, use_case: str, pool: str) -> None:
    """Let the watchers of `pool` have an endpoint; another pool that has it leaves it."""
    artifacts.write_json({"pool": pool}, _PLACE, use_case, _FILE)


def place_of(use_case: str, watchers: int) -> int:
    """Which of so many watchers has an endpoint: the same for ever, and by chance."""
    return int.from_bytes(hashlib.sha256(use_case.encode()).digest()[:8], "big") % watchers


@dataclass
class _Endpoint:
    """said: what is wrong, as it was logged last. again_s: not to be tried before, heard_s: when replicas were last
    asked how requests went, both on the monotonic clock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    watch: DriftWatch | None = None
    said: str = ""
    again_s: float = 0.0
    heard_s: float = float("-inf")


class Watcher:
    """One of the watchers of a pool, at its `place`. Safe for threads: one endpoint's rounds follow one another."""

    def __init__(self, settings: Settings, pool: str, place: int, open_watch: OpenWatch, show: Show | None = None):
        self._settings, self._pool, self._place = settings, pool, place
        self._artifacts, self._open_watch, self._show = Artifacts(settings.artifacts), open_watch, show
        self._endpoints: dict[str, _Endpoint] = {}
        self._store: ControlStore | None = None
        self._worked_s: dict[str, float] = {}

    @property
    def watched(self) -> tuple[str, ...]:
        """The endpoints that it has, by name."""
        return tuple(sorted(self._endpoints))

    @property
    def worked_s(self) -> dict[str, float]:
        """For how long it has worked for each endpoint that it has, in seconds of its threads."""
        return {use_case: self._worked_s.get(use_case, 0.0) for use_case in self.watched}

    def take(self, use_case: str) -> None:
        self._endpoints.setdefault(use_case, _Endpoint())

    def drop(self, use_case: str) -> None:
        """Have this endpoint no more; whoever is assigned next goes on where it was."""
        if self._is_ours(use_case):
            self._artifacts.delete(_PLACE, use_case, _FILE)
        self._endpoints.pop(use_case, None)

    def look(self) -> None:
        """Take and drop endpoints as they are assigned."""
        ours = {entry.name for entry in self._artifacts.entries(_PLACE) if self._is_ours(entry.name)}
        for use_case in ours:
            self.take(use_case)
        for use_case in self._endpoints.keys() - ours:
            self._endpoints.pop(use_case, None)

    def turn(self) -> bool:
        """A round of each endpoint; one that fails costs the others nothing. Whether one has more to read."""
        behind = [use_case for use_case in self.watched if self._tried(use_case)]
        return bool(behind)

    def round(self, use_case: str, now: datetime | None = None) -> Round:
        """One round of an endpoint. Raises what `DriftWatch.round` raises."""
        endpoint, began_s = self._endpoints.setdefault(use_case, _Endpoint()), time.thread_time()
        try:
            return self._round(use_case, endpoint, now)
        finally:
            self._worked_s[use_case] = self._worked_s.get(use_case, 0.0) + time.thread_time() - began_s

    def _round(self, use_case: str, endpoint: _Endpoint, now: datetime | None) -> Round:
        with endpoint.lock:
            store = self._opened()
            if endpoint.watch is None:
                endpoint.watch = self._open_watch(use_case, store)
            self._define(use_case, endpoint.watch, store)
            traffic = versions_with_traffic(store, use_case)
            with store.reading() as connection:
                clock = database_now(connection)
            begun_s, requests = time.monotonic(), None
            if begun_s - endpoint.heard_s >= REQUESTS_S:
                requests = {one.id: one.requests for one in heard(store, use_case).replicas}
                endpoint.heard_s = begun_s
            done = endpoint.watch.round(now or clock, traffic, requests)
            if self._show is not None:
                self._show(use_case, endpoint.watch, store, None if done.behind else begun_s, clock)
            return done

    def _define(self, use_case: str, watch: DriftWatch, store: ControlStore) -> None:
        """Let the watch go by what was set for the use case, from the next window on."""
        revision = definition_of(store, use_case)
        number = 0 if revision is None else revision.revision
        if number != watch.revision:
            set_label_times(self._artifacts, use_case, revision)
            watch.define(number)

    def keep_ledgers(self) -> None:
        """Look after the ledgers of which it is time: what is read can be moved."""
        for use_case in self.watched:
            try:
                if done := keep_up_if_due(self._settings, self._opened(), use_case):
                    _logger.info("Looked after the ledger of %s: %s", use_case, done)
            except (MlopsRayError, OSError) as error:
                _logger.warning("The ledger of %s is not looked after, but later: %s", use_case, error)
            except Exception:
                _logger.exception("Looking after the ledger of %s failed", use_case)

    def _tried(self, use_case: str) -> bool:
        endpoint = self._endpoints.get(use_case)
        if endpoint is None or time.monotonic() < endpoint.again_s:
            return False
        try:
            done = self.round(use_case)
        except DataError as error:  # what it knew is of another format: a person must act
            self._stands_still(use_case, endpoint, error)
        except (UnavailableError, OSError) as error:
            if endpoint.said != str(error):
                _logger.warning("The watch of %s goes on later: %s", use_case, error)
            endpoint.said = str(error)
        except Exception as error:
            if missing := missing_extra(error):
                self._stands_still(use_case, endpoint, missing)
                return False
            if endpoint.said != repr(error):
                _logger.exception("A round of the watch of %s failed, and is repeated", use_case)
            endpoint.said = repr(error)
        else:
            if endpoint.said:
                _logger.info("The watch of %s goes on", use_case)
            endpoint.said = ""
            if done.rows or done.announced:
                _logger.info("Watched %s: %s", use_case, done)
            return done.behind
        return False

    def _stands_still(self, use_case: str, endpoint: _Endpoint, error: MlopsRayError) -> None:
        endpoint.again_s = time.monotonic() + STANDS_STILL_S
        if endpoint.said == (why := str(error)):
            return
        try:
            report_unwatched(self._opened(), use_case, why)
        except MlopsRayError as error:
            _logger.warning("That %s is not watched is not recorded yet: %s", use_case, error)
            return
        _logger.error("The watch of %s stands still: %s", use_case, why)
        endpoint.said = why

    def _is_ours(self, use_case: str) -> bool:
        if place_of(use_case, self._settings.drift_watchers) != self._place:
            return False
        found = self._artifacts.read_json(_PLACE, use_case, _FILE)
        return found is not None and found["pool"] == self._pool

    def _opened(self) -> ControlStore:
        if self._store is None:
            self._store = open_store(self._settings)
        return self._store
