"""What a backtest trains: the candidate and parameters that a search would have found when the past begins."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import polars as pl

from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.training.proposal import propose
from mlops_ray.training.shared_data import trial_data
from mlops_ray.training.trial import Step, Trial, best_trial
from mlops_ray.training.worker import TrialData, TrialWorker
from mlops_ray.use_case import Feature, UseCase

# While there is little data, the validation part is at most this part of it.
_VALIDATION_SHARE = 4


def choose(frame: pl.DataFrame, use_case: UseCase, features: Sequence[Feature], as_of: datetime) -> Trial:
    """The best of `search.trials_per_candidate` trials of each candidate, on rows whose label was known at `as_of`.

    frame: a training set. Each trial is fitted on the rows before the last stretch of `split.validation` and judged on
    that stretch, as the search does, without stopping any early. Raises DataError if there are too few rows, and
    UseCaseError if no trial finished.
    """
    data = _divided(frame, use_case, features, as_of)
    candidates = {candidate.name: candidate for candidate in use_case.candidates}
    one_thread = dict.fromkeys(candidates, 1)
    task = use_case.label.task.searched_by(use_case.metric)
    worker = TrialWorker(data, candidates, task, use_case.metric, use_case.search.seed, one_thread)
    metric = task.metrics[use_case.metric]
    tried: list[Trial] = []
    for name, candidate in candidates.items():
        ended: list[Trial] = []
        for number in range(use_case.search.trials_per_candidate):
            parameters = propose(candidate, number, ended, use_case.search.seed, metric.lower_is_better)
            ended.append(_tried(worker, Trial(name, number, parameters)))
        tried += ended
    best = best_trial(tuple(tried), metric)
    if best is None:
        raise UseCaseError(f"Use case {use_case.name}: no trial finished. {tried[-1].candidate}: {tried[-1].message}")
    return best


def _divided(frame: pl.DataFrame, use_case: UseCase, features: Sequence[Feature], as_of: datetime) -> TrialData:
    moment, known_at = pl.col(PREDICTION_TIME), pl.col(LABEL_KNOWN_AT)
    known = frame.filter((moment < as_of) & (known_at <= as_of)).sort(PREDICTION_TIME, maintain_order=True)
    if known.is_empty():
        raise DataError(f"No label was known at {as_of.isoformat()}. Give a later start.")
    begin = as_of - min(use_case.split.validation, (as_of - known[PREDICTION_TIME][0]) / _VALIDATION_SHARE)
    train, validation = known.filter((moment < begin) & (known_at <= begin)), known.filter(moment >= begin)
    task = use_case.label.task
    for part, purpose in ((train, "to fit on"), (validation, "to choose by")):
        if lacking := task.shortfall(task.encoded(part[LABEL])):
            raise DataError(f"Before {as_of.isoformat()} there are {lacking} {purpose}. Give a later start.")
    return trial_data(use_case, train, validation, features)


def _tried(worker: TrialWorker, trial: Trial) -> Trial:
    worker.begin(trial.candidate, trial.parameters)
    while True:
        done = worker.step()
        if "message" in done:
            return replace(trial, status="failed", message=done["message"])
        trial = trial.with_step(Step(done["fraction"], done["value"], done["seconds"], done["cpu_seconds"]))
        if done["done"]:
            return replace(trial, status="finished")
