"""The registry: from a request's id to the raw files' digests, how many promotions a second the store takes, and how
long one prediction among 100 million is looked for."""

import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from statistics import median

import numpy as np
import polars as pl
import uuid6
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import open_store
from mlops_ray.predictions.ids import microseconds, uuid7_at
from mlops_ray.predictions.reader import Ledger
from mlops_ray.predictions.segments import FEATURE, named_for, write_segment
from mlops_ray.predictions.table import LedgerTable
from mlops_ray.registry.trace import trace
from mlops_ray.testing.example_lineage import AUTHOR, example_lineage, register_example

PROMOTIONS = 200
LOOK_UPS = 20
# Two replicas for three hours, a segment each minute; 100 answers a second each.
REPLICAS, MINUTES, ANSWERS = 2, 180, 6000
# The compacted ledger of a day with 1,157 answers a second, compacted each half hour; its rows are narrower than those
# of a model with many features, which a lookup decodes for one stretch of rows only.
COMPACTED_ROWS, COMPACTIONS = 100_000_000, 48
FEATURES = tuple(f"{FEATURE}number_{position}" for position in range(4))


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
        store.close()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(state=folder, data=folder)
        ids = list(_compacted(settings))
        yield "find_ms_100m", median(_find_milliseconds(settings, request_id) for request_id in ids), "ms"


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
            segment = named_for(f"{name}-{replica}-{uuid6.uuid7().hex[-6:]}", rows)
            write_segment(artifacts, "flights", segment, rows)
            if len(ids) and replica == 0 and minute % (MINUTES // LOOK_UPS) == 0:
                yield ids[ANSWERS // 2]


def _compacted(settings: Settings) -> Iterator[str]:
    """Fill the table of a ledger; ids of some of the requests in it."""
    table, random = LedgerTable(Artifacts(settings.artifacts), "flights"), np.random.default_rng(13)
    begin = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=2)
    rows, length_us = COMPACTED_ROWS // COMPACTIONS, 86_400_000_000 // COMPACTIONS
    for number in range(COMPACTIONS):
        moments = np.sort(random.integers(0, length_us, rows)) + microseconds(begin) + number * length_us
        segment = uuid7_at(int(moments[0]) // 1000)
        answered = pl.Series(moments).cast(pl.Datetime("us", "UTC"))
        frame = pl.DataFrame({"request_id": _uuids(moments // 1000, random)}).with_columns(
            pl.lit(0, pl.Int32).alias("row"),
            answered.alias("time"),
            answered.alias("as_of"),
            pl.lit("2").alias("version"),
            pl.lit("champion").alias("route"),
            pl.Series("latency_s", random.random(rows, dtype=np.float32)),
            pl.lit("somebody").alias("caller"),
            pl.Series("question", random.integers(-(2**63), 2**63 - 1, rows)),
            pl.Series("probability", random.random(rows, dtype=np.float32)),
            pl.lit(segment).alias("segment"),
            *(pl.Series(name, random.random(rows, dtype=np.float32)) for name in FEATURES),
        )
        table.append(table.begin(), frame.sort("request_id"), [segment])
        if number % (COMPACTIONS // LOOK_UPS) == 0:
            yield frame["request_id"][rows // 2]


def _uuids(moments_ms: NDArray[np.int64], random: np.random.Generator) -> pl.Series:
    """UUIDv7s of moments; `uuid7_at` for millions."""
    nibbles = random.integers(0, 16, (len(moments_ms), 36), np.uint8)
    for place in range(12):
        nibbles[:, place + (place >= 8)] = (moments_ms >> (4 * (11 - place))) & 15
    nibbles[:, 14], nibbles[:, 19] = 7, 8 | nibbles[:, 19] & 3
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[nibbles]
    digits[:, [8, 13, 18, 23]] = ord("-")
    return pl.Series(digits.view("S36").ravel()).cast(pl.String)


def _find_milliseconds(settings: Settings, request_id: str) -> float:
    started = time.perf_counter()
    assert Ledger(settings, "flights").find(request_id).height == 1
    return (time.perf_counter() - started) * 1000


def _milliseconds(settings: Settings, request_id: str) -> float:
    started = time.perf_counter()
    found = trace(settings, request_id)
    assert found.lineage.source_files
    return (time.perf_counter() - started) * 1000
