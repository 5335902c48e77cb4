"""Ingest beside the same contract as a script in polars, in pandera and in dataframely: time, memory, and what a month
more costs.

Rows are all flights of 2013, a year later with every repetition, as Parquet; a few of them break each rule. Every side
runs as a process of its own on two cores, and what became of the rows must be the same on ours and in polars.
`INGESTION_ROWS=1000000 python benchmarks/run.py ingestion` takes so many rows for the large sizes.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

HERE = Path(__file__).parent / "contracts"
sys.path.insert(0, str(HERE))
from flights_files import YEAR_ROWS, write_files  # noqa: E402

RIVALS = Path(__file__).parents[1] / ".venv-contracts"
CORES, RIVALS_ROWS = 2, 1_000_000
LARGE_ROWS = int(os.environ.get("INGESTION_ROWS", "50000000"))
SAMPLED_EVERY_S, REPEATS = 0.2, 3
SETTLED_S = 2.5  # a file that changed less long ago may change again unseen, and is hashed each time
MONTHS = 9  # a fifth of a second each, of which chance is a part
Figures = Iterator[tuple[str, float, str]]


def figures() -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        yield from small(Path(folder))
        yield from beside_rivals(Path(folder))
        yield from large(Path(folder))
        yield from month_by_month(Path(folder))


def small(folder: Path) -> Figures:
    write_files(folder / "small", YEAR_ROWS)
    _run(folder, "small", "our_side.py")  # keeps compiled files, as whoever has run a command before has
    both = [(_run(folder, "small", "our_side.py"), _run(folder, "small", "polars_side.py")) for _ in range(REPEATS)]
    for ours, script in both:
        _expect_same(ours, script)
    extra = median(ours.process_s - script.process_s for ours, script in both)
    yield "extra_s_337k", extra, f"s, whole processes, from their start to their end, median of {REPEATS}"
    yield "seconds_337k", median(ours.seconds for ours, _ in both), "s, once imported"
    yield "seconds_337k_polars", median(script.seconds for _, script in both), "s, once imported"


def beside_rivals(folder: Path) -> Figures:
    """The files on our side, the same rows in memory on theirs, without what they would take to write their output."""
    python = RIVALS / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", RIVALS], check=True)
    packages = ["pandera[polars]==0.35.0", "dataframely==3.1.2", "pyarrow"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, stderr=subprocess.DEVNULL)
    write_files(folder / "rivals", RIVALS_ROWS)
    ours = _run(folder, "rivals", "our_side.py", str(CORES))
    for name in ("pandera", "dataframely"):
        theirs = _run(folder, "rivals", f"{name}_side.py", python=python)
        yield f"seconds_{name}_1m", theirs.seconds, f"s for {RIVALS_ROWS:,} rows"
        yield f"time_vs_{name}", ours.seconds / theirs.seconds, "x"


def large(folder: Path) -> Figures:
    """One, two and ten tenths of the largest size."""
    found = {}
    for tenths in (1, 2, 10):
        rows = LARGE_ROWS * tenths // 10
        write_files(folder / "large", rows)  # the years that are there are written again, the same
        found[tenths] = ours = _run(folder, "large", "our_side.py", str(CORES))
        if tenths == 2:
            script = _run(folder, "large", "polars_side.py")
            _expect_same(ours, script)
            yield "seconds_10m", ours.seconds, f"s for {rows:,} rows on {CORES} cores of a Ray that runs already"
            yield "seconds_10m_polars", script.seconds, f"s for {rows:,} rows"
            yield "time_vs_polars_10m", ours.seconds / script.seconds, "x"
            yield "peak_mb_10m", ours.peak_mb, "MB, of the process that took most"
            yield "peak_mb_10m_polars", script.peak_mb, "MB"
    yield "seconds_50m", found[10].seconds, f"s for {LARGE_ROWS:,} rows"
    yield "peak_mb_50m", found[10].peak_mb, "MB, of the process that took most"
    yield "cost_ratio_10x", found[10].seconds / found[1].seconds / 10, "x, of the time for each row"


def month_by_month(folder: Path) -> Figures:
    """A run after eleven others, beside one of the month's file alone: in processes that have read nothing before."""
    import polars as pl

    year = pl.read_parquet(folder / "small" / "*.parquet")
    for (month,), rows in year.group_by("month", maintain_order=True):
        name = f"flights_{int(str(month)):02}.parquet"
        for place in ("months", *(("alone",) if month == 12 else ())):
            (folder / place).mkdir(exist_ok=True)
            rows.write_parquet(folder / place / name)
    (folder / "months" / "flights_12.parquet").rename(folder / "later.parquet")
    time.sleep(SETTLED_S)
    _run(folder, "months", "our_side.py")
    (folder / "output-months").rename(folder / "eleven")
    (folder / "later.parquet").rename(folder / "months" / "flights_12.parquet")
    both = []
    for _ in range(MONTHS):
        shutil.rmtree(folder / "output-months", ignore_errors=True)
        shutil.copytree(folder / "eleven", folder / "output-months", copy_function=os.link)
        twelfth = _run(folder, "months", "our_side.py", keep=True).seconds
        both.append((twelfth, _run(folder, "alone", "our_side.py").seconds))
    yield "seconds_one_month", median(alone for _, alone in both), f"s, of a month's file alone, median of {MONTHS}"
    yield "twelfth_month_vs_alone", median(twelfth / alone for twelfth, alone in both), f"x, median of {MONTHS}"


@dataclass(frozen=True)
class _Side:
    """seconds: as the side tells, once it has imported what it needs. process_s: from its start to its end."""

    seconds: float
    process_s: float
    peak_mb: float
    found: dict[str, Any]


def _run(
    folder: Path, files: str, side: str, *more: str, python: Path = Path(sys.executable), keep: bool = False
) -> _Side:
    output = folder / f"output-{files}"
    if not keep:
        shutil.rmtree(output, ignore_errors=True)
    environment = {**os.environ, "POLARS_MAX_THREADS": str(CORES), "OMP_NUM_THREADS": str(CORES)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else each process compiles all of this package
    started = time.monotonic()
    command = [str(part) for part in (python, HERE / side, folder / files, output, *more)]
    process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    process.cpu_affinity(list(range(CORES)))
    peaks: list[float] = []
    watching = threading.Thread(target=_watch, args=(process, peaks))
    watching.start()
    printed, _ = process.communicate()
    took = time.monotonic() - started
    watching.join()
    if process.returncode:
        raise SystemExit(f"{side} ended with {process.returncode}.")
    found = json.loads(printed.splitlines()[-1])
    return _Side(found.pop("seconds"), took, max(peaks), found)


def _watch(process: psutil.Process, peaks: list[float]) -> None:
    """Note the most memory that the process or one that it started has had so far, until it ends."""
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        for one in (process, *process.children(recursive=True)):
            try:
                status = Path(f"/proc/{one.pid}/status").read_text()
            except OSError:
                continue
            peaks += [int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")]
        time.sleep(SAMPLED_EVERY_S)


def _expect_same(ours: _Side, script: _Side) -> None:
    if ours.found != script.found:
        raise SystemExit(f"The sides differ: {ours.found} and {script.found}.")
