"""A search and a transform on simulated hosts, in which what would take CPUs sleeps: python work.py FOLDER HOSTS.

Each host is a Ray node of one CPU. Prints one JSON object: of both, how long it took and how long was slept in it.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import ray
from ray.cluster_utils import Cluster

from mlops_ray.features import spread, stretches, transform
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.use_case import DividedView, Tables
from tests.integration.search_setting import Steady, make_settings, make_training_set, make_use_case, search
from tests.unit.test_divided_views import CASE, DAY, busy, definitions, write_days

# Some minutes of each: simulated hosts share the processors on which their processes start, which real ones do not.
STEP_S, TRIALS = 8.0, 15  # of each host; a trial has three steps, if the search lets it
ROW_S, DAYS, FEW_DAYS, PART_ROWS = 0.09, 30, 5, 150


@contextmanager
def hosts(number: int) -> Iterator[None]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 << 20})
    try:
        for _ in range(number):
            cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
        path = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
        ray.init(address=cluster.address, log_to_driver=False, runtime_env=path)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def searched(folder: Path, number: int, trials: int, step_s: float) -> dict[str, float]:
    folder.mkdir()
    settings, case = make_settings(folder), make_use_case((Steady(seconds_per_step=step_s),), trials=trials * number)
    rows, began_s = make_training_set(settings), time.monotonic()
    result = search(case, settings, rows, "hosts")
    steps = sum(len(trial.steps) for trial in result.trials)
    return {"took_s": time.monotonic() - began_s, "slept_s": steps * step_s}


def slow(tables: Tables) -> pl.DataFrame:
    """The rows of `busy`, with time for each row that is read once the file RATE says how much; appended to SLEPT."""
    folder = Path(os.environ["HOSTS_FOLDER"])
    if (folder / "RATE").exists():
        slept_s = float((folder / "RATE").read_text()) * len(tables["loads"])
        time.sleep(slept_s)
        with (folder / "SLEPT").open("a") as file:
            file.write(f"{slept_s}\n")
    return busy(tables)


def transformed(folder: Path, number: int) -> dict[str, float]:
    """Of what is new. Before, a few days: on these it is proven once that the function may be divided."""
    settings = make_settings(folder)
    case = replace(CASE, feature_views={"busy": DividedView(slow, looks_back=2 * DAY)})
    stretches.PART_ROWS = PART_ROWS
    # All is a task, however little it reads.
    spread.HERE_BYTES = transform.HERE_BYTES = transform.AT_ONCE_BYTES = -1
    began_s = 0.0
    for first, end in ((0, FEW_DAYS), (FEW_DAYS, FEW_DAYS + DAYS * number)):
        write_days(Path(settings.data), first, end)
        snapshot = ingest(case, settings, None, "benchmark", dict.fromkeys(case.sources, "benchmark"))
        began_s = time.monotonic()
        transform.transform(case, settings, snapshot, definitions(case))
        (folder / "RATE").write_text(str(ROW_S))
    took_s = time.monotonic() - began_s
    return {"took_s": took_s, "slept_s": sum(map(float, (folder / "SLEPT").read_text().split()))}


def main(folder: Path, number: int) -> dict[str, Any]:
    os.environ["HOSTS_FOLDER"] = str(folder)
    with hosts(number):
        searched(folder / "warm", number, 1, 0.1)  # until each host has workers that have imported all
        found = {"search": searched(folder / "search", number, TRIALS, STEP_S)}
        return {**found, "transform": transformed(folder, number)}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
