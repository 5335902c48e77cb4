"""The search: one Ray Tune experiment over all candidates, which survives being killed.

MLflow holds every trial with its parameters, steps and end (training.tracking), so there is nothing to restore but
that: an attempt reads the trials that have ended, shows them to the sampler and to ASHA, and runs the rest. Tune's own
experiment state is not used for it. Tune writes it once in a while, in several files that do not change together,
without the state of its scheduler, and forgets trials begun after the last time.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import Searcher

from mlops_ray.code_version import environment_digest
from mlops_ray.config import Settings
from mlops_ray.errors import MlopsRayError, UnavailableError, UseCaseError
from mlops_ray.features.columns import LABEL
from mlops_ray.features.slices import most_memory
from mlops_ray.features.training_set import TrainingSet, read_split
from mlops_ray.training.encoding import fit_encoder
from mlops_ray.training.proposal import propose
from mlops_ray.training.tracking import SearchRuns, open_search
from mlops_ray.training.trial import SearchProgress, SearchResult, Step, Trial, TrialStatus, best_trial
from mlops_ray.training.worker import TrialData, TrialWorker
from mlops_ray.use_case import UseCase

# How often a trial is begun again whose worker died (out of memory, node lost). A candidate that raises is not.
_MAX_WORKER_FAILURES = 2
# Of a value of the training set: as a column, as a copy that is filtered and sorted, and in the matrix.
_BYTES_WHILE_ENCODED = 24
_TUNE_ENVIRONMENT = {
    # The new output prints a table even when it is told to be silent.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Tune writes each trial's results three times over for tools that we do not use.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ctrl-C ends the search like everything else; Tune's own handler would return half a result.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}

logger = logging.getLogger(__name__)


def search(
    use_case: UseCase,
    settings: Settings,
    training_set: TrainingSet,
    key: str,
    progress: Callable[[SearchProgress], None] | None = None,
    retry_failed: bool = False,
) -> SearchResult:
    """Search the parameters of all candidates; fit on the train part, judge on the validation part.

    `key` identifies the search: called again with the same key after being killed at any moment, it keeps the trials
    that have ended, runs those that have not, and makes no second MLflow run for any. Ray must be initialised. A trial
    that raises is recorded as failed; it does not end the search. Trials that failed before run again if what is
    installed has changed since, or all of them with `retry_failed`.

    Raises DataError if a part of the split is unusable, UseCaseError if no trial of any candidate finished,
    UnavailableError if MLflow is down.
    """
    started = time.monotonic()
    data = _encode_where_it_fits(use_case, training_set)
    runs = open_search(
        settings,
        use_case.name,
        use_case.metric,
        key,
        training_set,
        {
            "mlops_ray.feature_service": str(training_set.feature_service),
            "mlops_ray.search_rows": str(use_case.search.rows or "all"),
        },
    )
    ledger = _TrialLedger(runs, training_set, use_case, progress, retry_failed)
    todo = ledger.unfinished()
    logger.info("Search %s: %d trials, %d of them still to run.", runs.parent_run_id, len(ledger.trials), len(todo))
    try:
        if todo:
            _run(use_case, settings, data, key, ledger, todo)
            _require_ended(ledger)
        ledger.reconcile()
    except BaseException:
        ledger.abandon()
        raise
    result = ledger.result()
    logger.info(
        "Search %s: best is %s with %s %.4f, after %.1f s.",
        runs.parent_run_id,
        result.best.trial_id,
        use_case.metric,
        result.best.value,
        time.monotonic() - started,
    )
    return result


def _encode_where_it_fits(use_case: UseCase, training_set: TrainingSet) -> "TrialData | ray.ObjectRef[TrialData]":
    """What all trials read, or a reference to it: a training set of many files does not come past the driver."""
    if not training_set.parts:
        return _encode(use_case, training_set)
    rows = use_case.search.rows or training_set.rows
    memory = min(rows * (len(training_set.features) + 8) * _BYTES_WHILE_ENCODED, most_memory())
    reference = ray.remote(_encode).options(memory=memory).remote(use_case, training_set)
    try:
        ray.wait([reference], fetch_local=False)
        ray.get(ray.remote(_is_there).remote(reference))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MlopsRayError):
            raise error.cause from None
        raise
    return reference


def _encode(use_case: UseCase, training_set: TrainingSet) -> TrialData:
    """The encoder sees the train part only: a category first met in validation is unknown, as it would be later."""
    wanted, search = ("train", "validation"), use_case.search
    parts = read_split(training_set, use_case.split, use_case.label.task, wanted, search.rows, search.seed)
    train, validation = (parts[name] for name in wanted)
    encoder = fit_encoder(train, training_set.features)
    return TrialData(
        encoder.features,
        encoder.encode(train),
        use_case.label.task.encoded(train[LABEL]),
        encoder.encode(validation),
        use_case.label.task.encoded(validation[LABEL]),
    )


def _is_there(data: TrialData) -> bool:
    """Asked by a task of its own, so that the driver learns what failed without the data."""
    return len(data.train) > 0


def _run(
    use_case: UseCase,
    settings: Settings,
    data: "TrialData | ray.ObjectRef[TrialData]",
    key: str,
    ledger: "_TrialLedger",
    todo: Sequence[Trial],
) -> None:
    threads = _threads_per_trial(len(ledger.trials))
    candidates = {candidate.name: candidate for candidate in use_case.candidates}
    fit = tune.with_parameters(
        _trainable(),
        data=data,
        candidates=candidates,
        task=use_case.label.task,
        metric=use_case.metric,
        seed=use_case.search.seed,
        threads=threads,
    )
    with _environment(_TUNE_ENVIRONMENT):
        tune.Tuner(
            tune.with_resources(fit, {"cpu": threads}),
            tune_config=tune.TuneConfig(
                search_alg=_Turns(use_case, ledger, todo),
                scheduler=_AshaPerCandidate(use_case, ledger.ended()),
                num_samples=len(todo),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=key[:40],
                storage_path=f"{settings.state}/tune",
                callbacks=[_Report(ledger)],
                failure_config=tune.FailureConfig(max_failures=_MAX_WORKER_FAILURES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
                # The one for notebooks would clear what stands in the cell.
                progress_reporter=tune.CLIReporter(),
            ),
        ).fit()


def _require_ended(ledger: "_TrialLedger") -> None:
    unfinished = [trial.trial_id for trial in ledger.unfinished()]
    if unfinished:
        raise UnavailableError(
            f"Ray Tune ended with {len(unfinished)} of {len(ledger.trials)} trials not done: {', '.join(unfinished)}. "
            f"Run the same again: it goes on with them."
        )


def _threads_per_trial(trials: int) -> int:
    """Share the cluster's free CPUs among the trials: a trial on one core beside another beats two cores one by one.

    Where others hold some, as replicas do, it takes at most half a machine: waiting for all of it would never end.
    """
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    free = int(ray.available_resources().get("CPU", 0))
    return max(1, min(free // trials, max(nodes) if free >= sum(nodes) else max(nodes) // 2))


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Tune reads these settings from the environment only."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _trainable() -> type[tune.Trainable]:
    """Tune's view of a TrialWorker. Made in a function, so that it travels to workers by value and not by the name of
    this module, which they would have to import.
    """

    class Fit(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: Mapping[str, Any], **of_all_trials: Any) -> None:
            self._worker = TrialWorker(**of_all_trials)
            self.reset_config(config)

        def reset_config(self, new_config: Mapping[str, Any]) -> bool:
            self._worker.begin(new_config["candidate"], new_config["parameters"])
            return True

        def step(self) -> dict[str, Any]:
            return self._worker.step()

    return Fit


class _TrialLedger:
    """The driver's account of all trials, and its copy in MLflow."""

    def __init__(
        self,
        runs: SearchRuns,
        training_set: TrainingSet,
        use_case: UseCase,
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
        planned = [
            Trial(candidate.name, number, {})
            for number in range(use_case.search.trials_per_candidate)
            for candidate in use_case.candidates
        ]
        self.trials = {trial.trial_id: self._recorded.get(trial.trial_id, trial) for trial in planned}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles what it is given for a restore that is not used here, and connections do not pickle."""
        return {}

    def unfinished(self) -> list[Trial]:
        """In the order in which they are to run: the candidates take turns."""
        return [trial for trial in self.trials.values() if trial.status == "running"]

    def ended(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.status != "running"]

    def update(self, trial: Trial) -> None:
        """Take over the new state of a trial and copy it to MLflow, later if MLflow is away now."""
        self.trials[trial.trial_id] = trial
        try:
            self._log(trial)
        except UnavailableError as error:
            logger.warning("Trial %s is not logged yet, and will be when the search ends. %s", trial.trial_id, error)
        if self._progress is not None:
            trials = tuple(self.trials.values())
            self._progress(
                SearchProgress(
                    len(self.ended()), len(trials), self.trials[trial.trial_id], best_trial(trials, self._metric)
                )
            )

    def reconcile(self) -> None:
        """Bring MLflow to the same state; nothing happens where it already is. Raises UnavailableError."""
        for trial in list(self.trials.values()):
            self._log(trial)

    def abandon(self) -> None:
        """Say in MLflow that nobody is working on the search; a rerun takes it up again."""
        try:
            self._runs.end("KILLED", None)
        except UnavailableError as error:
            logger.warning("The search's run could not be marked as killed. %s", error)

    def result(self) -> SearchResult:
        trials = tuple(sorted(self.trials.values(), key=lambda trial: (self._rank(trial), trial.number)))
        best = best_trial(trials, self._metric)
        self._runs.end("FAILED" if best is None else "FINISHED", best)
        if best is None:
            messages = dict.fromkeys(f"{trial.candidate}: {trial.message}" for trial in trials)
            raise UseCaseError(
                f"None of the {len(trials)} trials of use case {self._use_case.name} finished. {' '.join(messages)} "
                f"Repair the candidates or their search spaces, or install what they lack, and run the same again: "
                f"trials that failed run again once code or installed packages have changed, or with --retry-failed."
            )
        return SearchResult(self._runs.parent_run_id, self._use_case.metric, best, trials, environment_digest())

    def _rank(self, trial: Trial) -> int:
        return [candidate.name for candidate in self._use_case.candidates].index(trial.candidate)

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


class _Turns(Searcher):  # type: ignore[misc]
    """Hands out the trials to run; a trial that was interrupted keeps its parameters, a new one gets a proposal."""

    def __init__(self, use_case: UseCase, ledger: _TrialLedger, todo: Sequence[Trial]) -> None:
        super().__init__()
        self._candidates = {candidate.name: candidate for candidate in use_case.candidates}
        self._lower_is_better = use_case.label.task.metrics[use_case.metric].lower_is_better
        self._seed = use_case.search.seed
        self._ledger = ledger
        self._todo = list(todo)

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        if not self._todo:
            return str(Searcher.FINISHED)
        trial = self._todo.pop(0)
        parameters = trial.parameters
        if not trial.run_id:
            before = [other for other in self._ledger.ended() if other.candidate == trial.candidate]
            parameters = propose(
                self._candidates[trial.candidate], trial.number, before, self._seed, self._lower_is_better
            )
        return {"candidate": trial.candidate, "trial": trial.trial_id, "parameters": dict(parameters)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to do: proposals read the ledger."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing to save: MLflow has it."""


class _AshaPerCandidate(FIFOScheduler):  # type: ignore[misc]
    """Stops the worse trials early (Li et al., "A system for massively parallel hyperparameter tuning", 2020).

    Each candidate has its own ASHA, because half a network and half a forest do not compare. The resource is the
    fraction of a trial's own budget; rungs are at 1, 1/r and 1/r^2 for the reduction factor r.
    """

    def __init__(self, use_case: UseCase, ended: Sequence[Trial]) -> None:
        super().__init__()
        factor = use_case.search.reduction_factor
        self._schedulers = {
            candidate.name: ASHAScheduler(
                time_attr="fraction",
                metric="value",
                mode="min" if use_case.label.task.metrics[use_case.metric].lower_is_better else "max",
                max_t=1.0,
                grace_period=factor**-2,
                reduction_factor=factor,
            )
            for candidate in use_case.candidates
        }
        for trial in ended:
            self._replay(trial)

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        return True

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return str(self._of(trial).on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_remove(tune_controller, trial)

    def _of(self, trial: Any) -> ASHAScheduler:
        return self._schedulers[trial.config["candidate"]]

    def _replay(self, trial: Trial) -> None:
        """Fill the rungs with what an earlier attempt measured; of a trial, ASHA reads only the id."""
        scheduler, shown = self._schedulers[trial.candidate], SimpleNamespace(trial_id=trial.trial_id)
        scheduler.on_trial_add(None, shown)
        for step in trial.steps:
            scheduler.on_trial_result(None, shown, {"fraction": step.fraction, "value": step.value})


class _Report(tune.Callback):  # type: ignore[misc]
    """Tells the ledger what happens to trials."""

    def __init__(self, ledger: _TrialLedger) -> None:
        self._ledger = ledger

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._ledger.update(replace(self._trial(trial), parameters=trial.config["parameters"]))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        ours = self._trial(trial)
        if "message" in result:
            self._ledger.update(replace(ours, message=result["message"]))
        elif "fraction" in result:
            self._ledger.update(ours.with_step(Step(result["fraction"], result["value"], result["seconds"])))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        ours = self._trial(trial)
        status: TrialStatus = "failed" if ours.message else "finished" if ours.fraction >= 1.0 else "stopped"
        self._ledger.update(replace(ours, status=status))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        message = f"Its worker failed {_MAX_WORKER_FAILURES + 1} times: {trial.get_error()}"
        self._ledger.update(replace(self._trial(trial), status="failed", message=message))

    def _trial(self, trial: Any) -> Trial:
        return self._ledger.trials[trial.config["trial"]]
