"""Fits larger than memory: LightGBM, the network, and LightGBM of a number with three quantiles, on ROWS rows of 45
features, beside a fit to a tenth.

`ROWS=30000000 make bench ONLY=training:large_fit`; 3 million where nothing is said. MEMORY_GB is what a fit is told
that it is given, 1.6 for 3 million rows and 6 for 30; of each process the most that it had resident is taken (VmHWM),
with what it maps of files and of the object store. What is compared is the metric on the same later rows.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts
from mlops_ray.features.blocks import stored_rows
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.features.parts import Part
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.regression import Regression
from mlops_ray.tasks.task import Task
from mlops_ray.training.candidates import LightGBM, NeuralNetwork
from mlops_ray.training.encoded_rows import labels_of
from mlops_ray.training.fit import Memory, fit_trial
from mlops_ray.training.proposal import middle
from mlops_ray.training.trial import Trial
from mlops_ray.use_case import Candidate, Column, Feature, Label, Search, Source, UseCase

ROWS = int(os.environ.get("ROWS", "3000000"))
MEMORY_GB = float(os.environ.get("MEMORY_GB", str(1.1 + ROWS * 0.163e-6)))
PART_ROWS, TESTED, NUMBERS, CATEGORIES, LEVELS, CORES = 500_000, 300_000, 40, 5, 50, 2
FEATURES = (
    *(Feature(f"x{n}", "number") for n in range(NUMBERS)),
    *(Feature(f"c{n}", "category") for n in range(CATEGORIES)),
)


@dataclass(frozen=True)
class Fit:
    """budget: so few trees and epochs that a fit ends in time; memory does not grow with them."""

    candidate: Candidate
    task: Task
    metric: str
    budget: Mapping[str, Any]


TREES = {"iterations": 40, "learning_rate": 0.15}
FITS: Mapping[str, Fit] = {
    "lightgbm": Fit(LightGBM(), BINARY, "roc_auc", TREES),
    "neural_network": Fit(NeuralNetwork(), BINARY, "roc_auc", {"epochs": 4}),
    "quantiles": Fit(LightGBM(), Regression(quantiles=(0.1, 0.5, 0.9)), "pinball_loss", TREES),
}
START, STEP = datetime(2024, 1, 1, tzinfo=UTC), timedelta(seconds=1)
Figures = Iterator[tuple[str, float, str]]


def fits(name: str) -> Figures:
    """One fit to all rows and to a tenth of them, each in a process of its own."""
    metric = FITS[name].metric
    with tempfile.TemporaryDirectory(dir=os.environ.get("LARGE_FOLDER")) as folder:
        (Path(folder) / "set.json").write_text(json.dumps(_write(Path(folder), FITS[name].task).to_json()))
        found = {share: _in_process(name, share, folder) for share in ("all", "tenth")}
    yield f"large_{name}_rows", ROWS, ""
    for share, one in found.items():
        yield f"large_{name}_{share}_seconds", one["seconds"], "s"
        yield f"large_{name}_{share}_peak_mb_of_a_process", one["peak_mb"], "MB"
        yield f"large_{name}_{share}_{metric}", one["value"], ""
    short = metric.removeprefix("roc_")
    yield f"large_{name}_{short}_of_all_minus_of_a_tenth", found["all"]["value"] - found["tenth"]["value"], ""


def _write(folder: Path, task: Task) -> TrainingSet:
    """Parts of 500,000 rows, which differ over time a little; one part is in memory at a time."""
    artifacts, parts = Artifacts(str(folder / "artifacts")), list[Part]()
    effects = np.random.default_rng(0).normal(0, 0.5, (CATEGORIES, LEVELS))
    total = ROWS + TESTED
    for number, begin in enumerate(range(0, total, PART_ROWS)):
        rows = min(PART_ROWS, total - begin)
        random = np.random.default_rng([1, number])
        numbers = random.normal(size=(rows, NUMBERS)).round(3)
        codes = random.integers(0, LEVELS, (rows, CATEGORIES))
        score = 0.8 * numbers[:, 0] + 0.6 * numbers[:, 1] * numbers[:, 2] + np.abs(numbers[:, 3]) - 1.5
        score += sum(effects[n][codes[:, n]] for n in range(CATEGORIES)) + 0.1 * np.sin(begin / 1e6) * numbers[:, 4]
        moments = pl.Series([START]).dt.cast_time_unit("us") + pl.int_range(begin, begin + rows, eager=True) * STEP
        numbers[random.random(numbers.shape) < 0.03] = np.nan
        columns = {
            "key": pl.Series(np.arange(begin, begin + rows)).cast(pl.String),
            PREDICTION_TIME: moments,
            **{f"x{n}": pl.Series(numbers[:, n]).fill_nan(None) for n in range(NUMBERS)},
            **{f"c{n}": pl.Series(codes[:, n]).cast(pl.String) for n in range(CATEGORIES)},
            LABEL: _labels(task, score, numbers, random),
            LABEL_KNOWN_AT: moments + timedelta(hours=1),
        }
        url = artifacts.write_table(pl.DataFrame(columns), "set", f"part-{number:05}.parquet")
        parts.append(Part(url, rows, moments[0], moments[-1]))
    as_of = START + (total + 3600) * STEP
    return TrainingSet(artifacts.url("set"), "d", total, as_of, "s", None, FEATURES, parts=tuple(parts))


def _labels(task: Task, score: NDArray[Any], numbers: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    """Yes or no by the score's log odds, or a number around it, whose spread goes with another column."""
    if task.kind == "binary":
        return random.random(len(score)) < 1 / (1 + np.exp(-score))
    return 10 * score + np.exp(np.nan_to_num(numbers[:, 5])) * random.normal(size=len(score))


