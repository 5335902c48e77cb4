"""What the driver and the head take of memory while data go through two simulated hosts: python memory.py FOLDER FILES.

Prints one JSON object of MiB: by how much the driver grew at most from when it had begun, and the head's processes
(tables of the cluster, raylet) at their largest.
"""

import json
import resource
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import psutil
from work import hosts

from mlops_ray.config import load_settings
from mlops_ray.features import transform
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.use_case import DividedView
from tests.unit.test_divided_views import CASE, DAY, busy, definitions

ROWS, HEAD = 20_000, ("gcs_server", "raylet/raylet")
START = datetime(2025, 1, 1, tzinfo=UTC)


def write(folder: Path, files: int) -> None:
    folder.mkdir(parents=True)
    (folder / "ports.csv").write_text("port,berths\nA,3\nB,7\n")
    for number in range(files):
        chance = np.random.default_rng(number)
        sailed = pl.Series(np.sort(chance.integers(0, 86_400, ROWS))).cast(pl.Duration("ms")) * 1000
        sailed = sailed + (START + number * DAY)
        docked = sailed + pl.Series(chance.integers(3_600, 90_000, ROWS)).cast(pl.Duration("ms")) * 1000
        moments = {"sailed": sailed, "docked": docked}
        frame = pl.DataFrame(
            {
                "ship": [f"S{one}" for one in chance.integers(0, 500, ROWS)],
                "port": chance.choice(["A", "B"], ROWS),
                **{name: moment.dt.to_string("%Y-%m-%dT%H:%M:%SZ") for name, moment in moments.items()},
                "load": chance.uniform(-5, 5, ROWS).round(3),
                "late": chance.random(ROWS) > 0.5,
            }
        )
        frame.write_csv(folder / f"loads_{number:04}.csv")


def main(folder: Path, files: int) -> dict[str, float]:
    write(folder / "data", files)
    settings = load_settings(state=str(folder / "state"), data=str(folder / "data"))
    largest, ending = {"head": 0.0}, threading.Event()

    def follow() -> None:
        while not ending.wait(0.2):
            children = psutil.Process().children(recursive=True)
            ours = [one for one in children if any(name in " ".join(one.cmdline()) for name in HEAD)][:2]
            largest["head"] = max(largest["head"], sum(one.memory_info().rss for one in ours) / 2**20)

    with hosts(2):
        case = replace(CASE, feature_views={"busy": DividedView(busy, looks_back=2 * DAY)})
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        thread = threading.Thread(target=follow)
        thread.start()
        as_of = START + (files + 3) * DAY + timedelta(hours=1)
        snapshot = ingest(case, settings, as_of, "benchmark", dict.fromkeys(case.sources, "benchmark"))
        rows = transform.transform(case, settings, snapshot, definitions(case))
        ending.set()
        thread.join()
        after_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"driver": (after_kib - before_kib) / 2**10, "rows": rows[0].rows, **largest}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
