"""Rollout controller: one replica of a use case carries out what the rules decide, and looks after the champion."""

import logging
import time
from collections.abc import Callable
from datetime import timedelta

from mlops_ray.errors import ConflictError, ForbiddenError, MlopsRayError
from mlops_ray.governance.alarms import open_alarms
from mlops_ray.governance.clearance import expect_servable
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.leases import hold, release
from mlops_ray.governance.live import Live, Numbers, Rollout, VersionRef
from mlops_ray.governance.replicas import forget_silent, heard
from mlops_ray.governance.rollback import leave_unservable, roll_back
from mlops_ray.governance.rollouts import advance, fail, promote
from mlops_ray.serving.rollout import Decision, decide, step_key

LEASE = timedelta(seconds=5)
FORGET_EVERY_S = 60.0
SHOW_AGAIN_S = 60.0

_logger = logging.getLogger(__name__)


class RolloutController:
    """Decides while it holds the lease of its use case; another replica goes on when the holder is silent.

    Two that believe to hold it do no harm: each decision names what it is about, and only the first counts.
    show_champion: lets those who look elsewhere see which version is champion. It may hang, so it is asked apart, by
    `show`.
    """

    def __init__(
        self, store: ControlStore, use_case: str, holder: str, show_champion: Callable[[VersionRef], None] | None
    ):
        self._store, self._use_case, self._holder = store, use_case, holder
        self._lease = f"rollout {use_case}"
        self._show_champion = show_champion
        self._shown: tuple[VersionRef | None, float] = (None, float("-inf"))
        self._forgot_s = self._anothers_until_s = float("-inf")
        self._state: Live | None = None

    def round(self) -> None:
        """Decide if it is ours to decide."""
        if time.monotonic() < self._anothers_until_s:
            return
        anothers = hold(self._store, self._lease, self._holder, LEASE)
        if anothers:
            self._state = None
            self._anothers_until_s = time.monotonic() + anothers.total_seconds()
            return
        state = leave_unservable(self._store, self._use_case)
        if state.rollout:
            self._carry_out(state, state.rollout)
        if time.monotonic() - self._forgot_s >= FORGET_EVERY_S:
            self._forgot_s = time.monotonic()
            forget_silent(self._store, self._use_case, step_key(state.rollout) if state.rollout else "")
        self._state = state

    def show(self) -> None:
        """Show the champion where it is another, and again from time to time: what was shown may have been changed, or
        have come too late."""
        champion = self._state.champion if self._state else None
        shown, at_s = self._shown
        if champion is None or self._show_champion is None:
            return
        if champion != shown or time.monotonic() - at_s >= SHOW_AGAIN_S:
            self._show_champion(champion)
            self._shown = champion, time.monotonic()

    def stop(self) -> None:
        """Let another replica decide at once."""
        try:
            release(self._store, self._lease, self._holder)
        except MlopsRayError as error:
            _logger.warning("%s", error)

    def _carry_out(self, state: Live, rollout: Rollout) -> None:
        decision = self._decision(state, rollout)
        if decision is None:
            return
        try:
            self._apply(state, rollout, decision)
        except ConflictError as error:
            _logger.info("Nothing was done: %s", error)
            return
        _logger.info(
            "Rollout of %s version %d: %s. %s %s",
            self._use_case, rollout.version.version, decision.action, decision.reason, decision.numbers,
        )  # fmt: skip

    def _decision(self, state: Live, rollout: Rollout) -> Decision | None:
        try:
            expect_servable(self._store, self._use_case, rollout.version)
        except ForbiddenError as error:  # its approval was revoked on the way
            return Decision("roll_back", str(error))
        said = heard(self._store, self._use_case)
        alarms = open_alarms(self._store, self._use_case, rollout.version.version, said.now)
        return decide(state, said.replicas, alarms, said.now)

    def _apply(self, state: Live, rollout: Rollout, decision: Decision) -> None:
        given = (decision.reason, decision.numbers)
        if decision.action == "fail":
            fail(self._store, SYSTEM, self._use_case, rollout, *given)
        elif decision.action == "advance":
            advance(self._store, SYSTEM, self._use_case, rollout, *given)
        elif decision.action == "promote":
            try:
                promote(self._store, SYSTEM, self._use_case, rollout, *given)
            except ForbiddenError as error:  # its approval has expired on the way
                self._end(state, str(error))
        else:
            self._end(state, *given)

    def _end(self, state: Live, reason: str, numbers: Numbers | None = None) -> None:
        """Of the rollout; the champion stays."""
        assert state.champion is not None
        to = state.champion.version
        roll_back(self._store, SYSTEM, self._use_case, state.revision, to, reason, numbers)
