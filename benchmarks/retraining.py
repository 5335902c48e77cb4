"""Retraining: what policies are worth on a past whose truth is known, with intervals over days, seeds and worlds.

The label follows one feature and from a day on another one. Labels come as outcomes do: a positive is known after three
days, a negative after an hour. What is trained is chosen for each seed by what was known at the beginning.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import ray

from mlops_ray.artifacts import Artifacts
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.retraining.backtest import PolicyReport, backtest, over_seeds
from mlops_ray.training.candidates import GradientBoosting, LogisticRegression
from mlops_ray.use_case import Column, Feature, Label, Monitoring, Retraining, Search, Source, Split, UseCase
from mlops_ray.use_case.window_spec import WindowSpec

WORLDS, SEEDS, TRIALS = 3, 3, 3
DAYS, CHANGE_DAY, START_DAY, PER_DAY = 180, 80, 60, 150
BEGIN = datetime(2020, 1, 1, tzinfo=UTC)
FEATURES = (Feature("x", "number"), Feature("y", "number"))
NEVER = Retraining(alarms=(), split=Split(test=timedelta(days=14)), stop_after_losses=99)
POLICIES = {
    "never": NEVER,
    "monthly": replace(NEVER, every=timedelta(days=30), min_new_rows=0, cool_down=timedelta(0)),
    "drift": replace(
        NEVER, alarms=("data", "prediction", "concept"), every=timedelta(days=30), min_new_rows=500,
        cool_down=timedelta(days=3),
    ),
}  # fmt: skip
CASE = UseCase(
    name="changing",
    sources={"rows": Source("*.csv", (Column("id", "text"), Column("at", "timestamp"), Column("came", "boolean")))},
    entities=("id",),
    event_time="at",
    label=Label("came", pl.col("came"), pl.col("at")),
    candidates=(LogisticRegression(), GradientBoosting()),
    search=Search(trials_per_candidate=TRIALS),
    monitoring=Monitoring((WindowSpec(rows=750, minimum_rows=750),), false_alarm_days=60),
)


def world(seed: int) -> pl.DataFrame:
    """A training set of `DAYS` days."""
    random = np.random.default_rng(seed)
    rows = DAYS * PER_DAY
    day = np.arange(rows) / PER_DAY
    x, y = random.normal(size=(2, rows))
    came = np.where(day < CHANGE_DAY, x, y) + random.normal(0, 0.7, rows) > 0.5
    at = pl.Series([BEGIN + timedelta(days=float(one)) for one in day], dtype=pl.Datetime("us", "UTC"))
    frame = pl.DataFrame({PREDICTION_TIME: at, "x": x, "y": y, LABEL: came})
    delay = pl.when(LABEL).then(pl.duration(days=3)).otherwise(pl.duration(hours=1))
    return frame.with_columns((pl.col(PREDICTION_TIME) + delay).alias(LABEL_KNOWN_AT))


def figures() -> Iterator[tuple[str, float, str]]:
    start, end = BEGIN + timedelta(days=START_DAY), BEGIN + timedelta(days=DAYS)
    reports: dict[str, list[PolicyReport]] = {name: [] for name in POLICIES}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(WORLDS):
                url = Artifacts(folder).write_table(world(seed), "training_sets", f"{seed}.parquet")
                found = backtest(url, CASE, FEATURES, start, end, POLICIES, SEEDS)
                for report in found.policies:
                    reports[report.policy].append(report)
    finally:
        ray.shutdown()
    for name, done in reports.items():
        runs = [run for report in done for run in report.runs]
        yield f"roc_auc_{name}", float(np.mean([run.roc_auc.value for run in runs])), "ROC AUC"
        yield f"cpu_s_{name}", float(np.mean([run.cpu_hours for run in runs])) * 3600, "s"
        yield f"retrainings_{name}", float(np.mean([len(run.retrainings) for run in runs])), "in 120 days"
        if name == "never":
            continue
        gains = [report.difference for report in done if report.difference is not None]
        for number, gain in enumerate(gains):
            yield f"gain_{name}_world{number}", gain.value, "ROC AUC"
            yield f"gain_{name}_world{number}_low", gain.low if gain.low is not None else float("nan"), "ROC AUC"
            yield f"gain_{name}_world{number}_high", gain.high if gain.high is not None else float("nan"), "ROC AUC"
        mean = over_seeds(gains)  # it takes days to be shared, which those of worlds are not: it errs on the wide side
        yield f"gain_{name}", mean.value, "ROC AUC"
        yield f"gain_{name}_low", mean.low if mean.low is not None else float("nan"), "ROC AUC"
        yield f"gain_{name}_high", mean.high if mean.high is not None else float("nan"), "ROC AUC"
