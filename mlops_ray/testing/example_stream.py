"""A stream of predictions of the example model in simulated time, as the ledger has them, with their labels."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.monitoring.build_reference import build_reference
from mlops_ray.monitoring.version_watch import Watched
from mlops_ray.predictions.ids import uuid7_at
from mlops_ray.predictions.segments import FEATURE, KEY, write_segment
from mlops_ray.testing.example_model import EFFECTS, FEATURES, WEIGHTS
from mlops_ray.use_case.window_spec import WindowSpec

START = datetime(2026, 3, 2, tzinfo=UTC)
BY_COUNT = WindowSpec(rows=400, minimum_rows=200)
BY_TIME = WindowSpec(length=timedelta(days=1), minimum_rows=200)
PER_DAY = 400
_DAY_MS = 86_400_000


def example_stream(days: int, seed: int, first: datetime = START) -> pl.DataFrame:
    """400 predictions a day, `time`, features by name, `probability`, and the `label` that turns out to be true."""
    random = np.random.default_rng(seed)
    rows = days * PER_DAY
    moments = [first + timedelta(milliseconds=row * _DAY_MS // PER_DAY) for row in range(rows)]
    frame = pl.DataFrame(
        {
            "time": pl.Series(moments, dtype=pl.Datetime("us", "UTC")),
            "origin": random.choice(["EWR", "JFK", "LGA"], rows),
            "distance": random.uniform(100, 2000, rows),
            "carrier": random.choice(["AA", "UA"], rows),
            "hour": random.integers(5, 23, rows).astype(np.float64),
            "recent_delay": pl.Series(np.where(random.random(rows) < 0.1, np.nan, random.normal(5, 10, rows))),
        }
    )
    return answered(frame.with_columns(pl.col("recent_delay").fill_nan(None)), seed)


def answered(rows: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """The rows with the example model's answers, and labels that are as probable as it says."""
    score = sum((pl.col(name).fill_null(0) * weight for name, weight in WEIGHTS.items()), pl.lit(0.0))
    for name in ("origin", "carrier"):
        score = score + pl.col(name).fill_null("").replace_strict(EFFECTS, default=-0.5, return_dtype=pl.Float64)
    guess = rows.select((1 / (1 + (-score).exp())).cast(pl.Float32).alias("probability"))["probability"]
    label = pl.Series("label", np.random.default_rng(seed + 1).random(len(rows))) < guess
    return rows.with_columns(guess, label.alias("label"))


def example_watched(version: str = "7", seed: int = 1, days: int = 40) -> Watched:
    """What the example's predictions are judged by, learned from a stream of its own."""
    rows = example_stream(days, seed, START - timedelta(days=days + 30))
    reference = build_reference(rows, "time", FEATURES, [BY_COUNT, BY_TIME], rows, ["origin"], false_alarm_days=30)
    return Watched(version, reference, {"distance": 3.0, "hour": 1.0})


def write_example_segments(
    artifacts: Artifacts,
    use_case: str,
    rows: pl.DataFrame,
    size: int = 200,
    version: str = "7",
    route: str = "champion",
) -> list[str]:
    """Write `rows` as segments of `size`, answered at their time; returns the request ids, one for each row.

    The ids follow from the times, so the same rows written again replace themselves.
    """
    moments = [int(moment.timestamp() * 1000) for moment in rows["time"]]
    request_ids = [uuid7_at(moment, f"{moment:013}{version}".encode()[-10:]) for moment in moments]
    features = [feature.name for feature in FEATURES if feature.name in rows.columns]
    table = rows.select(
        pl.Series("request_id", request_ids),
        pl.lit(0, pl.Int32).alias("row"),
        "time",
        pl.col("as_of" if "as_of" in rows.columns else "time").alias("as_of"),
        pl.lit(version).alias("version"),
        pl.lit(route).alias("route"),
        pl.lit(0.001, pl.Float32).alias("latency_s"),
        pl.col("carrier").alias(f"{KEY}carrier"),
        pl.col("time").alias(f"{KEY}departure"),
        *(pl.col(name).alias(f"{FEATURE}{name}") for name in features),
        "probability",
    )
    for part in table.iter_slices(size):
        moment = part["time"].min()
        write_segment(artifacts, use_case, _segment_id(moment, part), part)
    return request_ids


def _segment_id(moment: object, part: pl.DataFrame) -> str:
    assert isinstance(moment, datetime)
    return uuid7_at(int(moment.timestamp() * 1000), str(part["request_id"][0])[-10:].encode())
