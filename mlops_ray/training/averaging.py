"""Whether the average of the best few trials of a search is better than the best of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import ray

from mlops_ray.errors import MlopsRayError
from mlops_ray.features.columns import LABEL, PREDICTION_TIME
from mlops_ray.features.training_set import TrainingSet, read_split
from mlops_ray.tasks.days import days_of
from mlops_ray.training.ensemble import Average, average, parameters_of
from mlops_ray.training.kept_answers import KeptAnswers
from mlops_ray.training.trial import Footprint, Step, Trial
from mlops_ray.training.trial_ledger import TrialLedger
from mlops_ray.use_case import UseCase
from mlops_ray.use_case.search import ENSEMBLE

# Of how many trials, for each that may be in the average, the weights are found: those below are rarely in it.
_POOL = 3


def average_the_best(
    use_case: UseCase, training_set: TrainingSet, ledger: TrialLedger, kept: KeptAnswers, rows: int | None
) -> None:
    """Find the average, write down what it is worth, and where it is better add it to the trials as one of its own.

    rows: see `shared_data.rows_looked_at`.
    """
    metric = use_case.label.task.metrics[use_case.metric]
    finished = [trial for trial in ledger.ended() if trial.status == "finished" and trial.candidate != ENSEMBLE]
    finished.sort(key=lambda trial: -metric.gain(trial.value or 0.0))
    pool = finished[: _POOL * use_case.search.ensemble]
    if len(pool) < 2:
        return
    names = [trial.trial_id for trial in pool]
    try:
        found = ray.get(ray.remote(_found).remote(use_case, training_set, kept, names, rows))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MlopsRayError):
            raise error.cause from None
        raise
    ledger.average = _told(found)
    if found.is_better:
        ledger.add_average(_as_trial(found, pool))


def _found(
    use_case: UseCase, training_set: TrainingSet, kept: KeptAnswers, names: Sequence[str], looked_at: int | None
) -> Average:
    """In a task: the answers do not come past the driver."""
    task, search = use_case.label.task, use_case.search
    split = read_split(training_set, use_case.split, task, ("train", "validation"), looked_at, search.seed)
    rows = split["validation"]
    day, labels = days_of(rows[PREDICTION_TIME], use_case.zone()), task.encoded(rows[LABEL])
    answers = {name: kept.read(name) for name in names}
    return average(answers, labels, day, task, use_case.metric, search.ensemble)


def _told(found: Average) -> Mapping[str, Any]:
    better_by = asdict(found.better_by)
    return {"weights": dict(found.weights), "value": found.value, "better_by": better_by, "chosen": found.is_better}


def _as_trial(found: Average, trials: Sequence[Trial]) -> Trial:
    """Its footprint is what those of its models add up to."""
    inside = [trial for trial in trials if trial.trial_id in found.weights]
    costs = [trial.footprint for trial in inside if trial.footprint is not None]
    sums = [sum(values) for values in zip(*(asdict(one).values() for one in costs), strict=True)]
    footprint = Footprint(*sums) if len(costs) == len(inside) else None
    step = Step(1.0, found.value, 0.0, 0.0)
    made = Trial(ENSEMBLE, 0, parameters_of(inside, found.weights), status="finished", steps=(step,))
    return replace(made, footprint=footprint)
