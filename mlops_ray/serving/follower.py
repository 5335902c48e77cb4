"""Follower: keeps a replica in step with the control store.

Its duties are done each in a thread of its own, so that none waits for another: one reads keys and what is live and
routes by it, and waits for nothing but the control store; each version is loaded aside; one reports, one decides, one
shows the champion elsewhere.
"""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass

from mlops_ray.errors import ConfigurationError, UnavailableError
from mlops_ray.governance.champion import begin
from mlops_ray.governance.clearance import expect_servable
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.keys import active_keys, read_active_keys
from mlops_ray.governance.live import Live, VersionRef, read_live
from mlops_ray.governance.replicas import Replica, Unmoved, record_load_failure
from mlops_ray.governance.rollback import leave_unservable
from mlops_ray.serving.auth import Guard
from mlops_ray.serving.controller import RolloutController
from mlops_ray.serving.counters import Counts
from mlops_ray.serving.duty import Duty
from mlops_ray.serving.loader import Loader
from mlops_ray.serving.reporter import Reporter
from mlops_ray.serving.request_totals import RequestTotals
from mlops_ray.serving.rollout import step_key
from mlops_ray.serving.served_version import ServedVersion
from mlops_ray.serving.traffic import Traffic, traffic_of

POLL_S = 1.0
LAST_ROUND_S = 1.0  # a report that came after the last word would bring this replica back to life
READ_AGAIN_S = 30.0  # even where no event was written since: somebody may have changed the database by hand

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Step:
    """The step of a rollout that this replica carries out. version: what `counts` calls the new version in it;
    baseline: the counts when it began."""

    key: str
    version: tuple[str, str]
    baseline: Mapping[tuple[str, str], Counts]


