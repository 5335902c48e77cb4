"""What somebody writes by hand: an Optuna study over all candidates, its trials run by joblib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import optuna
import polars as pl
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from mlops_ray.features.columns import LABEL
from mlops_ray.training.proposal import distribution
from mlops_ray.training.trial import Step, Trial
from mlops_ray.training.worker import TrialData
from mlops_ray.use_case import FitData, UseCase

optuna.logging.set_verbosity(optuna.logging.ERROR)
Data = dict[str, Any]


def as_data(use_case: UseCase, data: TrialData) -> Data:
    case = {"candidates": use_case.candidates, "task": use_case.label.task, "metric": use_case.metric}
    return {**case, "data": data}


def replay(folder: Path, data: Data, trials: Sequence[Trial], workers: int) -> None:
    """The same trials, each to the fraction of its budget that it came to with us."""
    study = _study(folder, data, 0)
    for trial in trials:
        asked = {f"{trial.candidate}.{name}": value for name, value in trial.parameters.items()}
        study.enqueue_trial({"candidate": trial.candidate, **asked}, user_attrs={"fraction": trial.fraction})
    joblib.dump(data, folder / "data")
    each = -(-len(trials) // workers)
    joblib.Parallel(n_jobs=workers)(joblib.delayed(_work)(folder, each) for _ in range(workers))


def best_of(data: Data, seed: int, trials: int) -> Trial:
    """By the sampler's defaults, one trial after another, each with its whole budget."""
    better = "minimize" if data["task"].metrics[data["metric"]].lower_is_better else "maximize"
    study = optuna.create_study(direction=better, sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(lambda trial: _fitted(data, trial, seed), n_trials=trials)
    chosen = study.best_params
    name = chosen.pop("candidate")
    own = {key.removeprefix(f"{name}."): value for key, value in chosen.items() if key.startswith(f"{name}.")}
    return Trial(name, 0, own, status="finished", steps=(Step(1.0, study.best_value, 0.0),))


def best_of_each(data: Sequence[Data], trials: int, workers: int) -> list[Trial]:
    """Of the rows of each seed, from 0 on."""
    studies = (joblib.delayed(best_of)(one, seed, trials) for seed, one in enumerate(data))
    return list(joblib.Parallel(n_jobs=workers)(studies))


def value_later(data: Data, trial: Trial, seed: int, later: pl.DataFrame) -> float:
    """Of a trial's model, fitted as it was, on rows that nobody chose by."""
    read, by_name = data["data"], {one.name: one for one in data["candidates"]}
    *_, (_, model) = by_name[trial.candidate].fit(_to_fit(data, seed), trial.parameters)
    return _value(data, data["task"].encoded(later[LABEL]), model.predict(read.encoder.encode(later)))


def _work(folder: Path, trials: int) -> None:
    data = joblib.load(folder / "data")
    _study(folder, data, 0).optimize(lambda trial: _fitted(data, trial, 0), n_trials=trials)


def _study(folder: Path, data: Data, seed: int) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(folder / "journal")))
    better = "minimize" if data["task"].metrics[data["metric"]].lower_is_better else "maximize"
    sampler = optuna.samplers.TPESampler(seed=seed)
    return optuna.create_study(storage=storage, study_name="s", load_if_exists=True, direction=better, sampler=sampler)


def _fitted(data: Data, trial: optuna.Trial, seed: int) -> float:
    by_name, read = {one.name: one for one in data["candidates"]}, data["data"]
    name = trial.suggest_categorical("candidate", list(by_name))
    parameters = {}
    for key, dimension in by_name[name].space.items():
        parameters[key] = trial._suggest(f"{name}.{key}", distribution(dimension))
    for fraction, model in by_name[name].fit(_to_fit(data, seed), parameters):
        value = _value(data, read.validation_label, model.predict(read.validation))
        if fraction >= trial.user_attrs.get("fraction", 1.0):
            break
    return value


def _to_fit(data: Data, seed: int) -> FitData:
    read = data["data"]
    return FitData(read.train, read.train_label, read.encoder.columns, data["task"], seed, 1)


def _value(data: Data, labels: Any, answer: Any) -> float:
    task = data["task"]
    block = np.zeros(len(labels), dtype=np.intp)
    return float(task.values({data["metric"]}, labels, answer, block, np.ones((1, 1)))[data["metric"]][0])
