"""From segments on disk to committed windows: how many feature values a second of one core's time, and how much memory.

    python benchmarks/drift/ledger_to_windows.py FOLDER FEATURES ROWS [ENDPOINTS]

Writes a ledger of 40 replicas with ids, one answer in a hundred repeated, and labels for the first half; then a
watch reads it. Prints one JSON line. What is counted must be exact, or it fails.
"""

import json
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from memory import peak_mb

from mlops_ray.artifacts import Artifacts
from mlops_ray.monitoring.build_reference import build_reference
from mlops_ray.monitoring.drift_watch import DriftWatch, Round
from mlops_ray.monitoring.version_watch import Watched
from mlops_ray.predictions.ids import uuid7_at
from mlops_ray.predictions.labels import BY_REQUEST, write_by_request
from mlops_ray.predictions.segments import FEATURE, write_segment
from mlops_ray.use_case import Feature
from mlops_ray.use_case.window_spec import WindowSpec

START = datetime(2026, 3, 2, tzinfo=UTC)
REPLICAS = 40
PER_S = 50_000
SEGMENT_ROWS = 12_500
REPEATED = 0.01
SPECS = (WindowSpec(rows=50_000), WindowSpec(length=timedelta(minutes=1)))


def watched(columns: list[str]) -> Watched:
    random = np.random.default_rng(0)
    rows = pl.DataFrame(random.standard_normal((60_000, len(columns)), dtype=np.float32), schema=columns)
    times = [START - timedelta(days=30) + timedelta(seconds=40 * row) for row in range(len(rows))]
    rows = rows.with_columns(time=pl.Series(times, dtype=pl.Datetime("us", "UTC")))
    label = random.random(len(rows)) < 0.3
    scored = rows.select("time", probability=pl.Series(random.random(len(rows))), label=pl.Series(label))
    features = [Feature(name, "number") for name in columns]
    specs = [WindowSpec(rows=5_000), WindowSpec(length=timedelta(days=1))]
    reference = build_reference(rows, "time", features, specs, scored)
    # Only the counting is measured: kinds that fit the simulated rate, with the thresholds of others.
    kinds = zip(SPECS, reference.windows.values(), strict=True)
    windows = {spec.name: replace(one, spec=spec) for spec, one in kinds}
    return Watched("7", replace(reference, windows=windows), {columns[0]: 1.0})


def write_ledger(artifacts: Artifacts, use_case: str, columns: list[str], rows: int) -> int:
    """Segments of 40 replicas, in the order in which they are closed; returns how many answers are repetitions."""
    random, repeated = np.random.default_rng(1), 0
    values = random.standard_normal((SEGMENT_ROWS, len(columns)), dtype=np.float32)
    features = [pl.Series(f"{FEATURE}{name}", values[:, at].copy()) for at, name in enumerate(columns)]
    before: pl.DataFrame | None = None
    for number in range(rows // SEGMENT_ROWS):
        turn, replica = divmod(number, REPLICAS)
        step = 1_000_000 * REPLICAS // PER_S
        begin = turn * SEGMENT_ROWS * step + replica * step // REPLICAS
        micros = begin + np.arange(SEGMENT_ROWS) * step
        moments = pl.Series(np.datetime64(START.replace(tzinfo=None), "us") + micros.astype("timedelta64[us]"))
        moments = moments.dt.replace_time_zone("UTC")
        start_ms = int(START.timestamp() * 1000)
        tails = random.integers(0, 2**62, SEGMENT_ROWS).tolist()
        ids = [
            f"{(at := start_ms + int(m) // 1000) >> 16:08x}-{at & 0xFFFF:04x}-7000-8000-{tail & (2**48 - 1):012x}"
            for m, tail in zip(micros, tails, strict=True)
        ]
        frame = (
            pl.DataFrame({"request_id": ids})
            .with_columns(
                row=pl.lit(0, pl.Int32),
                time=moments.dt.replace_time_zone("UTC"),
                as_of=moments.dt.replace_time_zone("UTC"),
                version=pl.lit("7"),
                route=pl.lit("champion"),
                latency_s=pl.lit(0.001, pl.Float32),
                question=pl.lit(1, pl.Int64),
                probability=pl.Series(random.random(SEGMENT_ROWS).astype(np.float32)),
            )
            .with_columns(features)
        )
        if before is not None:
            again = before.head(int(SEGMENT_ROWS * REPEATED)).with_columns(time=frame["time"][0])
            frame, repeated = pl.concat([again, frame]), repeated + len(again)
        before = frame.tail(SEGMENT_ROWS)
        write_segment(artifacts, use_case, uuid7_at(start_ms + begin // 1000, tails[0].to_bytes(10, "big")), frame)
        if number % 2 == 0:
            known = pl.col("time") + timedelta(minutes=30)
            said = before.select(
                "request_id", "row", label=pl.col("probability") > 0.7, known_at=known, received_at=known
            )
            write_by_request(artifacts, use_case, uuid7_at(start_ms + number), said.cast(pl.Schema(BY_REQUEST)))
    return repeated


def main(folder: str, features: int, rows: int, endpoints: int) -> None:
    columns, artifacts = [f"x{at}" for at in range(features)], Artifacts(folder)
    judged = watched(columns)
    names = [f"endpoint_{at}" for at in range(endpoints)]
    repeated = [write_ledger(artifacts, name, columns, rows) for name in names]
    before = peak_mb()
    wall, cpu = time.perf_counter(), time.process_time()
    watches = [DriftWatch(artifacts, name, lambda version: judged, lambda change: None) for name in names]
    now = START + timedelta(hours=2)
    for watch in watches:
        while watch.round(now) != Round():
            continue
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    for watch, double in zip(watches, repeated, strict=True):
        whole = rows // SEGMENT_ROWS * SEGMENT_ROWS
        assert (watch.state.rows["7"], watch.state.repeated) == (whole, double), watch.state.rows
    idle = time.process_time()
    for watch in watches:
        watch.round(now)
    idle = time.process_time() - idle
    size = sum(entry.size for entry in artifacts.entries("monitoring", names[0], "state")[-1:])
    print(json.dumps({
        "values_per_s": rows * endpoints * (features + 1) / cpu, "cpu_s": cpu, "wall_s": wall, "peak_mb": peak_mb(),
        "mb_before": before, "idle_round_cpu_s": idle / endpoints, "state_bytes": size,
    }))  # fmt: skip


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 1)