class Follower:
    """Follows one use case. `traffic` and `counts` are read and written by the endpoint meanwhile.

    load: makes a version ready, or raises. A version that fails never takes traffic; what served before goes on. If
    the control store is away, all stays as it was. show_champion: see `RolloutController`. unmoved: what this node
    would take with it if it were lost.
    """

    def __init__(
        self,
        store: ControlStore,
        use_case: str,
        replica_id: str,
        node: str,
        load: Callable[[VersionRef], ServedVersion],
        guard: Guard,
        show_champion: Callable[[VersionRef], None] | None = None,
        unmoved: Callable[[], Unmoved] = Unmoved,
    ):
        self.store, self.use_case = store, use_case
        self._id, self._node, self._guard, self._unmoved = replica_id, node, guard, unmoved
        self.counts: defaultdict[tuple[str, str], Counts] = defaultdict(Counts)
        self._totals = RequestTotals()
        self._step: _Step | None = None
        self._state = Live(use_case)
        self._traffic: Traffic | None = None
        self._read: tuple[int, float] = (-1, float("-inf"))
        self._loader = Loader(use_case, self._admit, load, self._tell_failure)
        self._reporter = Reporter(store, use_case, guard, self._described)
        self._controller = RolloutController(store, use_case, replica_id, show_champion)
        self._duties = (
            Duty("follow", self.follow, POLL_S),
            Duty("report", self._reporter.round, POLL_S),
            Duty("decide", self._controller.round, POLL_S),
            Duty("show champion", self._controller.show, POLL_S),
        )

    @property
    def traffic(self) -> Traffic:
        """What to do with requests; after `prepare`."""
        assert self._traffic is not None
        return self._traffic

    def prepare(self) -> None:
        """Load the champion, or the one before it if that fails; where nothing ever was live, the first approved one.

        Raises ConfigurationError if nothing is live, and UnavailableError if nothing loads.
        """
        begin(self.store, self.use_case)
        self._state = leave_unservable(self.store, self.use_case)
        champion, previous = self._state.champion, self._state.previous
        if champion is None:
            raise ConfigurationError(
                f"Use case {self.use_case!r} has no champion. Run its pipeline first, or approve the version it made."
            )
        self._guard.keys = active_keys(self.store)
        self._reporter.report()  # nothing is promoted over this replica from here on
        reporting = Duty("report", self._reporter.round, POLL_S)  # loading takes its time, and is no silence
        reporting.start()
        try:
            problems = [self._begin_with(ref) for ref in (champion, previous) if ref and self._traffic is None]
        finally:
            reporting.stop()
        if self._traffic is None:
            self._loader.stop()
            raise UnavailableError(f"No version of {self.use_case} loads: {'; '.join(problems)}")

    def _begin_with(self, ref: VersionRef) -> str:
        """Answer with `ref` if it loads; else why it does not."""
        self._loader.want({ref})
        self._loader.wait()
        if ref in self._loader.held:
            self._traffic = Traffic(self._state.revision, ref, self._loader.held[ref])
        trouble = self._loader.loading().get(ref)
        return self._loader.failed.get(ref) or (trouble.trouble if trouble else "")

    def start(self) -> None:
        """Begin to follow; after `prepare`."""
        for duty in self._duties:
            duty.start()

    def stop(self) -> None:
        """Stop following, and let the others know that this replica is gone."""
        for duty in self._duties:
            duty.stop()
        for duty in self._duties:
            duty.join(LAST_ROUND_S)
        self._controller.stop()
        self._reporter.leave()
        self._loader.stop()

    def versions(self) -> list[ServedVersion]:
        """All that are ready here."""
        return list(self._loader.held.values())

    def answered(self) -> dict[int, int]:
        """Requests that each version has answered here so far, shadows not counted."""
        found: Counter[int] = Counter()
        for (version, route), counts in list(self.counts.items()):
            if route != "shadow":
                found[int(version)] += counts.requests - counts.errors
        return dict(found)

    def request_columns(self) -> list[str]:
        """Of the champion."""
        return [column.name for column in self.traffic.champion.schema.request_columns]

    def expect_alive(self) -> None:
        """Raise RuntimeError if a thread has ended, so that Serve replaces the replica."""
        for duty in self._duties:
            duty.expect_alive()

    def follow_once(self) -> None:
        """One round of every duty, one after another and with all loading: what the threads do side by side."""
        self.follow()
        self._loader.wait()
        self._route()
        self._reporter.report()
        self._controller.round()
        self._controller.show()

    def follow(self) -> None:
        """Read keys and what is live, if anything was changed, and act on it."""
        head, (known, at_s) = self.store.head(), self._read
        if head != known or time.monotonic() - at_s >= READ_AGAIN_S:
            with self.store.reading() as connection:
                self._guard.keys = read_active_keys(connection)
                self._state = read_live(connection, self.use_case)
            self._read = head, time.monotonic()
        self._loader.want({*self._state.versions(), self.traffic.ref})
        self._route()

    def _admit(self, ref: VersionRef) -> None:
        expect_servable(self.store, self.use_case, ref)

    def _tell_failure(self, ref: VersionRef, why: str) -> None:
        if ref == self._state.previous:
            return  # nobody is sent to it; going back to it is refused where it may not serve
        serving = self._traffic.ref if self._traffic else None
        record_load_failure(self.store, self.use_case, ref, self._id, why, serving)

    def _route(self) -> None:
        state, before = self._state, self.traffic
        rollout, measured = state.rollout, self._step
        if rollout is None or rollout.current is None:
            self._step = None
        elif measured is None or measured.key != step_key(rollout):
            version = str(rollout.version.version), rollout.current.route
            self._step = _Step(step_key(rollout), version, deepcopy(dict(self.counts)))
        median_s = self.counts[before.champion.version, "champion"].median_s()
        self._traffic = traffic_of(state, self._loader.held, before, median_s)

    def _described(self) -> Replica:
        """Asked for by the reporter's thread while another routes: each of both is read once."""
        traffic, step = self._traffic, self._step
        return Replica(
            self._id,
            self._node,
            traffic.revision if traffic else 0,
            tuple(self._loader.held),
            self._loader.loading(),
            dict(self._loader.failed),
            traffic.ref if traffic else None,
            step.key if traffic and step else "",
            self._counted(step, traffic) if traffic and step else {},
            self._unmoved(),
            self._totals.look(self.counts, self.versions()),
        )

    def _counted(self, step: _Step, traffic: Traffic) -> dict[str, object]:
        """What was counted since the step began."""
        sides = {"champion": (traffic.champion.version, "champion"), "version": step.version}
        none = Counts()
        return {
            side: (self.counts.get(key, none) - step.baseline.get(key, none)).to_json() for side, key in sides.items()
        }
