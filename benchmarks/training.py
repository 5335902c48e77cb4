"""How good chosen models are: of each kind of label, beside a LightGBM that somebody fits by hand with its defaults.

`python benchmarks/run.py training:delay` runs one use case; the rows, the features and the split are the same for both.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl
import ray
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts, read_parquet
from mlops_ray.config import Settings
from mlops_ray.evaluation.comparison import compare
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.features.training_set import TrainingSet, split_by_time
from mlops_ray.pipeline.pipeline import Pipeline
from mlops_ray.registry.reasons import reasons
from mlops_ray.registry.sealed_model import SealedModel, load, model_inputs
from mlops_ray.tasks.days import blocks_of, days_of
from mlops_ray.tasks.estimate import freedom_of, jackknife
from mlops_ray.tasks.evaluation import weighted_mean, weights_without
from mlops_ray.tasks.task import Task
from mlops_ray.training.encoding import fit_encoder
from mlops_ray.use_case import UseCase, load_use_case

sys.path.insert(0, str(Path(__file__).parent / "searches"))
import beside
import large_fit

ROOT = Path(__file__).parents[1]
AS_OF = datetime(2014, 1, 1, 5, tzinfo=UTC)
CPUS, EXPLAINED = 2, 50
Figures = Iterator[tuple[str, float, str]]


def figures_of(name: str) -> Figures:
    """Of the use case `name`: metric and loss on the test period, ours and by hand, and by how much ours is better."""
    use_case = load_use_case(str(ROOT / "use_cases" / f"{name}.py"))
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(state=folder, data=str(ROOT / "data" / "flights"))
        ray.init(num_cpus=CPUS, object_store_memory=2_000_000_000, include_dashboard=False, log_to_driver=False)
        try:
            done = Pipeline(use_case, settings, ROOT / "feature_repo", AS_OF).run(until="evaluate")
        finally:
            ray.shutdown()
        training_set = TrainingSet.from_json(done["training_set"].result)
        digest = done["evaluate"].result["digest"]
        sealed_folder = Path(folder) / "sealed"
        Artifacts(settings.artifacts).download(sealed_folder, "sealed_models", use_case.name, digest)
        yield from _beside(name, use_case, training_set, load(sealed_folder, digest), done)


def _beside(
    name: str, use_case: UseCase, training_set: TrainingSet, sealed: SealedModel, done: Mapping[str, Any]
) -> Figures:
    task, frame = use_case.label.task, read_parquet(training_set.url)
    test = split_by_time(frame, training_set.as_of, use_case.split, task).test
    end = use_case.split.trained_until(training_set.as_of)
    seen = frame.filter((pl.col(PREDICTION_TIME) < end) & (pl.col(LABEL_KNOWN_AT) <= end))
    encoder = fit_encoder(seen, training_set.features)
    as_is = replace(encoder, usual={})  # what is missing is so for LightGBM too
    known, encoded = ((one.encode(seen), task.encoded(seen[LABEL]), one.encode(test)) for one in (as_is, encoder))
    theirs = _by_hand(task, *known)
    ours = sealed.model.answers(*model_inputs(test, encoder.features)).astype(np.float64)
    labels, day = task.encoded(test[LABEL]), days_of(test[PREDICTION_TIME], use_case.zone())
    for metric in dict.fromkeys([use_case.metric, *_LOSSES[task.kind]]):
        found = compare((task, task), labels, ours, theirs, day, metric)
        yield f"{name}_{metric}", found.challenger, ""
        yield f"{name}_{metric}_lightgbm", found.champion, ""
        yield f"{name}_{metric}_better_by", found.difference.value, ""
        yield f"{name}_{metric}_better_by_at_least", found.difference.low or float("nan"), "95 %"
    found = compare((task, task), labels, ours, _by_hand(task, *encoded), day, use_case.metric)
    yield f"{name}_{use_case.metric}_lightgbm_as_encoded", found.champion, ""
    yield f"{name}_{use_case.metric}_lightgbm_as_encoded_better_by", found.difference.value, ""
    failed = np.any([test[one].is_null().to_numpy() for one in encoder.usual], axis=0)
    yield from _where_a_feed_failed(name, task, labels, failed, {"": ours, "_lightgbm": theirs})
    if quantiles := getattr(task, "quantiles", ()):
        by_hand = [_by_hand(task, *known, alpha=one) for one in quantiles]
        yield from _pinball(name, quantiles, labels, ours[:, 1:].T, by_hand, day)
    yield f"{name}_explain_p50_ms", _explained_ms(sealed, test), "ms"
    decision = done["evaluate"].result["evaluation"].get("decision", {})
    for way, gain in decision.get("gain", {}).items():
        yield f"{name}_gain_{way.replace(' ', '_')}", gain, decision["unit"]
    if "coverage" in decision:
        off = [abs(share - decision["asked_for"]) for share in decision["by_week"]]
        yield f"{name}_coverage_of_weeks_off_by", 100 * float(np.mean(off)), "points on average"
        yield f"{name}_coverage_weeks_within_3_points", 100 * float(np.mean(np.array(off) <= 0.03)), "% of the weeks"
        yield f"{name}_coverage_percent", 100 * decision["coverage"], f"%, {decision['asked_for']:.0%} asked for"


_LOSSES = {
    "binary": ("roc_auc", "log_loss"),
    "multiclass": ("log_loss", "roc_auc"),
    "regression": ("mean_absolute_error",),
}


def _where_a_feed_failed(
    name: str,
    task: Task,
    labels: NDArray[Any],
    failed: NDArray[np.bool_],
    answers: Mapping[str, NDArray[np.float64]],
) -> Figures:
    """The loss of rows that lack a number which training hardly ever lacked, and of all others."""
    yield f"{name}_rows_where_a_feed_failed", int(failed.sum()), ""
    for whose, answer in answers.items():
        losses = task.losses(labels, answer)
        yield f"{name}_loss_where_a_feed_failed{whose}", float(losses[failed].mean()), task.loss
        yield f"{name}_loss_elsewhere{whose}", float(losses[~failed].mean()), task.loss


_OBJECTIVES: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "binary": lambda task: {"objective": "binary"},
    "multiclass": lambda task: {"objective": "multiclass", "num_class": task.width},
    "regression": lambda task: {"objective": "regression_l1" if task.estimand == "median" else "regression"},
}


def _explained_ms(sealed: SealedModel, rows: pl.DataFrame) -> float:
    """The median time for the reasons of one answer."""
    taken = []
    for row in range(EXPLAINED):
        inputs = model_inputs(rows[row : row + 1], sealed.schema.features)
        answer, started = sealed.model.answers(*inputs), time.perf_counter()
        reasons(sealed, *inputs, answer)
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken)


def _pinball(
    name: str,
    levels: Sequence[float],
    labels: NDArray[np.float64],
    ours: Sequence[NDArray[Any]],
    theirs: Sequence[NDArray[Any]],
    day: NDArray[np.intp],
) -> Figures:
    """ours, theirs: of each level the quantile, [rows]. The difference with the interval of whole days left out."""
    block = blocks_of(day)
    weights = weights_without(block)

    def losses(quantiles: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        by_level = [pinball(one, level) for level, one in zip(levels, quantiles, strict=True)]
        return weighted_mean(np.mean(by_level, axis=0), block, weights)

    def pinball(quantile: NDArray[Any], level: float) -> NDArray[np.float64]:
        return np.maximum(level * (labels - quantile), (level - 1) * (labels - quantile))

    our, their = losses(ours), losses(theirs)
    freedom = freedom_of(np.bincount(block).astype(np.float64))
    difference = jackknife(float(their[0] - our[0]), (their - our)[1:], freedom, -np.inf, np.inf)
    yield f"{name}_pinball_loss", float(our[0]), "minutes"
    yield f"{name}_pinball_loss_lightgbm", float(their[0]), "minutes"
    yield f"{name}_pinball_loss_better_by", difference.value, "minutes"
    yield f"{name}_pinball_loss_better_by_at_least", difference.low or float("nan"), "95 %"


def _by_hand(
    task: Task, seen: NDArray[Any], labels: NDArray[Any], asked: NDArray[Any], alpha: float | None = None
) -> NDArray[np.float64]:
    """alpha: the quantile that is fitted instead."""
    objective = _OBJECTIVES[task.kind](task) if alpha is None else {"objective": "quantile", "alpha": alpha}
    parameters = {**objective, "verbose": -1, "num_threads": CPUS}
    booster = lightgbm.train(parameters, lightgbm.Dataset(seen, labels.astype(np.float64)))
    return np.asarray(booster.predict(asked), dtype=np.float64)


USE_CASES = ("flights", "delay", "outcome")
PARTS = {
    **{name: partial(figures_of, name) for name in USE_CASES},
    "search_wall": beside.wall,
    "search_quality": beside.quality,
    **{f"flaml_{name}": partial(beside.flaml, name) for name in USE_CASES},
    **large_fit.PARTS,
}
