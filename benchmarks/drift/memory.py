"""Peak memory of a process that adds predictions to sliding windows by count and tumbling ones by time.

    python benchmarks/drift/memory.py ROWS

Prints the peak in MB when a hundredth of the rows is added and when all are.
"""

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from mlops_ray.monitoring.sketches import CategoricalSketch, NumericSketch, Sketch
from mlops_ray.monitoring.windows import WindowState, add
from mlops_ray.use_case.window_spec import WindowSpec

BATCH = 100_000


def peak_mb() -> float:
    """Of this process alone: getrusage's peak begins with that of the process that started it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def main(rows: int) -> None:
    random = np.random.default_rng(0)
    batches = [
        pl.DataFrame({"x": random.standard_normal(BATCH, dtype=np.float32), "c": random.choice(["a", "b", "c"], BATCH)})
        for _ in range(3)
    ]
    empty: dict[str, Sketch] = {
        "x": NumericSketch.of(batches[0]["x"]).empty(),
        "c": CategoricalSketch.with_categories("ab"),
    }
    specs = (WindowSpec(rows=50_000, panes=5), WindowSpec(length=timedelta(minutes=10)))
    states = [WindowState(spec, empty, sample_rows=200) for spec in specs]
    finished = 0
    for number in range(rows // BATCH):
        first = number * BATCH * 1000  # a thousand predictions a second
        moment = np.datetime64("2020-01-01", "us") + (first + np.arange(BATCH) * 1000).astype("timedelta64[us]")
        read = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(microseconds=first + BATCH * 1000)
        for index, state in enumerate(states):
            added = add(WindowState.from_bytes(state.to_bytes()), batches[number % 3], moment, read)
            states[index] = added.state
            finished += len(added.finished)
        if number + 1 in (rows // BATCH // 100, rows // BATCH):
            print(peak_mb(), finished, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
