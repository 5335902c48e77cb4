"""Two hours before scheduled departure: will this flight be on time, late, or cancelled?

Of `flights.py` it takes all but the label: the same data, views and features.
"""

from dataclasses import replace

import flights as on_time
import polars as pl

from mlops_ray import Label
from mlops_ray.training.candidates import GradientBoosting, LightGBM, LogisticRegression, NeuralNetwork
from mlops_ray.use_case import (
    BetterThanBaseline,
    BetterThanChampion,
    Latency,
    MultiClass,
    NoSliceWorse,
    OnnxParity,
    Plausible,
)

# A flight that was diverted landed elsewhere, if at all: it has departed, and has no arrival delay.
cancelled = pl.col("dep_delay").is_null()
outcome = Label(
    "outcome",
    value=pl.when(cancelled)
    .then(pl.lit("cancelled"))
    .when(pl.col("arr_delay") >= 15)
    .then(pl.lit("late"))
    .when(pl.col("arr_delay") < 15)
    .then(pl.lit("on time")),
    known_at=pl.when(cancelled).then(pl.col("scheduled_departure")).otherwise(pl.col("landed")),
    task=MultiClass(("on time", "late", "cancelled")),
)

use_case = replace(
    on_time.use_case,
    name="outcome",
    purpose="Two hours before scheduled departure: will this flight be on time, late, or cancelled?",
    limits=on_time.use_case.limits[:-1],
    label=outcome,
    metric="log_loss",
    candidates=(LogisticRegression(), GradientBoosting(), LightGBM(), NeuralNetwork()),
    gates=(
        OnnxParity(),
        Latency(limit_ms=10),
        BetterThanBaseline("log_loss", by=("carrier", "hour")),
        NoSliceWorse("accuracy", 0.6),
        BetterThanChampion(margin=-0.01, metric="log_loss"),
        Plausible(limit=0.9, metric="roc_auc"),
    ),
)
