"""Join the rows of a folder with its three views in slices, on so many cores: `join_side.py FOLDER OUTPUT CORES`."""

import json
import sys
import time
from functools import partial
from pathlib import Path

import polars as pl
import ray
from world import FEATURES, VIEWS

from mlops_ray.artifacts import Artifacts
from mlops_ray.features.history_source import HistorySource
from mlops_ray.features.slices import Carried, Slice, in_slices, join_slice, results, slices_of
from mlops_ray.features.spans import read_between, spans

MOMENT = "event_timestamp"


def source(folder: str, view: str) -> HistorySource:
    names = (view, *(f"{view}_{n}" for n in range(FEATURES)))
    columns = {name: name for name in names}
    return HistorySource(view, (f"{folder}/{view}",), MOMENT, columns, {view: view}, names[1:], VIEWS[view])


def work(folder: str, output: str, one: Slice, sources: list[HistorySource], carried: Carried) -> tuple[int, float]:
    rows = read_between([f"{folder}/rows"], MOMENT, one.start, one.before, None)
    joined = join_slice(rows, MOMENT, sources, carried)
    Artifacts(output).write_table(joined, f"{one.number:05}.parquet")
    total = joined.select(pl.sum_horizontal(pl.col(pl.Float64).sum())).item()
    return joined.height, float(total)


def main(folder: str, output: str, cores: str) -> None:
    ray.init(
        address="local", num_cpus=int(cores), object_store_memory=1 << 30, include_dashboard=False, log_to_driver=False
    )
    sources = [source(folder, view) for view in VIEWS]
    started = time.monotonic()
    cut = slices_of(spans([f"{folder}/rows"], MOMENT), sources)
    done = results(in_slices(cut, sources, partial(work, folder, str(Path(output).absolute()))))
    seconds = time.monotonic() - started
    print(json.dumps({"seconds": seconds, "rows": sum(rows for rows, _ in done), "slices": len(cut)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
