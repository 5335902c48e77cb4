"""Train: the search over all candidates, logged to MLflow."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mlops_ray.code_version import environment_digest
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.pipeline.fingerprint import Known
from mlops_ray.pipeline.part import part
from mlops_ray.pipeline.steps.step import Given, Step, Where
from mlops_ray.pipeline.steps.training_set import known_training_set
from mlops_ray.pipeline.task import say_if_it_waits
from mlops_ray.training.mlflow_database import has_run
from mlops_ray.training.trial import SearchResult, Trial
from mlops_ray.use_case import UseCase


@dataclass(frozen=True)
class TrainInputs:
    """use_case: of its search all but what limits the last fit, of the kind of label what trials are compared by."""

    use_case: UseCase
    training_set: Known[TrainingSet]


def train_inputs(given: Given) -> TrainInputs:
    case = given.use_case
    label = part(case.label, task=case.label.task.searched_by(case.metric))
    names = "name", "candidates", "split", "fit", "metric"
    # Days are counted only where an average is compared with the best trial.
    zone = case.zone() if case.search.ensemble > 1 else "UTC"
    search = part(case.search, *(one.name for one in fields(case.search) if one.name != "last_fit_seconds"))
    return TrainInputs(part(case, *names, label=label, time_zone=zone, search=search), known_training_set(given))


def run_train(inputs: TrainInputs, where: Where) -> dict[str, Any]:
    from mlops_ray.training.leaderboard import leaderboard
    from mlops_ray.training.search import search

    say_if_it_waits(where, "train")
    data = inputs.training_set.value
    given = inputs.use_case, where.settings, data, where.key, where.notify, where.retry_failed
    found = search(*given, where.start_from(), where.resources, where.asked)
    metric = inputs.use_case.label.task.metrics[inputs.use_case.metric]
    return found.to_json() | {"leaderboard": [asdict(one) for one in leaderboard(found, metric)]}


def verify_train(inputs: TrainInputs, result: Mapping[str, Any], where: Where) -> str | None:
    """The search's run is in MLflow; and trials that failed do not count for ever, if the environment is another."""
    found = SearchResult.from_json(result)
    if failed := [trial.trial_id for trial in found.trials if trial.status == "failed"]:
        if where.retry_failed:
            return f"--retry-failed, and {', '.join(failed)} failed"
        if found.environment != environment_digest():
            return f"{', '.join(failed)} failed, and other packages are installed now"
    if has_run(where.settings.mlflow_uri, found.parent_run_id):
        return None
    from mlops_ray.training.tracking import missing_run

    return missing_run(where.settings, found.parent_run_id)


def chosen_trial(given: Given) -> Known[Trial]:
    """The best trial as an input of later steps: its candidate and parameters count, and not its run in MLflow."""
    best = SearchResult.from_json(given.results["train"]).best
    return known_trial(Trial(best.candidate, best.number, best.parameters))


def known_trial(trial: Trial) -> Known[Trial]:
    return Known({"candidate": trial.candidate, "parameters": dict(trial.parameters)}, trial)


TRAIN = Step("train", train_inputs, run_train, verify_train, ("artifacts", "state", "mlflow_uri", "prices"))
