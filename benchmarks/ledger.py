"""The ledger: what an append costs the request that waits for it, how fast segments are read back, and compacted."""

import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from statistics import median

import numpy as np
import uuid6

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.predictions.compaction import compact
from mlops_ray.predictions.segments import FEATURE, read_segment, segments
from mlops_ray.predictions.writer import LedgerWriter
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.use_case import Column, Feature

APPENDS, SYNCED = 20_000, 500
RUNS = 5
# As wide as flights: 5 entities, the moment, 36 numbers and 3 categories.
ENTITIES = ("carrier", "flight", "origin", "dest", "tailnum")
NUMBERS = tuple(f"number_{position}" for position in range(36))
CATEGORIES = ("carrier", "origin", "dest")


def figures() -> Iterator[tuple[str, float, str]]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(state=folder, data=folder)
        writer = LedgerWriter(settings, "flights")
        writer.add_version("1", _schema())
        yield "append_us", median(_append_us(writer, seed) for seed in range(RUNS)), "us"
        writer.close()
        artifacts = Artifacts(settings.artifacts)
        found = [segment.url for segment in segments(artifacts, "flights")]
        yield "read_values_per_s", median(_values_per_s(found) for _ in range(RUNS)), "values/s"
        started = time.perf_counter()
        done = compact(artifacts, "flights", lambda segment: True)
        yield "compaction_rows_per_s", done.rows / (time.perf_counter() - started), "rows/s"
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(state=folder, data=folder, ledger_sync=True)
        writer = LedgerWriter(settings, "flights")
        writer.add_version("1", _schema())
        yield "append_sync_us", median(_append_us(writer, seed, SYNCED) for seed in range(RUNS)), "us"
        writer.close()


def _schema() -> ModelSchema:
    features = [*(Feature(name, "category") for name in CATEGORIES), *(Feature(name, "number") for name in NUMBERS)]
    columns = [*(Column(name, "text") for name in ENTITIES), Column("scheduled_departure", "timestamp")]
    return ModelSchema("flights", "late", ENTITIES, "scheduled_departure", 7200.0, tuple(columns), {}, tuple(features))


def _append_us(writer: LedgerWriter, seed: int, appends: int = APPENDS) -> float:
    """Microseconds for a record of one row, each with values of its own."""
    random = np.random.default_rng(seed)
    numbers = random.normal(size=(appends, 1, len(NUMBERS))).astype(np.float32)
    probability = random.random((appends, 1), dtype=np.float32)
    texts = random.choice(["AA", "UA", "JFK", "LGA", ""], (appends, 1, len(CATEGORIES))).astype(object)
    now = datetime.now(UTC)
    key = dict.fromkeys(ENTITIES, "N12345") | {"scheduled_departure": now}
    question = bytes(8)
    ids = [str(uuid6.uuid7()) for _ in range(appends)]
    started = time.perf_counter()
    for position, request_id in enumerate(ids):
        writer.append(
            "1",
            request_id=request_id,
            route="champion",
            keys=[key],
            numbers=numbers[position],
            categories=texts[position],
            answer=probability[position],
            latency_s=0.001,
            as_of=now,
            question=question,
            caller=ids[0],
        )
    return (time.perf_counter() - started) / appends * 1e6


def _values_per_s(urls: list[str]) -> float:
    """Feature values read into columns, from segments as one writer leaves them, on one core or more."""
    started = time.perf_counter()
    frames = [read_segment(url) for url in urls]
    seconds = time.perf_counter() - started
    return sum(frame.height * sum(name.startswith(FEATURE) for name in frame.columns) for frame in frames) / seconds
