"""The search beside what others do with the same rows: plain Optuna with joblib, and FLAML."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from optuna_side import Data, as_data, best_of_each, replay, value_later
from scipy.stats import t as student
from sets import AS_OF, ROOT, SETTINGS, matrices, prepared

from mlops_ray.artifacts import read_parquet
from mlops_ray.config import Settings
from mlops_ray.evaluation.comparison import compare
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.training_set import TrainingSet, split_by_time
from mlops_ray.tasks.days import days_of
from mlops_ray.training.candidates import GradientBoosting, LightGBM, LogisticRegression
from mlops_ray.training.search import search
from mlops_ray.training.shared_data import encode
from mlops_ray.training.trial import SearchResult, Trial
from mlops_ray.use_case import FitData, Search, UseCase

Figures = Iterator[tuple[str, float, str]]
CPUS, EACH, SEEDS = 2, 10, 10
ROWS, QUALITY_ROWS = int(os.environ.get("SEARCH_ROWS", "250000")), int(os.environ.get("QUALITY_ROWS", "20000"))
FLAML_SECONDS = float(os.environ.get("FLAML_SECONDS", "600"))
FLAML = ROOT / ".venv-flaml"
_METRICS = {"binary": ("classification", "roc_auc"), "multiclass": ("classification", "log_loss")}


def wall() -> Figures:
    """The time of a search, and of the same trials as somebody would run them by hand."""
    with _ray(), tempfile.TemporaryDirectory() as folder:
        case, training_set = _three("flights", ROWS, 0)
        started = time.monotonic()
        result = _searched(case, training_set)
        ours, started = time.monotonic() - started, time.monotonic()
        replay(Path(folder), as_data(case, encode(case, training_set, case.search.rows)), result.trials, CPUS)
        theirs = time.monotonic() - started
    yield "search_seconds", ours, f"s, {len(result.trials)} trials of 3 candidates, {ROWS:,} rows"
    yield "optuna_seconds", theirs, "s, the same trials by plain Optuna and joblib"
    yield "wall_vs_optuna", ours / theirs, "x"


def quality() -> Figures:
    """The best of 30 trials, by seeds, of each seed the same rows: on the validation period, by which it was chosen,
    and on the test period, which nobody chose by."""
    ours, data = list[Trial](), list[Data]()
    with _ray():
        for seed in range(SEEDS):
            case, training_set = _three("flights", QUALITY_ROWS, seed)
            ours.append(_searched(case, training_set).best)
            data.append(as_data(case, encode(case, training_set, case.search.rows)))
    test = split_by_time(read_parquet(training_set.url), AS_OF, case.split, case.label.task).test
    theirs = best_of_each(data, 3 * EACH, CPUS)
    later = [
        [value_later(data[seed], trial, seed, test) for seed, trial in enumerate(chosen)] for chosen in (ours, theirs)
    ]
    chosen_by = [[trial.value or 0.0 for trial in chosen] for chosen in (ours, theirs)]
    for name, (mine, other) in (("best_of_30_auc", chosen_by), ("best_of_30_test_auc", later)):
        apart = [one - another for one, another in zip(mine, other, strict=True)]
        half = student.ppf(0.975, SEEDS - 1) * statistics.stdev(apart) / SEEDS**0.5
        yield name, statistics.mean(mine), f"mean of {SEEDS} seeds, {QUALITY_ROWS:,} rows"
        yield f"{name}_optuna", statistics.mean(other), "TPE with its defaults, no trial stopped early"
        yield f"{name}_better_by", statistics.mean(apart), ""
        yield f"{name}_better_by_at_least", statistics.mean(apart) - half, "95 %"
        yield f"{name}_better_by_at_most", statistics.mean(apart) + half, "95 %"


def flaml(name: str) -> Figures:
    """The same matrix, split and CPU seconds: those that FLAML took of its time are the budget of the search."""
    with _ray(), tempfile.TemporaryDirectory() as folder:
        case, training_set = prepared(name)
        parts, task = matrices(case, training_set), case.label.task
        kind, metric = _METRICS.get(task.kind, ("regression", "mae"))
        np.savez(Path(folder) / "in.npz", **parts)
        theirs = _flaml(Path(folder), kind, metric, FLAML_SECONDS / CPUS)
        taken = float(theirs["cpu_seconds"])
        case = replace(case, search=Search(trials_per_candidate=1000, cpu_seconds=taken, rows=case.search.rows))
        result = _searched(case, training_set)
        ours = _last_fit(case, result, parts, training_set)
    answers = theirs["answers"][:, 1] if task.kind == "binary" else theirs["answers"]
    test = split_by_time(read_parquet(training_set.url), AS_OF, case.split, task).test
    day = days_of(test[PREDICTION_TIME], case.zone())
    judged = {"mae": "mean_absolute_error"}.get(metric, metric)
    compared = compare((task, task), parts["test_label"], ours, answers.astype(np.float64), day, judged)
    short = "auc" if name == "flights" else f"{name}_{judged}"
    yield f"{name}_flaml_cpu_seconds", taken, f"s of CPU; FLAML chose {theirs['estimator']}, we {result.best.candidate}"
    yield f"{name}_search_cpu_seconds", result.spent.cpu_seconds, f"s of CPU, {result.spent.trials} trials"
    yield f"{short}_search", compared.challenger, ""
    yield f"{short}_flaml", compared.champion, ""
    yield f"{short}_minus_flaml", compared.difference.value, "more is better"
    yield f"{short}_minus_flaml_at_least", compared.difference.low or float("nan"), "95 %"


class _ray:
    def __enter__(self) -> None:
        ray.init(
            address="local",
            num_cpus=CPUS,
            object_store_memory=1_500_000_000,
            include_dashboard=False,
            log_to_driver=False,
        )

    def __exit__(self, *_: object) -> None:
        ray.shutdown()


def _three(name: str, rows: int, seed: int) -> tuple[UseCase, TrainingSet]:
    """The use case with three candidates that take seconds, and 30 trials."""
    case, training_set = prepared(name)
    of_seconds = (LogisticRegression(), GradientBoosting(), LightGBM())
    return replace(case, candidates=of_seconds, search=Search(EACH, rows=rows, seed=seed)), training_set


def _searched(case: UseCase, training_set: TrainingSet) -> SearchResult:
    with tempfile.TemporaryDirectory() as state:
        settings = Settings(state=state, data=SETTINGS.data)
        return search(case, settings, training_set, f"benchmark-{case.search.seed}")


def _flaml(folder: Path, kind: str, metric: str, seconds: float) -> Any:
    python = FLAML / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", FLAML], check=True)
        packages = ["flaml[automl]==2.7.0"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, stderr=subprocess.DEVNULL)
    script, there = Path(__file__).parent / "flaml_side.py", folder / "out.npz"
    command = [python, script, folder / "in.npz", there, kind, metric, str(seconds), "1"]
    subprocess.run(command, check=True, env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": str(CPUS)})
    return np.load(there)


def _last_fit(
    case: UseCase, result: SearchResult, parts: dict[str, Any], training_set: TrainingSet
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The chosen candidate on the rows that FLAML's model was fitted on, in the same encoding."""
    features = encode(case, training_set, None).encoder.columns
    candidate = next(one for one in case.candidates if one.name == result.best.candidate)
    data = FitData(parts["seen"], parts["seen_label"], features, case.label.task, case.search.seed, CPUS)
    *_, (_, model) = candidate.fit(data, result.best.parameters)
    return model.predict(parts["test"])
