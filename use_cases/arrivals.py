"""Two hours before scheduled departure: will this flight arrive an hour late or more?

A second use case on the features of the first. It declares another question, and no feature code: its sources, views
and their definitions are those of `flights.py`, and so is the feature project that its versions read, with the values
online. One refresh is for both.
"""

from datetime import timedelta

import flights as on_time
import polars as pl

from mlops_ray import Label, Search, UseCase
from mlops_ray.training.candidates import GradientBoosting, LogisticRegression
from mlops_ray.use_case import BetterThanBaseline, Latency, OnnxParity, Plausible, Split, Threshold

use_case = UseCase(
    name="arrivals",
    owner="connections@example.org",
    purpose="Two hours before scheduled departure: will this flight arrive an hour late or more?",
    limits=("All that limits flights.", "One flight in twelve is that late: look at ranks, not at shares of right."),
    sources={"flights": on_time.flights, "weather": on_time.weather, "planes": on_time.planes},
    entities=("carrier", "flight", "origin", "dest", "tailnum"),
    event_time="scheduled_departure",
    lead_time=timedelta(hours=2),
    label=Label("hour_late", value=pl.col("arr_delay") >= 60, known_at=pl.col("landed")),
    request_features={
        "origin": pl.col("origin"),
        "carrier": pl.col("carrier"),
        "hour": on_time.local_time.dt.hour() + on_time.local_time.dt.minute() / 60,
    },
    feature_views=on_time.use_case.feature_views,
    feature_service="flights",
    candidates=(LogisticRegression(), GradientBoosting()),
    search=Search(trials_per_candidate=2),
    slices=("origin",),
    time_zone=on_time.NEW_YORK,
    gates=(
        OnnxParity(),
        Latency(limit_ms=10),
        Threshold("roc_auc", 0.6),
        BetterThanBaseline("roc_auc", by=("carrier", "hour")),
        Plausible(limit=0.88),
    ),
    split=Split(test=timedelta(days=92), gap=timedelta(days=30), validation=timedelta(days=62)),
)
