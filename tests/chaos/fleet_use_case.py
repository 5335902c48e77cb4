"""The use case that the fleet's governor trains again. Each retraining loads this file once, and that is written down:
the name of its actor, on a line of the file at FLEET_BEGUN."""

import os
from datetime import timedelta
from pathlib import Path

import polars as pl
import ray

from mlops_ray.training.candidates import LogisticRegression
from mlops_ray.use_case import Column, Label, Retraining, Source, UseCase

# There is no such file, so that a retraining is over as soon as it has looked: its end is then "failed". None is
# refused for those before it.
USE_CASE = UseCase(
    name="departures",
    sources={"departures": Source("none/*.csv", (Column("origin", "text"), Column("time", "timestamp")))},
    entities=("origin",),
    event_time="time",
    label=Label("late", pl.lit(True), pl.col("time")),
    candidates=(LogisticRegression(),),
    retraining=Retraining(min_new_rows=0, cool_down=timedelta(seconds=1), max_per_week=10_000, stop_after_losses=1_000),
)

if ray.is_initialized() and (name := ray.get_runtime_context().get_actor_name()) and name.startswith("retrain"):
    with Path(os.environ["FLEET_BEGUN"]).open("a") as file:
        file.write(f"{name}\n")
