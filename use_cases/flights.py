"""Two hours before scheduled departure: will this flight arrive 15 minutes late or more?

Everything a user writes for one use case stands in this file; two views that are functions have their Feast definitions
in `feature_repo/`, those of the others follow from their declarations.
Data: all flights that left New York in 2013, the weather there, and the aircraft (`flights_raw_data.py` writes them).
"""

from datetime import UTC, datetime, timedelta

import polars as pl

from mlops_ray import Column, Label, Search, Source, Split, Tables, UseCase
from mlops_ray.training.candidates import GradientBoosting, LogisticRegression, NeuralNetwork
from mlops_ray.use_case import (
    Aggregation,
    Approval,
    BetterThanBaseline,
    BetterThanChampion,
    Latency,
    NoSliceWorse,
    OnnxParity,
    Plausible,
    Retraining,
    Threshold,
    WindowedView,
    windowed_views,
)

TAXI_IN = timedelta(minutes=20)
NEW_YORK = "America/New_York"
AIRPORT = r"[A-Z]{3}"


def minutes(column: str) -> pl.Expr:
    return pl.duration(minutes=pl.col(column))


scheduled_departure = pl.col("time_hour") + minutes("minute")
departed = scheduled_departure + minutes("dep_delay")
landed = departed + minutes("air_time") + TAXI_IN

flights = Source(
    path="flights_*.csv",
    key=("time_hour", "carrier", "flight", "origin"),
    columns=(
        Column("time_hour", "timestamp"),
        Column("minute", "integer", minimum=0, maximum=59),
        Column("carrier", "text", pattern=r"[A-Z0-9]{2}"),
        Column("flight", "integer", minimum=1, maximum=9999),
        Column("tailnum", "text", nullable=True, pattern=r"[A-Z0-9]{2,8}", null_texts=("NA",)),
        Column("origin", "text", choices=("EWR", "JFK", "LGA")),
        Column("dest", "text", pattern=AIRPORT, closed=True),
        Column("dep_delay", "integer", nullable=True, minimum=-120, maximum=2880, outcome=True),
        Column("arr_delay", "integer", nullable=True, minimum=-180, maximum=2880, outcome=True),
        Column("air_time", "integer", nullable=True, minimum=1, maximum=1200, outcome=True),
    ),
    derived={"scheduled_departure": scheduled_departure, "departed": departed, "landed": landed},
    known_at=pl.coalesce("landed", "departed", "scheduled_departure"),
)

weather = Source(
    path="weather_*.csv",
    key=("origin", "time_hour"),
    columns=(
        Column("origin", "text", choices=("EWR", "JFK", "LGA")),
        Column("time_hour", "timestamp"),
        Column("temp", "number", nullable=True, minimum=-40, maximum=130),
        Column("humid", "number", nullable=True, minimum=0, maximum=100),
        Column("wind_dir", "number", nullable=True, minimum=0, maximum=360),
        Column("wind_speed", "number", nullable=True, minimum=0, maximum=150, out_of_range="null"),
        Column("wind_gust", "number", nullable=True, minimum=0, maximum=200, out_of_range="null"),
        Column("precip", "number", nullable=True, minimum=0),
        Column("pressure", "number", nullable=True, minimum=850, maximum=1100),
        Column("visib", "number", nullable=True, minimum=0),
    ),
    known_at=pl.col("time_hour"),
)

planes = Source(
    path="planes.csv",
    key=("tailnum",),
    columns=(
        Column("tailnum", "text"),
        Column("year", "integer", nullable=True, minimum=1940, maximum=2030, out_of_range="null"),
        Column("seats", "integer", nullable=True, minimum=1),
    ),
)


def weather_at_origin(tables: Tables) -> pl.DataFrame:
    return tables["weather"].rename({"time_hour": "event_timestamp"})


def plane(tables: Tables) -> pl.DataFrame:
    registered = datetime(2012, 12, 31, tzinfo=UTC)
    return tables["planes"].select(
        "tailnum", pl.lit(registered).alias("event_timestamp"), plane_year="year", plane_seats="seats"
    )


# A departure delay is known at departure, an arrival delay at landing.
delays = {
    "departure_delay": Aggregation("mean", pl.col("dep_delay"), known_at=pl.col("departed")),
    "arrival_delay": Aggregation("mean", pl.col("arr_delay"), known_at=pl.col("landed")),
    "late_share": Aggregation("mean", pl.col("arr_delay") >= 15, known_at=pl.col("landed")),
    "last_departure_delay": Aggregation("last", pl.col("dep_delay"), known_at=pl.col("departed")),
    "last_arrival_delay": Aggregation("last", pl.col("arr_delay"), known_at=pl.col("landed")),
}


def recent(name: str, keys: tuple[str, ...], window: timedelta) -> dict[str, WindowedView]:
    """Delays of the flights that share `keys`, over the window that ends at each departure or landing."""
    return windowed_views(name, "flights", keys, [window], delays)


local_time = pl.col("scheduled_departure").dt.convert_time_zone(NEW_YORK)

use_case = UseCase(
    name="flights",
    owner="operations@example.org",
    purpose="Two hours before scheduled departure: will this flight arrive 15 minutes late or more?",
    limits=(
        "Only flights from EWR, JFK and LGA, to the destinations that it has seen.",
        "Learned from 2013 alone: another year has other schedules, aircraft and winters.",
        "Cancelled flights have no label, so it says nothing about cancellation.",
    ),
    sources={"flights": flights, "weather": weather, "planes": planes},
    entities=("carrier", "flight", "origin", "dest", "tailnum"),
    event_time="scheduled_departure",
    lead_time=timedelta(hours=2),
    label=Label("late", value=pl.col("arr_delay") >= 15, known_at=pl.col("landed")),
    request_features={
        "carrier": pl.col("carrier"),
        "origin": pl.col("origin"),
        "dest": pl.col("dest"),
        "hour": local_time.dt.hour() + local_time.dt.minute() / 60,
        "weekday": local_time.dt.weekday(),
    },
    feature_views={
        "weather": weather_at_origin,
        "plane": plane,
        **recent("origin", ("origin",), timedelta(hours=3)),
        **recent("destination", ("dest",), timedelta(hours=3)),
        **recent("carrier", ("carrier",), timedelta(hours=3)),
        **recent("aircraft", ("tailnum",), timedelta(hours=24)),
        **recent("route", ("origin", "dest"), timedelta(days=7)),
        **recent("flight_number", ("carrier", "flight"), timedelta(days=7)),
    },
    feature_service="flights",
    candidates=(LogisticRegression(), GradientBoosting(), NeuralNetwork()),
    search=Search(trials_per_candidate=6),
    slices=("origin", "carrier"),
    time_zone=NEW_YORK,
    gates=(
        OnnxParity(),
        Latency(limit_ms=10),
        Threshold("roc_auc", 0.6),
        BetterThanBaseline("roc_auc", by=("carrier", "hour")),
        NoSliceWorse("roc_auc", 0.6),
        BetterThanChampion(margin=-0.01),
        Plausible(limit=0.85),  # what is known two hours before allows about 0.75
    ),
    approval=Approval(expires_after=timedelta(days=14)),
    retraining=Retraining(every=timedelta(days=60), search=False),
    split=Split(test=timedelta(days=92), gap=timedelta(days=30), validation=timedelta(days=62)),
)
