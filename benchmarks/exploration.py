"""Profiles: how fast, how exact, and beside ydata-profiling on the same rows.

The rows are all flights of 2013, typed, as Parquet; repeated ten times for the speed on two cores.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import ray

from mlops_ray.exploration.explore import explore_files, profile_table

HERE = Path(__file__).parent
DATA = HERE.parent / "data" / "flights"
YDATA = HERE.parent / ".venv-ydata"
COPIES, CORES, SIDE_BY_SIDE_ROWS = 10, 2, 100_000
Figures = Iterator[tuple[str, float, str]]


def figures() -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        year = pl.concat(
            pl.read_csv(file, null_values="NA", infer_schema_length=None) for file in sorted(DATA.glob("flights_*.csv"))
        )
        year = year.with_columns(pl.col("time_hour").str.to_datetime("%+"))
        yield from speed(year, Path(folder))
        yield from exactness(year, Path(folder))
        yield from side_by_side(year.head(SIDE_BY_SIDE_ROWS), Path(folder))
        started = time.perf_counter()
        profile = explore_files(str(DATA), "flights_2013-01.csv").profile
        yield "csv_values_per_s", profile.cells / (time.perf_counter() - started), "values/s of one core, raw texts"


def speed(year: pl.DataFrame, folder: Path) -> Figures:
    """Values a second of ten years, read and sketched by tasks on two cores of a Ray that runs already."""
    table = folder / "table"
    table.mkdir()
    for copy in range(COPIES):
        year.write_parquet(table / f"part-{copy}.parquet", row_group_size=65_536)
    ray.init(address="local", num_cpus=CORES, include_dashboard=False, log_to_driver=False)
    try:
        profile_table("warm", str(table))  # starts the workers
        profile = profile_table("ten years", str(table))
    finally:
        ray.shutdown()
    yield "values_per_s", profile.cells / profile.seconds, f"values/s on {CORES} cores"


def exactness(year: pl.DataFrame, folder: Path) -> Figures:
    """The largest error in rank of the 101 percentiles of each numeric column that has many values, over the bound."""
    year.write_parquet(folder / "year.parquet")
    errors = []
    for column in profile_table("year", str(folder / "year.parquet")).columns:
        if column.percentiles and column.different > 200:
            values = np.sort(year[column.name].drop_nulls().to_numpy())
            low, high = (np.searchsorted(values, column.percentiles, side) / len(values) for side in ("left", "right"))
            ranks = np.arange(101) / 100
            apart = np.maximum(0, np.maximum(low - ranks, ranks - high))
            errors.append(apart.max() / column.rank_error)
    yield "quantile_error", max(errors), "of the bound of the sketch (99 % of the ranks are below 1)"


def side_by_side(rows: pl.DataFrame, folder: Path) -> Figures:
    """ydata-profiling with its defaults, which also correlate columns; and in its minimal mode, which says less."""
    python, file = YDATA / "bin" / "python", folder / "rows.parquet"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", YDATA], check=True)
    packages = ["ydata-profiling==4.18.0", "setuptools<81", "pyarrow"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, stderr=subprocess.DEVNULL)
    rows.write_parquet(file)
    started = time.perf_counter()
    profile_table("rows", str(file))
    ours = time.perf_counter() - started
    for mode, ending in (("default", ""), ("minimal", "_minimal")):
        command = [python, "-W", "ignore", HERE / "profiles" / "ydata_side.py", file, mode]
        printed = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ).stdout
        theirs = float(printed.splitlines()[-1])
        yield f"seconds_ydata{ending}", theirs, f"s for {rows.height:,} rows of {rows.width} columns"
        yield f"speedup_vs_ydata{ending}", theirs / ours, "x"
