"""Governor: looks at alarms and the clock, decides, and sees each retraining through, whoever dies in between.

All that it knows stands in the audit log and below the artifact root, so each step can be done again: what was decided
is started if it was not, what has ended is recorded if it was not.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.cost.history import used_by
from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError
from mlops_ray.governance.approvals import list_approvals
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import SYSTEM, Actor, Event, Severity, read_events
from mlops_ray.governance.live import live
from mlops_ray.governance.retrainings import DECIDED, FINISHED, Entry, history, record_next
from mlops_ray.governance.rollouts import start_rollout
from mlops_ray.governance.versions import VersionRef
from mlops_ray.retraining.history import History, Running, read_history
from mlops_ray.retraining.launcher import Launcher, Order
from mlops_ray.retraining.policy import Decision, State, decide, retraining_id
from mlops_ray.retraining.result import Result, champion_lineage, find_result
from mlops_ray.use_case import Question, UseCase

ATTEMPTS = 3
ROLLOUT_STARTED = "rollout.started"
HOUR = timedelta(hours=1)
_HOUR_S = 3600
# How many labels became known after the first moment (None: ever) and up to the second.
NewRows = Callable[[datetime | None, datetime], int]
# Questions about which the champion's watch can raise no alarm, with why.
Blind = Callable[[], Mapping[Question, str]]

_logger = logging.getLogger(__name__)


class Governor:
    """Governs one use case. Any number of them may do so at once; rounds may end anywhere and be repeated.

    actor: in whose name approvals are asked for. clock: on the wall, by which a retraining may take too long; `now` of
    a round may be simulated. Raises ConfigurationError if the use case declares no retraining.
    """

    def __init__(
        self,
        use_case: UseCase,
        settings: Settings,
        launcher: Launcher,
        new_rows: NewRows,
        actor: Actor = SYSTEM,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        blind: Blind = dict,
    ):
        if use_case.retraining is None:
            raise ConfigurationError(
                f"Use case {use_case.name} declares no retraining. Add retraining=Retraining(...) to it."
            )
        self._use_case, self._policy, self._name = use_case, use_case.retraining, use_case.name
        self._store: ControlStore = open_store(settings)
        self._artifacts = Artifacts(settings.artifacts)
        self._launcher, self._new_rows, self._actor = launcher, new_rows, actor
        self._clock, self._blind = clock, blind

    def round(self, now: datetime) -> Decision:
        """See the running retraining through, then decide; returns the decision that holds now."""
        known = self._known(now)
        if known.running is not None:
            self._see_through(known.running, now)
        decision = self._decide(now)
        if decision.action == "retrain":
            ordered = self._known(now).running
            if ordered is not None:
                self._see_through(ordered, now)
        return decision

    def _known(self, now: datetime) -> History:
        return read_history(history(self._store, self._name), now)

    def _decide(self, now: datetime) -> Decision:
        """Decide and record it, unless it is the decision that was recorded last.

        A decision to wait or to stop is recorded when its cause or its alarms change, and not again each round with
        other numbers: the log would be flooded.
        """
        trained = self._trained(self._known(now), now)
        rows, offered, blind = self._new_rows(trained, now), self._offered(), self._blind()
        made: list[Decision] = []

        def next_entry(events: Sequence[Event]) -> Entry | None:
            known = read_history(events, now)
            state = State(known.alarms, known.past, known.losses, offered, trained, rows, blind)
            made.append(decide(self._policy, state, now))
            return self._entry(known, state, made[-1], now)

        if record_next(self._store, SYSTEM, self._name, next_entry):
            _logger.info("Retraining of %s: %s (%s). %s", self._name, made[-1].action, made[-1].cause, made[-1].reason)
        return made[-1]

    def _entry(self, known: History, state: State, decision: Decision, now: datetime) -> Entry | None:
        said = {"action": decision.action, "cause": decision.cause, "alarms": list(decision.alarms)}
        payload: dict[str, Any] = said | {"at": now.isoformat(), "numbers": dict(decision.numbers)}
        if decision.action == "retrain":
            payload["order"] = {"id": retraining_id(self._name, state, decision), "as_of": now.isoformat()}
        elif known.last is not None and {name: known.last.get(name) for name in said} == said:
            return None
        severity: Severity | None = "warning" if decision.action == "stop" else None
        return Entry(DECIDED, f"retraining {self._name}", decision.reason, payload, severity)

    def _trained(self, known: History, now: datetime) -> datetime | None:
        """Up to when the last training knew the data: the last retraining that ended well or, if later, the champion's,
        which somebody may have trained by hand.

        In a rehearsal the champion can be of later data than `now`. Then it counts, before any retraining, what it was
        fitted on, which lies before its test period.
        """
        done = [past.decided for past in known.past if past.outcome not in (None, "failed")]
        lineage = champion_lineage(self._store, self._artifacts, self._name)
        if lineage is not None:
            as_of, split = datetime.fromisoformat(lineage.as_of), self._use_case.split
            if as_of <= now:
                done.append(as_of)
            elif not done:
                return as_of - split.test - split.gap
        return max(done, default=None)

    def _see_through(self, order: Running, now: datetime) -> None:
        """Start a retraining that was decided, stop it if it takes too long, or record what came of it."""
        took = self._clock() - order.since
        for attempt in range(1, ATTEMPTS + 1):
            submission = f"{order.id}-{attempt}"
            phase = self._launcher.phase(submission)
            result = find_result(self._artifacts, self._name, order.id)  # after the phase: it is written before the end
            if result is not None:
                return self._finish(result, now)
            if phase == "ended":
                _logger.warning("Retraining %s: attempt %d ended without a result", order.id, attempt)
            elif took > self._policy.time_limit:
                return self._give_up(order, submission, took, now)
            elif phase == "new":
                return self._launcher.start(Order(submission, order.id, order.as_of))
            else:
                return None
        reason = f"It died without a result {ATTEMPTS} times."
        return self._finish(Result(order.id, order.as_of, "failed", reason), now)

    def _give_up(self, order: Running, submission: str, took: timedelta, now: datetime) -> None:
        """Stop it and count it as failed; repeated, if its end was not recorded."""
        self._launcher.stop(submission)
        hours, limit = took / HOUR, self._policy.time_limit / HOUR
        reason = (
            f"It had no result after {hours:.1f} hours (limit {limit:g}) and was stopped. Its log says what it waited "
            f"for; raise time_limit if it needs longer."
        )
        self._finish(Result(order.id, order.as_of, "failed", reason), now)

    def _finish(self, result: Result, now: datetime) -> None:
        """Record the outcome, and in the same transaction ask for approval of a challenger that won."""
        won = result.outcome == "better" and result.admissible
        # With a negative margin a person may want one that is not worse; by itself it never takes a champion's place.
        wanted = won or (result.outcome == "not worse" and self._policy.margin < 0 and result.admissible)
        by_itself = won and self._policy.promote and not self._needs_approval()
        if by_itself:  # first, as it can be repeated: once the end is recorded, nobody looks at it again
            self._roll_out(result)
        hours = used_by(self._store, self._name, result.id).cpu_s / _HOUR_S
        payload = asdict(result) | {"at": now.isoformat(), "rollout": by_itself, "cpu_hours": hours}

        def entry(events: Sequence[Event]) -> Entry | None:
            running = read_history(events, now).running
            if running is None or running.id != result.id:
                return None  # another governor has recorded it
            offer = result.version if wanted and not by_itself else None
            subject = f"{self._name}@{result.version}" if result.version else f"retraining {self._name}"
            severity: Severity | None = "warning" if result.outcome == "failed" else None
            return Entry(FINISHED, subject, result.reason, payload, severity, offer)

        if record_next(self._store, self._actor, self._name, entry):
            _logger.info("Retraining %s ended: %s. %s", result.id, result.outcome, result.reason)

    def _offered(self) -> int | None:
        """The version that waits for a verdict or, approved, for its rollout, or is in one: another would be compared
        with the old champion. One whose rollout has ended waits for nothing."""
        now = live(self._store, self._name)
        if now.rollout is not None:
            return now.rollout.version.version
        newer_than, clock = now.champion.version if now.champion else 0, self._clock()
        return next(
            (
                one.version
                for one in list_approvals(self._store, self._name)
                if one.version > newer_than
                and one.expires_at > clock
                and (one.state == "requested" or (one.state == "approved" and not self._was_rolled_out(one.version)))
            ),
            None,
        )

    def _was_rolled_out(self, version: int) -> bool:
        subject = f"{self._name}@{version}"
        return bool(read_events(self._store, use_case=self._name, types=[ROLLOUT_STARTED], subject=subject, limit=1))

    def _needs_approval(self) -> bool:
        return self._use_case.approval is not None and self._use_case.approval.required

    def _roll_out(self, result: Result) -> None:
        assert result.version is not None
        assert result.digest is not None
        version = VersionRef(result.version, result.digest)
        with suppress(ConflictError, ForbiddenError):  # it is under way already, or another is, or it was retired
            if live(self._store, self._name).champion is None:
                set_champion(self._store, self._actor, self._name, version, result.reason)
            else:
                start_rollout(self._store, self._actor, self._name, version)
