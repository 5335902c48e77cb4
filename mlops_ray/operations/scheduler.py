"""Scheduler: decides what is due, has it started, and sees it through, whoever dies in between.

All that it knows stands in the control store, so each step can be done again: what was decided is started if it was
not, and what died without a word is started again. It carries nothing out itself (`operations.carry_out`).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import uuid6

from mlops_ray.errors import ConflictError, MlopsRayError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.leases import hold, holding, release
from mlops_ray.governance.schedule_runs import (
    MOST,
    Run,
    decide_next,
    died,
    give_up,
    left_by_hand,
    let_go,
    running,
)
from mlops_ray.governance.schedules import list_schedules
from mlops_ray.operations.due import decide, is_due
from mlops_ray.retraining.launcher import Phase

LEASE = "scheduler"
HELD_FOR = timedelta(minutes=1)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOrder:
    """What to start: `run` under its `submission`, with the use case's file and definitions."""

    run: Run
    reference: str
    feature_repo: str


class RunLauncher(Protocol):
    def phase(self, submission: str) -> Phase:
        """How far the submission is; `new` if nobody has heard of it. Raises UnavailableError if nobody answers."""
        ...

    def start(self, order: RunOrder) -> None:
        """Start it, if that did not happen yet, and return at once. The same submission never runs twice."""
        ...


class Scheduler:
    """Carries out the schedules of all use cases. Any number of them may do so at once, of one cluster or of several
    that share a control store: one has the lease, the others wait until it falls silent.
    """

    def __init__(self, store: ControlStore, launcher: RunLauncher):
        self._store, self._launcher = store, launcher
        self._holder = str(uuid6.uuid7())

    def round(self, now: datetime | None = None) -> bool:
        """Once through all schedules and all runs; whether it is us who have the lease.

        now: instead of the database's clock, for simulated time. What cannot be done for one of them is logged, and
        tried again in the next round. Raises UnavailableError if the control store is away.
        """
        if hold(self._store, LEASE, self._holder, HELD_FOR):
            return False
        declared = {(one.use_case, one.operation): one for one in list_schedules(self._store)}
        for run in left_by_hand(self._store):
            with _alone(run.name), suppress(ConflictError), holding(self._store, run.lease):
                one = declared.get((run.use_case, run.operation))
                let_go(self._store, run, is_due=one is not None and is_due(one, run.due_at))
        for use_case, operation in declared:
            with _alone(f"{use_case} {operation}"):
                while (plan := decide_next(self._store, use_case, operation, decide, now)) and len(plan.states) >= MOST:
                    continue
        for run in running(self._store):
            with _alone(run.name):
                self._see_through(run)
        return True

    def leave(self) -> None:
        """Give the lease back."""
        release(self._store, LEASE, self._holder)

    def _see_through(self, run: Run) -> None:
        """While its schedule is paused nothing is: what would be started again is after that."""
        phase = self._launcher.phase(run.submission)  # before the run is looked at again: its end is written first
        found = list_schedules(self._store, run.use_case)  # as it stands now: a round may take long
        declared = next((one for one in found if one.operation == run.operation), None)
        if declared is not None and declared.paused_at is not None:
            return
        if phase == "ended":
            died(self._store, run, may_start_again=declared is not None)
        elif phase == "new" and declared is None:
            give_up(self._store, run)
        elif phase == "new":
            assert declared is not None
            self._launcher.start(RunOrder(run, declared.reference, declared.feature_repo))


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """What one of them cannot do holds up no other."""
    try:
        yield
    except MlopsRayError as error:
        _logger.warning("%s: %s", name, error)
    except Exception:
        _logger.exception("%s could not be looked after", name)
