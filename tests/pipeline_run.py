"""Running the `mlops-ray` command in tests, as a user does: a process of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import psutil

ROOT = Path(__file__).parents[1]
SMALL = ROOT / "tests" / "small_flights.py"
SMALL_AS_OF = "2013-02-12T05:00:00Z"


def command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("mlops-ray")), *arguments]


def pipeline_command(use_case: Path, folder: Path, as_of: str, *more: str) -> list[str]:
    options = ["--state", f"{folder}/state", "--data", f"{folder}/data", "--as-of", as_of]
    return command("run", str(use_case), *options, "--feature-repo", str(ROOT / "feature_repo"), *more)


def run(arguments: list[str], timeout_s: int = 280, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, env=os.environ | environment
    )


def write_small_data(folder: Path) -> None:
    """Flights and weather of January and February to the 11th, and all planes."""
    sys.path.insert(0, str(ROOT / "use_cases"))
    from flights_raw_data import write_raw_data

    write_raw_data(folder)
    for name in ("flights", "weather"):
        for month in range(3, 13):
            (folder / f"{name}_2013-{month:02}.csv").unlink()
        february = folder / f"{name}_2013-02.csv"
        rows = pl.read_csv(february, infer_schema=False)
        rows.filter(pl.col("day").cast(int) <= 11).write_csv(february)


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "state" / "summary.json").read_text()))


def processes_with(variable: str, value: str) -> list[str]:
    """Command lines of the processes that descend from one with this variable in its environment; no zombies."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get(variable) == value and (line := process.cmdline()):
                found.append(" ".join(line)[:120])
    return found


def kill_group(process: subprocess.Popen[str]) -> None:
    """SIGKILL the process and everything it started: nothing gets the chance to clean up."""
    started = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for child in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(started, timeout=20)
