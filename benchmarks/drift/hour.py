"""50,000 predictions a second for an hour, in compressed time: does a watch keep up, at the end as at the beginning?

    python benchmarks/drift/hour.py FOLDER [MINUTES] [PER_S]

40 replicas, four on each of ten nodes, close a segment every 20 seconds; one answer in a hundred is a repetition that
another replica gave. A process of its own writes the files of the next 20 seconds while a round of the watch is timed:
what that takes beyond 20 seconds is lag for the next. All 100 features are in the files of the first and the last 40
seconds, and two in between, so that the hour takes eight minutes of two cores: what grows with history would grow with
ids and files. Prints one JSON line. What is counted must be exact, or it fails.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Semaphore
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from ledger_to_windows import watched
from memory import peak_mb
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts
from mlops_ray.monitoring.drift_watch import DriftWatch
from mlops_ray.predictions.ids import uuid7_at
from mlops_ray.predictions.labels import BY_REQUEST, write_by_request
from mlops_ray.predictions.segments import FEATURE, named_for, write_segment
from mlops_ray.use_case.window_spec import WindowSpec

START = datetime(2026, 3, 2, tzinfo=UTC)
REPLICAS, TICK_S, FEATURES = 40, 20, 100
COLUMNS = [f"x{at}" for at in range(FEATURES)]
WHOLE_TICKS = 2
# The writer is so many ticks ahead at most, and is waited for so long.
_AHEAD, _PATIENCE_S = 2, 120
SPECS = (WindowSpec(rows=1_000_000), WindowSpec(length=timedelta(minutes=10)))
NAME = "endpoint"
_HEX = np.array([f"{number:04x}" for number in range(1 << 16)], "S4").view("u1").reshape(-1, 4)


def uuids(ms: NDArray[np.int64], random: np.random.Generator) -> pl.Series:
    """UUIDv7s of these moments."""
    count = len(ms)
    out = np.full((count, 36), ord("-"), dtype=np.uint8)
    tails = random.integers(0, 1 << 16, (5, count))
    words = [ms >> 32, ms >> 16, ms, 0x7000 | tails[0] & 0xFFF, 0x8000 | tails[1] & 0x3FFF, *tails[2:]]
    for at, word in zip((0, 4, 9, 14, 19, 24, 28, 32), words, strict=True):
        out[:, at : at + 4] = _HEX[word & 0xFFFF]
    offsets = np.arange(0, 36 * (count + 1), 36, dtype=np.int32)
    made = pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(out))
    return pl.Series("request_id", pl.from_arrow(made))


class Replicas:
    """What an endpoint's replicas write. rows: of each, in one segment."""

    def __init__(
        self, artifacts: Artifacts, columns: list[str], per_s: int, use_case: str = NAME, replicas: int = REPLICAS
    ):
        self.artifacts, self._use_case, self._replicas = artifacts, use_case, replicas
        self._random = np.random.default_rng(1)
        self.rows = per_s * TICK_S // replicas
        values = self._random.standard_normal((self.rows, len(columns)), dtype=np.float32)
        self._features = [pl.Series(f"{FEATURE}{name}", values[:, at].copy()) for at, name in enumerate(columns)]
        self._before: pl.DataFrame | None = None
        self.repeated = 0

    def write(self, tick: int, features: int) -> None:
        rows, again_rows = self.rows, self.rows // 100
        begin_us = int(START.timestamp() * 1e6) + tick * TICK_S * 1_000_000
        for replica in range(self._replicas):
            micros = begin_us + replica + np.arange(rows) * (TICK_S * 1_000_000 // rows)
            moments = pl.Series(micros.view("datetime64[us]")).dt.replace_time_zone("UTC")
            frame = pl.DataFrame([uuids(micros // 1000, self._random)]).with_columns(
                row=pl.lit(0, pl.Int32), time=moments, as_of=moments, version=pl.lit("7"), route=pl.lit("champion"),
                question=pl.lit(1, pl.Int64), probability=pl.Series(self._random.random(rows, dtype=np.float32)),
            )  # fmt: skip
            if self._before is not None:
                again = self._before.with_columns(frame["time"].head(again_rows), frame["as_of"].head(again_rows))
                frame = pl.concat([again, frame[again_rows:]])
                self.repeated += again_rows
            self._before = frame.tail(again_rows)
            frame = frame.with_columns(self._features[:features])
            id = uuid7_at(int(micros[0]) // 1000, self._random.bytes(10))
            write_segment(self.artifacts, self._use_case, named_for(id, frame), frame)
        known = pl.col("time") + timedelta(minutes=1)
        said = frame.tail(1000).select(
            "request_id", "row", label=pl.col("probability") > 0.7, known_at=known, received_at=known
        )
        write_by_request(self.artifacts, self._use_case, uuid7_at(begin_us // 1000), said.cast(pl.Schema(BY_REQUEST)))


def write_ahead(folder: str, per_s: int, ticks: int, room: Semaphore, written: Queue) -> None:
    """Write each tick's files in a folder of its own, as far ahead as there is room; says how many rows and repetitions
    there are so far."""
    replicas = Replicas(Artifacts(folder), COLUMNS, per_s)
    for tick in range(ticks):
        room.acquire()
        replicas.artifacts = Artifacts(f"{folder}/ahead/{tick}")
        replicas.write(tick, FEATURES if _is_whole(tick, ticks) else 2)
        written.put(((tick + 1) * REPLICAS * replicas.rows, replicas.repeated))


@contextmanager
def files_by_tick(folder: str, per_s: int, ticks: int) -> Iterator[Iterator[tuple[int, int]]]:
    """The ticks, each with its files in place, as `write_ahead` says them."""
    context = get_context("spawn")
    room, written = context.Semaphore(_AHEAD), context.Queue()
    process = context.Process(target=write_ahead, args=(folder, per_s, ticks, room, written), daemon=True)
    process.start()

    def in_place() -> Iterator[tuple[int, int]]:
        for tick in range(ticks):
            said = written.get(timeout=_PATIENCE_S)
            room.release()
            root = Path(folder) / "ahead" / str(tick)
            for path in [path for path in root.rglob("*") if path.is_file()]:
                place = Path(folder) / path.relative_to(root)
                place.parent.mkdir(parents=True, exist_ok=True)
                path.rename(place)
            yield said

    try:
        yield in_place()
    finally:
        process.terminate()
        process.join()


def _is_whole(tick: int, ticks: int) -> bool:
    return tick < WHOLE_TICKS or tick >= ticks - WHOLE_TICKS


def main(folder: str, minutes: int, per_s: int) -> None:
    artifacts, judged = Artifacts(folder), watched(COLUMNS)
    kinds = zip(SPECS, judged.reference.windows.values(), strict=True)
    windows = {spec.name: replace(one, spec=spec) for spec, one in kinds}
    judged = replace(judged, reference=replace(judged.reference, windows=windows))
    watch = DriftWatch(artifacts, NAME, lambda version: judged, lambda _: None)
    ticks = minutes * 60 // TICK_S
    cpu, lags, behind = list[float](), list[float](), 0.0
    with files_by_tick(folder, per_s, ticks) as files:
        for tick, said in enumerate(files):
            answered, repeated = said
            now = START + timedelta(seconds=(tick + 1) * TICK_S)
            wall, used = time.perf_counter(), time.process_time()
            while watch.round(now).behind:
                continue
            cpu.append(time.process_time() - used)
            lags.append(behind + time.perf_counter() - wall)
            behind = max(0.0, lags[-1] - TICK_S)
            print(f"{(tick + 1) * TICK_S} s: {cpu[-1]:.1f} s of a core", file=sys.stderr, flush=True)
    assert (watch.state.rows["7"], watch.state.repeated) == (answered - repeated, repeated)
    state_kb = artifacts.entries("monitoring", NAME, "state")[-1].size / 1000
    between, quarter = cpu[WHOLE_TICKS:-WHOLE_TICKS], max(1, ticks // 4)
    print(json.dumps({
        "predictions": answered, "lag_s": max(lags), "core_whole_first": max(cpu[:WHOLE_TICKS]) / TICK_S,
        "core_whole_last": max(cpu[-WHOLE_TICKS:]) / TICK_S,
        "core_two_features_first": float(np.mean(between[:quarter])) / TICK_S,
        "core_two_features_last": float(np.mean(between[-quarter:])) / TICK_S,
        "peak_mb": peak_mb(), "state_kb": state_kb,
    }))  # fmt: skip


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    minutes, per_s = (int(given) for given in [*sys.argv[2:], *("60", "50000")[len(sys.argv) - 2 :]])
    main(sys.argv[1], minutes, per_s)
