"""The Ray Tune experiment of a search: what is told to Tune, and what Tune tells of it.

Where it is not as usual: Optuna is asked by `proposal` and not by Tune's OptunaSearch, which keeps its study in memory
and on a disk that is written once in a while, shows trials that ASHA stopped as complete ones, and proposes as many
trials ahead as may wait.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from mlops_ray.config import Settings
from mlops_ray.cost.interrupts import Interrupt, held_back
from mlops_ray.cost.usage import Usage
from mlops_ray.training.asha import AshaPerCandidate
from mlops_ray.training.kept_answers import KeptAnswers
from mlops_ray.training.proposal import propose
from mlops_ray.training.shared_data import SharedData
from mlops_ray.training.slots import Slots
from mlops_ray.training.trainable import Placement, Trainable
from mlops_ray.training.trial import Footprint, Step, Trial, TrialStatus
from mlops_ray.training.trial_ledger import TrialLedger
from mlops_ray.training.turns import next_candidate
from mlops_ray.use_case import UseCase

# It would say of each trial that the files of Tune's loggers, which are off, are not there.
logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
# How often a trial is begun again whose worker died (out of memory, node lost). A candidate that raises is not.
_MAX_WORKER_FAILURES = 2
_TUNE_ENVIRONMENT = {
    # The new output prints a table even when it is told to be silent.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Tune writes each trial's results three times over for tools that we do not use.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ctrl-C ends the search like everything else; Tune's own handler would return half a result.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
# How many may wait for their workers to start. Where a search algorithm is given Tune lets one, so that each worker is
# started after the one before, and a trial of a second has ended by then and passes on its own.
_MAX_PENDING = "TUNE_MAX_PENDING_TRIALS_PG"


def run_trials(
    use_case: UseCase,
    settings: Settings,
    data: SharedData,
    key: str,
    ledger: TrialLedger,
    kept: KeptAnswers | None,
    slots: Slots,
) -> None:
    """Run trials until a budget is spent. kept: where answers go, None if nobody asks for them."""
    candidates = {candidate.name: candidate for candidate in use_case.candidates}
    fit = tune.with_parameters(
        Trainable,
        kept=kept,
        data=data,
        candidates=candidates,
        task=use_case.label.task,
        metric=use_case.metric,
        seed=use_case.search.seed,
        threads={name: held.threads for name, held in slots.holds.items()},
    )
    with held_back() as interrupt, _environment({**_TUNE_ENVIRONMENT, _MAX_PENDING: str(slots.at_once)}):
        report = _Report(ledger, slots, use_case.search.trial_seconds, interrupt)
        tuner = tune.Tuner(
            tune.with_resources(fit, Placement(slots.holds)),
            tune_config=tune.TuneConfig(
                search_alg=_Turns(use_case, ledger, slots),
                scheduler=AshaPerCandidate(use_case, ledger.ended()),
                num_samples=ledger.budget.trials,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=key[:40],
                storage_path=f"{settings.state}/tune",
                callbacks=[report],
                stop=_BudgetSpent(report),
                failure_config=tune.FailureConfig(max_failures=_MAX_WORKER_FAILURES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
                # The one for notebooks would clear what stands in the cell.
                progress_reporter=tune.CLIReporter(),
            ),
        )
        with suppress(_Interrupted):
            tuner.fit()
        if interrupt.asked:
            raise KeyboardInterrupt


class _Interrupted(Exception):
    """After an error Tune gives back what its trials hold. A KeyboardInterrupt in its middle leaves them with it, and
    the next search of the process, in a notebook, would wait for them for ever."""


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


class _Turns(Searcher):  # type: ignore[misc]
    """Hands out the trials to run; a trial that was interrupted keeps its parameters, a new one gets a proposal."""

    def __init__(self, use_case: UseCase, ledger: TrialLedger, slots: Slots) -> None:
        super().__init__()
        self._candidates = {candidate.name: candidate for candidate in use_case.candidates}
        self._judged_by = use_case.label.task.metrics[use_case.metric]
        self._search = use_case.search
        self._ledger = ledger
        self._slots = slots
        self._interrupted = ledger.unfinished()
        self._running: dict[str, str] = {}

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if not self._interrupted and self._ledger.ended_by():
            return str(Searcher.FINISHED)
        trial = self._interrupted[0] if self._interrupted else self._next()
        if trial is None or not self._slots.has_room(trial.candidate, self._running.values()):
            return None
        if self._interrupted:
            self._interrupted.pop(0)
        else:
            trial = replace(trial, parameters=self._proposed(trial))
        self._ledger.begin(trial)
        self._running[trial_id] = trial.candidate
        return {"candidate": trial.candidate, "trial": trial.trial_id, "parameters": dict(trial.parameters)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._running.pop(trial_id, None)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing to save: MLflow has it."""

    def _next(self) -> Trial | None:
        trials, factor = list(self._ledger.trials.values()), self._search.reduction_factor
        name = next_candidate(
            list(self._candidates), trials, self._ledger.budget, factor, self._judged_by, self._slots.at_once
        )
        return None if name is None else Trial(name, self._ledger.next_number(name), {})

    def _proposed(self, trial: Trial) -> Mapping[str, Any]:
        start = self._ledger.started_from.get("parameters", {}).get(trial.candidate)
        return propose(
            self._candidates[trial.candidate],
            trial.number,
            self._ledger.of(trial.candidate),
            self._search.seed,
            self._judged_by.lower_is_better,
            start,
        )


