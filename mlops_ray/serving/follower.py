"""Follower: keeps a replica in step with the control store, says what the replica holds, and moves rollouts on."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime

from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError, MlopsRayError, UnavailableError
from mlops_ray.governance.alarms import open_alarms
from mlops_ray.governance.approvals import expect_servable
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.live import (
    Live,
    Replica,
    Step,
    VersionRef,
    advance,
    begin,
    fail,
    forget,
    live,
    promote,
    record_load_failure,
    replicas_of,
    report,
    roll_back,
)
from mlops_ray.governance.principals import active_keys
from mlops_ray.serving.auth import Guard
from mlops_ray.serving.counters import Counts
from mlops_ray.serving.rollout import FRESH, Decision, decide, step_key
from mlops_ray.serving.served_version import ServedVersion

POLL_S = 1.0
REPORT_S = 3.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Traffic:
    """What a replica does with requests. candidate: the version of the rollout, if loaded here; step: its part."""

    revision: int
    champion: ServedVersion
    candidate: ServedVersion | None = None
    step: Step | None = None
    sticky: str | None = None


class Follower:
    """Follows one use case in a thread. `traffic` and `counts` are read and written by the endpoint meanwhile.

    load: makes a version ready, or raises. A version that fails never takes traffic; what served before goes on. If
    the control store is away, all stays as it was. on_round: called once each round, for what else is periodic.
    on_champion: called at the start and when the champion is another, until it succeeds.
    """

    def __init__(
        self,
        store: ControlStore,
        use_case: str,
        replica_id: str,
        node: str,
        load: Callable[[VersionRef], ServedVersion],
        guard: Guard,
        on_round: Callable[[], None] = lambda: None,
        on_champion: Callable[[VersionRef], None] = lambda version: None,
    ):
        self.store, self.use_case = store, use_case
        self._id, self._node = replica_id, node
        self._load, self._guard = load, guard
        self._on_round, self._on_champion = on_round, on_champion
        self._told: VersionRef | None = None
        self.counts: defaultdict[tuple[str, str], Counts] = defaultdict(Counts)
        self._loaded: dict[str, ServedVersion] = {}
        self._failed: dict[str, str] = {}
        self._refused: set[str] = set()
        self._step, self._baseline = "", dict(self.counts)
        self._reported = (0.0, -1)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    def start(self) -> None:
        """Begin to follow, in a thread; after `prepare`."""
        self._thread.start()

    def prepare(self) -> None:
        """Load the champion, or the one before it if that fails; where nothing ever was live, the first approved one.

        Raises ConfigurationError if nothing is live, and what `load` raises if nothing loads.
        """
        state = begin(self.store, self.use_case)
        if state.champion is None:
            raise ConfigurationError(
                f"Use case {self.use_case!r} has no champion. Run its pipeline first, or approve the version it made."
            )
        self._guard.keys = active_keys(self.store)
        if not self._hold(state.champion) and not (state.previous and self._hold(state.previous)):
            raise UnavailableError(f"No version of {self.use_case} loads: {'; '.join(self._failed.values())}")
        self.traffic = Traffic(state.revision, next(iter(self._loaded.values())))

    def stop(self) -> None:
        """Stop following, and let the others know that this replica is gone."""
        self._stopping.set()
        self._thread.join(timeout=5)
        try:
            forget(self.store, self._id)
        except MlopsRayError as error:
            _logger.warning("%s", error)

    def expect_alive(self) -> None:
        """Raise RuntimeError if the thread has ended, so that Serve replaces the replica."""
        if not self._thread.is_alive():
            raise RuntimeError("The thread that follows the control store has ended.")

    def _follow(self) -> None:
        while not self._stopping.wait(POLL_S):
            try:
                self.follow_once()
            except UnavailableError as error:
                _logger.warning("Going on with what was known: %s", error)
            except Exception:
                _logger.exception("A round of following the control store failed")

    def follow_once(self) -> None:
        """One round: read what is live, load what is missing, route accordingly, report, decide."""
        self._guard.keys = active_keys(self.store)
        state = live(self.store, self.use_case)
        for version in state.versions():
            self._hold(version)
            self._route(state)
        self._drop_all_but(state)
        self._report(state)
        if state.rollout:
            self._carry_out(state)
        self._on_round()
        if state.champion and state.champion != self._told:
            self._on_champion(state.champion)
            self._told = state.champion

    def _hold(self, version: VersionRef) -> bool:
        """Whether the version is ready here. A failure to load is final for this replica; being unable to reach the
        registry is not, and an approval that is missing may come."""
        if version.digest in self._loaded:
            return True
        if version.digest in self._failed and version.digest not in self._refused:
            return False
        try:
            expect_servable(self.store, self.use_case, version)
            self._loaded[version.digest] = self._load(version)
        except UnavailableError as error:
            _logger.warning("Version %d of %s is not loaded yet: %s", version.version, self.use_case, error)
            return False
        except ForbiddenError as error:
            self._refuse(version, str(error))
            return False
        except Exception as error:
            self._failed[version.digest] = f"{type(error).__name__}: {error}"
            _logger.exception("Version %d of %s does not load", version.version, self.use_case)
            record_load_failure(self.store, self.use_case, version, self._id, self._failed[version.digest])
            return False
        _logger.info("Loaded %s version %d (digest %s)", self.use_case, version.version, version.digest)
        if version.digest in self._refused:
            self._refused.remove(version.digest)
            del self._failed[version.digest]
        return True

    def _refuse(self, version: VersionRef, why: str) -> None:
        """Set aside what nobody approved, and say so once."""
        if version.digest in self._refused:
            return
        self._refused.add(version.digest)
        self._failed[version.digest] = why
        _logger.warning("%s", why)
        record_load_failure(self.store, self.use_case, version, self._id, why)

    def _route(self, state: Live) -> None:
        assert state.champion is not None
        champion = self._loaded.get(state.champion.digest, self.traffic.champion)
        if state.rollout is None:
            self.traffic = Traffic(state.revision, champion)
            return
        if step_key(state.rollout) != self._step:
            self._step, self._baseline = step_key(state.rollout), deepcopy(dict(self.counts))
        candidate = self._loaded.get(state.rollout.version.digest)
        self.traffic = Traffic(state.revision, champion, candidate, state.rollout.current, state.rollout.plan.sticky)

    def _drop_all_but(self, state: Live) -> None:
        kept = {version.digest for version in state.versions()} | {self.traffic.champion.digest}
        for digest in self._loaded.keys() - kept:
            self._loaded.pop(digest).close()
        self._failed = {digest: text for digest, text in self._failed.items() if digest in kept}
        self._refused &= kept

    def _report(self, state: Live) -> None:
        now_s = time.monotonic()
        said_at, said = self._reported
        if now_s - said_at < REPORT_S and said == state.revision and not state.rollout:
            return
        mine = Replica(
            self._id, self._node, state.revision, tuple(self._loaded), self._failed, self._step_counters(state)
        )
        report(self.store, self.use_case, mine)
        self._reported = (now_s, state.revision)
        fresh = datetime.now(UTC) - FRESH
        alive = [r for r in replicas_of(self.store, self.use_case) if r.seen_at and r.seen_at > fresh]
        self._guard.replicas = max(1, len(alive))

    def _step_counters(self, state: Live) -> dict[str, object]:
        """What was counted since the step began."""
        rollout = state.rollout
        if rollout is None or rollout.current is None:
            return {}
        sides = {
            "champion": (self.traffic.champion.version, "champion"),
            "version": (str(rollout.version.version), rollout.current.route),
        }
        none = Counts()
        counted = {
            side: (self.counts.get(key, none) - self._baseline.get(key, none)).to_json() for side, key in sides.items()
        }
        return {"step": self._step, **counted}

    def _carry_out(self, state: Live) -> None:
        """Every replica decides; whoever is first has done it, and the others' attempts find the state changed."""
        decision = self._decision(state)
        if decision is None:
            return
        try:
            self._apply(state, decision)
        except ConflictError as error:
            _logger.info("Somebody was faster: %s", error)
            return
        assert state.rollout is not None
        _logger.info(
            "Rollout of %s version %d: %s. %s %s",
            self.use_case, state.rollout.version.version, decision.action, decision.reason, decision.numbers,
        )  # fmt: skip

    def _decision(self, state: Live) -> Decision | None:
        assert state.rollout is not None
        try:
            expect_servable(self.store, self.use_case, state.rollout.version)
        except ForbiddenError as error:  # its approval was revoked on the way
            return Decision("roll_back", str(error))
        now = datetime.now(UTC)
        alarms = open_alarms(self.store, self.use_case, state.rollout.version.version, now)
        return decide(state, replicas_of(self.store, self.use_case), alarms, now)

    def _apply(self, state: Live, decision: Decision) -> None:
        given = (decision.reason, decision.numbers)
        if decision.action == "roll_back":
            roll_back(self.store, SYSTEM, self.use_case, state, *given)
        elif state.rollout and decision.action == "fail":
            fail(self.store, SYSTEM, self.use_case, state.rollout, *given)
        elif state.rollout and decision.action == "advance":
            advance(self.store, SYSTEM, self.use_case, state.rollout, *given)
        elif state.rollout:
            try:
                promote(self.store, SYSTEM, self.use_case, state.rollout, *given)
            except ForbiddenError as error:  # its approval has expired on the way
                roll_back(self.store, SYSTEM, self.use_case, state, str(error))
