"""The driver's account of all trials of a search, and its copy in MLflow."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

from mlops_ray.code_version import environment_digest
from mlops_ray.errors import UnavailableError, UseCaseError
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.training.budget import Budget
from mlops_ray.training.tracking import SearchRuns
from mlops_ray.training.trial import SearchProgress, SearchResult, Spent, Trial, best_so_far
from mlops_ray.use_case import UseCase
from mlops_ray.use_case.search import ENSEMBLE

logger = logging.getLogger(__name__)


class TrialLedger:
    """What has begun, what has come of it, and what was spent; trials by their id, in the order in which they began."""

    def __init__(
        self,
        runs: SearchRuns,
        training_set: TrainingSet,
        use_case: UseCase,
        budget: Budget,
        progress: Callable[[SearchProgress], None] | None,
        retry_failed: bool = False,
    ) -> None:
        self._runs = runs
        self._training_set = training_set
        self._use_case = use_case
        self._metric = use_case.label.task.metrics[use_case.metric]
        self._progress = progress
        self._recorded = {trial.trial_id: trial for trial in runs.trials(retry_failed)}
        self._logged = {name: trial for name, trial in self._recorded.items() if trial.status != "running"}
        # The average is found anew by each attempt, the same one.
        self.trials = {name: trial for name, trial in self._recorded.items() if trial.candidate != ENSEMBLE}
        self.average: Mapping[str, Any] = {}
        self.budget = budget
        self._seconds_before = runs.seconds()
        # By the prices of their days. What came of those attempts is among the trials, and not counted twice.
        self._cost_before = 0.0 if budget.prices is None else runs.cost(budget.prices.currency)
        self._cost_known = budget.spent_by(self.trials.values()).cost or 0.0
        self._started: float | None = None
        self._said = self._seconds_before
        self.started_from = runs.started_from

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles what it is given for a restore that is not used here, and connections do not pickle."""
        return {}

    def start_clock(self, started: float) -> None:
        """started: by `time.monotonic`. While nothing is done, no time of the search passes."""
        self._started = started

    def spent(self) -> Spent:
        """Of this attempt and those before."""
        now = 0.0 if self._started is None else time.monotonic() - self._started
        found = self.budget.spent_by(trial for trial in self.trials.values() if trial.candidate != ENSEMBLE)
        cost = None if found.cost is None else self._cost_before + (found.cost - self._cost_known)
        return replace(found, seconds=self._seconds_before + now, cost=cost)

    def ended_by(self) -> str:
        return self.budget.ended_by(self.spent())

    def unfinished(self) -> list[Trial]:
        """Trials that have begun and not ended: at the start those of an attempt that was killed."""
        return [trial for trial in self.trials.values() if trial.status == "running"]

    def ended(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.status != "running"]

    def of(self, candidate: str) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.candidate == candidate]

    def next_number(self, candidate: str) -> int:
        """Also where a trial in between failed in another environment and is to run again."""
        taken = {trial.number for trial in self.of(candidate)}
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def begin(self, trial: Trial) -> None:
        """Count a trial as begun that has no run in MLflow yet; it gets one when its worker starts."""
        self.trials[trial.trial_id] = trial

    def stop(self) -> None:
        """End what still runs, because the budget is spent."""
        why = f"The search was over. {self.ended_by()}."
        for trial in self.unfinished():
            self.update(replace(trial, status="stopped", message=why))

    def update(self, trial: Trial) -> None:
        """Take over the new state of a trial and copy it to MLflow, later if MLflow is away now."""
        self.trials[trial.trial_id] = trial
        try:
            self._log(trial)
            self._log_spent()
        except UnavailableError as error:
            logger.warning("Trial %s is not logged yet, and will be when the search ends. %s", trial.trial_id, error)
        if self._progress is not None:
            trials = tuple(self.trials.values())
            self._progress(
                SearchProgress(
                    len(self.ended()),
                    self.budget.trials,
                    self.trials[trial.trial_id],
                    best_so_far(trials, self._metric),
                )
            )

    def add_average(self, trial: Trial) -> None:
        """A trial beside those of the budget; it keeps the run that an earlier attempt has made for it."""
        recorded = self._recorded.get(trial.trial_id)
        self.update(replace(trial, run_id=recorded.run_id) if recorded else trial)

    def reconcile(self) -> None:
        """Bring MLflow to the same state, and stop the clock. Raises UnavailableError."""
        for trial in list(self.trials.values()):
            self._log(trial)
        self._log_spent()
        if self._started is not None:
            self._seconds_before, self._started = self._said, None

    def abandon(self) -> None:
        """Say in MLflow that nobody is working on the search; a rerun takes it up again."""
        try:
            self._runs.end("KILLED", None)
        except UnavailableError as error:
            logger.warning("The search's run could not be marked as killed. %s", error)

    def result(self) -> SearchResult:
        trials = tuple(sorted(self.trials.values(), key=lambda trial: (self._rank(trial), trial.number)))
        ended_by, spent = self.ended_by(), self.spent()
        average = next((trial for trial in trials if trial.candidate == ENSEMBLE), None)
        best = average or best_so_far(trials, self._metric)
        self._runs.end("FAILED" if best is None else "FINISHED", best, ended_by)
        if best is None:
            self._refuse(trials, ended_by)
        return SearchResult(
            self._runs.parent_run_id,
            self._use_case.metric,
            best,
            trials,
            environment_digest(),
            ended_by,
            spent,
            self._runs.started_from,
            self.average,
        )

    def _refuse(self, trials: tuple[Trial, ...], ended_by: str) -> NoReturn:
        name = self._use_case.name
        if not any(trial.status == "failed" for trial in trials):
            raise UseCaseError(
                f"No trial of use case {name} came to a first result. The search ended by {ended_by}. Give it more, "
                f"or Search(rows=...), with which trials are shorter."
            )
        messages = dict.fromkeys(f"{trial.candidate}: {trial.message}" for trial in trials if trial.message)
        raise UseCaseError(
            f"None of the {len(trials)} trials of use case {name} finished. {' '.join(messages)} "
            f"Repair the candidates or their search spaces, or install what they lack, and run the same again: "
            f"trials that failed run again once code or installed packages have changed, or with --retry-failed."
        )

    def _log_spent(self) -> None:
        if self._started is not None:
            spent, prices = self.spent(), self.budget.prices
            self._said = spent.seconds
            self._runs.log_spent(spent.seconds, {} if prices is None else {prices.currency: spent.cost or 0.0})

    def _rank(self, trial: Trial) -> int:
        names = [candidate.name for candidate in self._use_case.candidates]
        return (*names, ENSEMBLE).index(trial.candidate)

    def _log(self, trial: Trial) -> None:
        logged = self._logged.get(trial.trial_id)
        if logged is None:
            trial = self.trials[trial.trial_id] = self._runs.start(trial, self._training_set)
            logged = replace(self._recorded.get(trial.trial_id, trial), status="running")
            if trial.trial_id not in self._recorded:
                logged = replace(logged, steps=())
            self._logged[trial.trial_id] = logged
        for step in trial.steps[len(logged.steps) :]:
            self._runs.log_step(trial, step)
            logged = logged.with_step(step)
            self._logged[trial.trial_id] = logged
        if trial.status != "running" and logged.status == "running":
            self._runs.finish(trial)
            self._logged[trial.trial_id] = trial
