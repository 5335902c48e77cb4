"""The whole path from raw rows to a training set at a size: `ROWS=30000000 make bench ONLY=features_at_scale`, nightly.

ROWS: how many flights, 1 million where nothing is said. `make bench ONLY=features_at_scale:hundred_million` takes 100
million, which needs 35 GB of disk below TMPDIR and an hour, and so is run where it is named alone. Each copy of the
year has flights of its own. The memory of a process is its resident set without what it maps of Ray's object store,
looked at every half second.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import polars as pl

ROOT = Path(__file__).parents[1]
ROWS = int(os.environ.get("ROWS", "1000000"))
YEAR_ROWS = 336_776
SIGNS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def figures(flights: int, suffix: str = "") -> Iterator[tuple[str, float, str]]:
    with tempfile.TemporaryDirectory() as folder:
        state, data = Path(folder) / "state", Path(folder) / "data"
        subprocess.run([sys.executable, ROOT / "use_cases" / "flights_raw_data.py", data], check=True)
        rows = _multiply(data, -(-flights // YEAR_ROWS))
        command = [Path(sys.executable).with_name("mlops-ray"), "run", "flights", "--until", "training_set"]
        started = time.monotonic()
        process = subprocess.Popen([*command, "--state", state, "--data", data], cwd=ROOT, stdout=sys.stderr)
        peak = 0
        while process.poll() is None:
            peak = max([peak, *_own_bytes(process.pid)])
            time.sleep(0.5)
        if process.returncode:
            raise SystemExit(f"mlops-ray run ended with {process.returncode}.")
        yield f"rows{suffix}", rows, "flights"
        yield f"seconds_per_million{suffix}", (time.monotonic() - started) / rows * 1e6, "s"
        yield f"peak_mb_of_a_process{suffix}", peak / 1e6, "MB"


def _multiply(data: Path, copies: int) -> int:
    """Copy the months, each copy with flights of its own; how many there are then.

    Codes of carriers are enough for 81 copies; each 81 more have other numbers of flights too, as a code has two signs.
    """
    files, key = sorted(data.glob("flights_*.csv")), ["carrier", "flight"]
    flown = pl.concat(pl.read_csv(file, columns=key, infer_schema=False) for file in files).unique()
    carrier, flight = pl.col("carrier").rank("dense") - 1, pl.col("flight").rank("dense").over("carrier")
    flown = flown.with_columns(carrier_number=carrier, flight_number=flight)
    carriers, flights = flown["carrier"].n_unique(), flown["flight_number"].max()
    of_codes, total = len(SIGNS) ** 2 // carriers, 0
    for file in files:
        month = pl.read_csv(file, infer_schema=False).join(flown, on=key, how="left", maintain_order="left")
        for copy in range(copies):
            names = {number: _code(copy % of_codes * carriers + number) for number in range(carriers)}
            rows = month.with_columns(
                pl.col("carrier_number").replace_strict(names, return_dtype=pl.String).alias("carrier"),
                pl.col("flight_number") + copy // of_codes * flights,
            ).with_columns(pl.col("flight_number").alias("flight"))
            rows = rows.drop("carrier_number", "flight_number")
            rows.write_csv(data / (file.name if copy == 0 else f"{file.stem}_{copy:03}.csv"))
            total += rows.height
    return total


def _code(number: int) -> str:
    return SIGNS[number // 36] + SIGNS[number % 36]


def _own_bytes(of: int) -> Iterator[int]:
    """Of a process and those that came from it, without what they share: the object store is mapped by all."""
    parents = {int(path.name): _status(path, "PPid") for path in Path("/proc").glob("[0-9]*")}
    mine, more = {of}, {of}
    while more:
        more = {child for child, parent in parents.items() if parent in more} - mine
        mine |= more
    for process in mine:
        yield _status(Path("/proc", str(process)), "RssAnon") * 1024


def _status(process: Path, field: str) -> int:
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


PARTS = {"path": partial(figures, ROWS), "hundred_million": partial(figures, 100_000_000, "_100m")}
NIGHTLY = ("hundred_million",)
