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
from mlops_ray.governance.control_store import ControlStore, database_now, open_store
from mlops_ray.governance.live import live
from mlops_ray.governance.unwatched import report_unwatched
from mlops_ray.monitoring.drift_watch import DriftWatch, Round
from mlops_ray.monitoring.ledger_upkeep import keep_up_if_due

# What a person must mend is tried again so much later.
STANDS_STILL_S = 60.0
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


def versions_with_traffic(store: ControlStore, use_case: str) -> list[str] | None:
    """The champion, and the version of a rollout; None where nothing is live."""
    state = live(store, use_case)
    if state.champion is None:
        return None
    return [str(ref.version) for ref in (state.champion, state.rollout and state.rollout.version) if ref]


@dataclass
class _Endpoint:
    """said: what is wrong, as it was logged last. again_s: not to be tried before, on the monotonic clock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    watch: DriftWatch | None = None
    said: str = ""
    again_s: float = 0.0


class Watcher:
    """One of the watchers of a pool, at its `place`. Safe for threads: one endpoint's rounds follow one another."""

    def __init__(self, settings: Settings, pool: str, place: int, open_watch: OpenWatch, show: Show | None = None):
        self._settings, self._pool, self._place = settings, pool, place
        self._artifacts, self._open_watch, self._show = Artifacts(settings.artifacts), open_watch, show
        self._endpoints: dict[str, _Endpoint] = {}
        self._store: ControlStore | None = None

    @property
    def watched(self) -> tuple[str, ...]:
        """The endpoints that it has, by name."""
        return tuple(sorted(self._endpoints))

    def take(self, use_case: str) -> None:
        self._endpoints.setdefault(use_case, _Endpoint())

    def drop(self, use_case: str) -> None:
        """Have this endpoint no more; whoever is assigned next goes on where it was."""
        if self._is_ours(use_case):
            self._artifacts.delete(_PLACE, use_case, _FILE)
        self._endpoints.pop(use_case, None)

    def look(self) -> None:
        """Take and drop endpoints as they are assigned."""
        named = {entry.name for entry in self._artifacts.entries(_PLACE)}
        mine = {one for one in named if place_of(one, self._settings.drift_watchers) == self._place}
        ours = {use_case for use_case in mine if self._is_ours(use_case)}
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
        endpoint = self._endpoints.setdefault(use_case, _Endpoint())
        with endpoint.lock:
            store = self._opened()
            if endpoint.watch is None:
                endpoint.watch = self._open_watch(use_case, store)
            traffic = versions_with_traffic(store, use_case)
            with store.reading() as connection:
                clock = database_now(connection)
            begun_s = time.monotonic()
            done = endpoint.watch.round(now or clock, traffic)
            if self._show is not None:
                self._show(use_case, endpoint.watch, store, None if done.behind else begun_s, clock)
            return done

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
            endpoint.again_s = time.monotonic() + STANDS_STILL_S
            self._stands_still(use_case, endpoint, str(error))
        except (UnavailableError, OSError) as error:
            if endpoint.said != str(error):
                _logger.warning("The watch of %s goes on later: %s", use_case, error)
            endpoint.said = str(error)
        except Exception as error:
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

    def _stands_still(self, use_case: str, endpoint: _Endpoint, why: str) -> None:
        if endpoint.said == why:
            return
        try:
            report_unwatched(self._opened(), use_case, why)
        except MlopsRayError as error:
            _logger.warning("That %s is not watched is not recorded yet: %s", use_case, error)
            return
        _logger.error("The watch of %s stands still: %s", use_case, why)
        endpoint.said = why

    def _is_ours(self, use_case: str) -> bool:
        found = self._artifacts.read_json(_PLACE, use_case, _FILE)
        return found is not None and found["pool"] == self._pool

    def _opened(self) -> ControlStore:
        if self._store is None:
            self._store = open_store(self._settings)
        return self._store