def _in_process(name: str, share: str, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, name, share, folder]
    limits = {"OMP_NUM_THREADS": str(CORES), "POLARS_MAX_THREADS": str(CORES), "OMP_WAIT_POLICY": "PASSIVE"}
    process = psutil.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **limits})
    peaks = dict[int, float]()
    watching = threading.Thread(target=_watch, args=(process, peaks))
    watching.start()
    printed, _ = process.communicate()
    watching.join()
    if process.returncode:
        raise SystemExit(f"The fit of {name} to {share} ended with {process.returncode}.")
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found | {"peak_mb": max(found["peak_mb"], *peaks.values())}


def _watch(process: psutil.Process, peaks: dict[int, float]) -> None:
    """Note the most memory that the process or one that it started has had so far, until it ends."""
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        for one in (process, *process.children(recursive=True)):
            peaks[one.pid] = max(peaks.get(one.pid, 0.0), _peak_mb(one.pid))
        time.sleep(1)


def _peak_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def _use_case(fit: Fit) -> UseCase:
    label = Column("label", "boolean" if fit.task.kind == "binary" else "number", outcome=True)
    columns = (Column("key", "text"), Column("at", "timestamp"), label)
    return UseCase(
        name="large",
        sources={"rows": Source("rows.csv", columns)},
        entities=("key",),
        event_time="at",
        lead_time=timedelta(0),
        label=Label("label", pl.col("label"), pl.col("at") + pl.duration(hours=1), task=fit.task),
        candidates=(fit.candidate,),
        metric=fit.metric,
        request_features={"key": pl.col("key")},
        search=Search(trials_per_candidate=1),
    )


def _fit(name: str, share: str, folder: str) -> dict[str, Any]:
    training_set = TrainingSet.from_json(json.loads((Path(folder) / "set.json").read_text()))
    memory, border = int(MEMORY_GB * 1e9), START + ROWS * STEP
    fit = FITS[name]
    case, trial = _use_case(fit), Trial(fit.candidate.name, 0, {**middle(fit.candidate.space), **fit.budget})
    started = time.monotonic()
    seen = stored_rows(training_set, None, border, None, memory)
    test = stored_rows(training_set, border, None, None, memory)
    if share == "tenth":
        seen = replace(seen, blocks=(seen.of(seen.some(ROWS // 10, 1)).blocks))
    given = Memory(memory if share == "all" else sys.maxsize, str(Path(folder) / "fits"))
    fitted = fit_trial(case, seen, FEATURES, trial, memory=given)
    print(f"{name}: {fitted.on.words}; {time.monotonic() - started:.0f} s", file=sys.stderr)
    answers = np.concatenate([fitted.predict(rows) for rows in test.frames()])
    truth, alone = labels_of(test, fit.task), np.ones((1, 1))
    found = fit.task.values({fit.metric}, truth, answers, np.zeros(len(truth), dtype=np.intp), alone)[fit.metric]
    return {"seconds": time.monotonic() - started, "value": float(found[0]), "peak_mb": _peak_mb(os.getpid())}


PARTS = {
    "large_fit": partial(fits, "lightgbm"),
    "large_network": partial(fits, "neural_network"),
    "large_quantiles": partial(fits, "quantiles"),
}

if __name__ == "__main__":
    if sys.argv[1] == "neural_network" and sys.argv[2] == "all":
        import ray

        ray.init(num_cpus=CORES, object_store_memory=1_000_000_000, include_dashboard=False, log_to_driver=False)
    print(json.dumps(_fit(*sys.argv[1:4])))
