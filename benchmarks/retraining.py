"""Retraining: what policies are worth on a past whose truth is known, with intervals over days, seeds and worlds.

The label follows one feature and from a day on another one. Labels come as outcomes do: a positive is known after three
days, a negative after an hour. The rows know nothing of them: they are told, and the training set has them
from there. What is trained is chosen for each seed by what was known at the beginning. A test part of two weeks holds
no five windows of 750 rows, so the errors are followed as a stream: with windows alone concept drift could raise no
alarm, and the policy "drift" would be its schedule. All of it takes about two minutes of two cores.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import ray

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import load_settings
from mlops_ray.features.training_set import build_training_set
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.pipeline.steps.ingest import contract
from mlops_ray.predictions.ids import uuid7_at
from mlops_ray.predictions.labels import write_by_keys
from mlops_ray.predictions.segments import KEY
from mlops_ray.predictions.told_labels import told_labels
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
NAME, KEYS = "changing", (Column("id", "text"), Column("at", "timestamp"))
CASE = UseCase(
    name=NAME,
    sources={
        "rows": Source(
            "rows.csv",
            (
                *KEYS,
                *(Column(feature.name, "number") for feature in FEATURES),
                Column("came", "boolean", nullable=True, outcome=True),
                Column("known", "timestamp", nullable=True, outcome=True),
            ),
        ),
        "told": told_labels(NAME, KEYS),
    },
    entities=("id",),
    event_time="at",
    label=Label("came", pl.col("came"), pl.col("known"), told="told"),
    candidates=(LogisticRegression(), GradientBoosting()),
    search=Search(trials_per_candidate=TRIALS),
    monitoring=Monitoring(
        (WindowSpec(rows=750, minimum_rows=750),), false_alarm_days=60, error_detectors=("page_hinkley",)
    ),
)


def world(seed: int) -> pl.DataFrame:
    """`DAYS` days of rows, with what becomes of them in `label`, and when that is known."""
    random = np.random.default_rng(seed)
    rows = DAYS * PER_DAY
    day = np.arange(rows) / PER_DAY
    x, y = random.normal(size=(2, rows))
    came = np.where(day < CHANGE_DAY, x, y) + random.normal(0, 0.7, rows) > 0.5
    at = pl.Series([BEGIN + timedelta(days=float(one)) for one in day], dtype=pl.Datetime("us", "UTC"))
    frame = pl.DataFrame({"id": [f"{row:06}" for row in range(rows)], "at": at, "x": x, "y": y, "label": came})
    delay = pl.when("label").then(pl.duration(days=3)).otherwise(pl.duration(hours=1))
    return frame.with_columns(known_at=pl.col("at") + delay)


def training_set(folder: Path, seed: int) -> str:
    """The URL of what a pipeline makes of a world's rows and of the labels that were told of them."""
    rows, settings = world(seed), load_settings(state=str(folder), data=str(folder))
    nothing = pl.lit(None, dtype=pl.String)
    rows.select(*(key.name for key in KEYS), "x", "y", came=nothing, known=nothing).write_csv(folder / "rows.csv")
    artifacts, as_of = Artifacts(settings.artifacts), BEGIN + timedelta(days=DAYS + 3)
    said = rows.select(
        *(pl.col(key.name).alias(f"{KEY}{key.name}") for key in KEYS), "label", "known_at", received_at="known_at"
    )
    write_by_keys(artifacts, NAME, uuid7_at(0), "at", said)
    contracts = {name: contract(source) for name, source in CASE.sources.items()}
    snapshot = ingest(CASE, settings, as_of, "benchmark", contracts)
    return build_training_set(CASE, artifacts, None, [], snapshot, as_of).url


def figures() -> Iterator[tuple[str, float, str]]:
    start, end = BEGIN + timedelta(days=START_DAY), BEGIN + timedelta(days=DAYS)
    reports: dict[str, list[PolicyReport]] = {name: [] for name in POLICIES}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        for seed in range(WORLDS):
            with tempfile.TemporaryDirectory() as folder:
                url = training_set(Path(folder), seed)
                found = backtest(url, CASE, FEATURES, start, end, POLICIES, SEEDS)
                for report in found.policies:
                    assert not any(spot.question == "concept" for run in report.runs for spot in run.blind)
                    reports[report.policy].append(report)
    finally:
        ray.shutdown()
    for name, done in reports.items():
        runs = [run for report in done for run in report.runs]
        yield f"roc_auc_{name}", float(np.mean([run.quality.value for run in runs])), "ROC AUC"
        yield f"cpu_s_{name}", float(np.mean([run.cpu_hours for run in runs])) * 3600, "s"
        yield f"retrainings_{name}", float(np.mean([len(run.retrainings) for run in runs])), "in 120 days"
        asked = [sum(one.cause == "alarm" for one in run.retrainings) for run in runs]
        yield f"retrainings_by_alarm_{name}", float(np.mean(asked)), "in 120 days"
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
