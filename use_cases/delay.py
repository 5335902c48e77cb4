"""Two hours before scheduled departure: how many minutes late, or early, will this flight arrive?

Of `flights.py` it takes all but the label: the same data, views and features.
"""

from dataclasses import replace

import flights as on_time
import polars as pl

from mlops_ray import Label, Search
from mlops_ray.training.candidates import GradientBoosting, LightGBM, LinearRegression, NeuralNetwork
from mlops_ray.use_case import (
    BetterThanBaseline,
    BetterThanChampion,
    Latency,
    NoSliceWorse,
    OnnxParity,
    Plausible,
    Regression,
    Threshold,
)

# The median: a flight that comes a day late says no more of the others than one that comes two hours late.
arrival_delay = Label(
    "arrival_delay",
    value=pl.col("arr_delay"),
    known_at=pl.col("landed"),
    task=Regression(unit="minutes", estimand="median", coverage=0.8, quantiles=(0.1, 0.5, 0.9)),
)

use_case = replace(
    on_time.use_case,
    name="delay",
    purpose="Two hours before scheduled departure: how many minutes late, or early, will this flight arrive?",
    label=arrival_delay,
    metric="mean_absolute_error",
    search=Search(trials_per_candidate=8),
    candidates=(LinearRegression(), GradientBoosting(), LightGBM(), NeuralNetwork()),
    gates=(
        OnnxParity(),
        Latency(limit_ms=10),
        BetterThanBaseline("mean_absolute_error", by=("carrier", "hour")),
        Threshold("coverage", 0.75),
        NoSliceWorse("mean_absolute_error", 30),
        BetterThanChampion(margin=-0.5, metric="mean_absolute_error"),
        Plausible(limit=0.5, metric="r2"),
    ),
)
