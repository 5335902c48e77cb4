"""The registry: from a request's id to the raw files' digests, and how many promotions a second the store takes."""

import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from statistics import median

import numpy as np
import polars as pl
import uuid6

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.live import set_champion
from mlops_ray.predictions.ids import microseconds, uuid7_at
from mlops_ray.predictions.segments import write_segment
from mlops_ray.registry.trace import trace
from mlops_ray.testing.example_lineage import AUTHOR, example_lineage, register_example

PROMOTIONS = 200
LOOK_UPS = 20
# Two replicas for three hours, a segment each minute; 100 answers a second each.
REPLICAS, MINUTES, ANSWERS = 2, 180, 6000


def figures() -> Iterator[tuple[str, float, str]]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(state=folder, data=folder)
        store = open_store(settings)
        versions = [
            register_example(settings, store, example_lineage(digest=f"{number:064x}", files=25), number)
            for number in (1, 2)
        ]
        started = time.perf_counter()
        for number in range(PROMOTIONS):
            set_champion(store, AUTHOR, "flights", versions[number % 2], "a benchmark")
        yield "promotions_per_s", PROMOTIONS / (time.perf_counter() - started), "promotions/s"
        ids = list(_answers(settings))
        yield "lineage_ms", median(_milliseconds(settings, request_id) for request_id in ids), "ms"


def _answers(settings: Settings) -> Iterator[str]:
    """Fill the ledger; ids of some of the requests in it."""
    artifacts, begin = Artifacts(settings.artifacts), datetime.now(UTC) - timedelta(minutes=MINUTES)
    random = np.random.default_rng(13)
    for minute in range(MINUTES):
        for replica in range(REPLICAS):
            start = begin + timedelta(minutes=minute)
            moments = np.sort(random.integers(0, 60_000_000, ANSWERS)) + microseconds(start)
            ids = [uuid7_at(int(moment) // 1000) for moment in moments]
            rows = pl.DataFrame({"request_id": ids, "time": moments, "probability": random.random(ANSWERS)})
            rows = rows.with_columns(
                pl.col("time").cast(pl.Datetime("us", "UTC")),
                pl.lit("2").alias("version"),
                pl.lit("champion").alias("route"),
                pl.col("time").cast(pl.Datetime("us", "UTC")).alias("as_of"),
                pl.lit(0, pl.Int32).alias("row"),
                pl.lit(0.001, pl.Float32).alias("latency_s"),
                pl.col("probability").cast(pl.Float32),
            )
            name = uuid7_at(microseconds(start) // 1000)
            write_segment(artifacts, "flights", f"{name}-{replica}-{uuid6.uuid7().hex[-6:]}", rows)
            if len(ids) and replica == 0 and minute % (MINUTES // LOOK_UPS) == 0:
                yield ids[ANSWERS // 2]


def _milliseconds(settings: Settings, request_id: str) -> float:
    started = time.perf_counter()
    found = trace(settings, request_id)
    assert found.lineage.source_files
    return (time.perf_counter() - started) * 1000
