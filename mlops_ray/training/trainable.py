"""Tune's view of a trial: what travels to its worker.

Apart from the experiment, as workers import the module that it is in: MLflow and Optuna, which only the search needs,
take longer than many a trial.
"""

from collections.abc import Mapping
from typing import Any

from ray import tune

from mlops_ray.training.kept_answers import KeptAnswers
from mlops_ray.training.slots import Held
from mlops_ray.training.worker import TrialWorker


class Trainable(tune.Trainable):  # type: ignore[misc]
    """A TrialWorker as Tune drives it."""

    def setup(self, config: Mapping[str, Any], kept: KeptAnswers | None, **of_all_trials: Any) -> None:
        self._worker, self._kept = TrialWorker(**of_all_trials), kept
        self.reset_config(config)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        self._trial_id = new_config["trial"]
        self._worker.begin(new_config["candidate"], new_config["parameters"])
        return True

    def step(self) -> dict[str, Any]:
        done = self._worker.step()
        if self._kept is not None and done["done"] and "message" not in done:
            self._kept.write(self._trial_id, self._worker.answer)
        return done


class Placement:
    """What Tune reserves for a trial of a configuration. holds: by the name of the candidate."""

    def __init__(self, holds: Mapping[str, Held]) -> None:
        self._holds = holds

    def __call__(self, config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
        held = self._holds[config["candidate"]]
        bundle = {"CPU": held.cpus, "GPU": held.gpus, "memory": held.memory_bytes}
        return tune.PlacementGroupFactory([{name: float(amount) for name, amount in bundle.items() if amount}])