class _Report(tune.Callback):  # type: ignore[misc]
    """Tells the ledger what happens to trials, and ends those that take too long and, at its end, the search."""

    def __init__(self, ledger: TrialLedger, slots: Slots, trial_seconds: float, interrupt: Interrupt) -> None:
        self._ledger = ledger
        self._slots = slots
        self._trial_seconds = trial_seconds
        self._interrupt = interrupt
        self._begun: dict[str, float] = {}
        # By attempts whose worker died, as far as they have told.
        self._used_before: dict[str, Mapping[str, Any]] = {}
        self.over = False

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._begun[trial.trial_id] = time.monotonic()
        self._used_before[trial.trial_id] = self._trial(trial).used
        self._ledger.update(self._trial(trial))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        ours = self._trial(trial)
        if ours.status != "running":  # it was cut: its record is closed
            return
        if "used" in result:
            ours = replace(ours, used=self._used(trial, Usage.from_json(result["used"])))
        if "message" in result:
            self._ledger.update(replace(ours, message=result["message"]))
        elif "fraction" in result:
            footprint = Footprint(**result["footprint"]) if result.get("footprint") else ours.footprint
            step = Step(*(result[name] for name in ("fraction", "value", "seconds", "cpu_seconds")))
            self._ledger.update(replace(ours.with_step(step), footprint=footprint))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        ours = self._trial(trial)
        if ours.status != "running":
            return
        status: TrialStatus = "failed" if ours.message else "finished" if ours.fraction >= 1.0 else "stopped"
        self._ledger.update(replace(ours, status=status))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        ours = self._trial(trial)
        if ours.status != "running" or self._interrupt.asked:  # its worker was killed because the search is over
            return
        message = ours.message or f"Its worker failed {_MAX_WORKER_FAILURES + 1} times: {trial.get_error()}"
        self._ledger.update(replace(ours, status="failed", message=message))

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        running = [trial for trial in trials if trial.status == trial.RUNNING]
        if self._interrupt.asked:
            for trial in running:
                _kill(trial)
            raise _Interrupted
        if self._ledger.budget.cuts(self._ledger.spent()) and not self.over:
            self._ledger.stop()
            self.over = True
            for trial in running:
                _kill(trial)
        for trial in running:
            if time.monotonic() - self._begun[trial.trial_id] > self._trial_seconds and not self._trial(trial).message:
                why = f"It took more than {self._trial_seconds:g} seconds and was killed. Make its parameters cheaper, "
                self._ledger.update(replace(self._trial(trial), message=f"{why}or raise Search(trial_seconds=...)."))
                trial.max_failures = 0  # or Tune would begin it again, as if its node had been lost
                _kill(trial)

    def _used(self, trial: Any, measured: Usage) -> dict[str, Any]:
        """Of all attempts, with what they held. measured: by the worker of this one."""
        held = self._slots.holds[trial.config["candidate"]]
        of_held = Usage(gpu_s=held.gpus * measured.wall_s, asked_cpus=held.cpus, asked_bytes=held.memory_bytes)
        before = Usage.from_json(self._used_before.get(trial.trial_id, {}))
        return (before + measured + of_held).to_json()

    def _trial(self, trial: Any) -> Trial:
        return self._ledger.trials[trial.config["trial"]]


class _BudgetSpent(tune.Stopper):  # type: ignore[misc]
    """Ends the experiment once the report says that the search is over."""

    def __init__(self, report: _Report) -> None:
        self._report = report

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._report.over


def _kill(trial: Any) -> None:
    """A step that does not return cannot be asked to stop."""
    if trial.temporary_state.ray_actor is not None:
        ray.kill(trial.temporary_state.ray_actor)
