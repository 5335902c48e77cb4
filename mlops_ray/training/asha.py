"""Stopping the worse trials early."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from mlops_ray.training.trial import Trial
from mlops_ray.use_case import UseCase


class AshaPerCandidate(FIFOScheduler):  # type: ignore[misc]
    """Stops the worse trials early (Li et al., "A system for massively parallel hyperparameter tuning", 2020).

    Each candidate has its own ASHA, because half a network and half a forest do not compare. The resource is the
    fraction of a trial's own budget; rungs are at 1 and 1/r for the reduction factor r. With one more at 1/r^2, as in
    the paper, what learns fast is kept and what is more cautious and better in the end is stopped: a quarter of a
    forest of small steps is worse than a quarter of one of large steps.
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
                grace_period=1 / factor,
                reduction_factor=factor,
            )
            for candidate in use_case.candidates
        }
        for trial in ended:
            self._replay(trial)

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        return True

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The newest that waits: it takes the worker of a trial that has ended. Tune would give that one to the oldest,
        whose own worker is starting, and stop that start: where trials are shorter, no second worker ever came up."""
        return next((trial for trial in reversed(tune_controller.get_trials()) if trial.status == trial.PENDING), None)

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
