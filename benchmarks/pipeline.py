"""The whole flights pipeline with serving and one prediction: from nothing, and again with nothing changed; and an hour
of new data into the online store."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl

ROOT = Path(__file__).parents[1]
AS_OF = "2014-01-01T05:00:00Z"
COPIED_HOUR, NEW_HOUR = "2013-12-30T17:00:00Z", "2014-01-01T06:00:00Z"


def figures() -> Iterator[tuple[str, float, str]]:
    with tempfile.TemporaryDirectory() as folder:
        state, data = Path(folder) / "state", Path(folder) / "data"
        subprocess.run([sys.executable, ROOT / "use_cases" / "flights_raw_data.py", data], check=True)
        run = ("run", "flights", "--serve", "--port", "18400", "--as-of", AS_OF)
        yield "seconds_cold", _seconds(state, data, *run), "s"
        yield "seconds_cached", _seconds(state, data, *run), "s"
        _add_an_hour(data)
        yield "refresh_s", _seconds(state, data, "features", "refresh", "flights"), "s"


def _add_an_hour(data: Path) -> None:
    """Flights and weather of an hour more: those of an hour before, with another time."""
    for name in ("flights", "weather"):
        rows = pl.read_csv(data / f"{name}_2013-12.csv", infer_schema=False)
        hour = rows.filter(pl.col("time_hour") == COPIED_HOUR).with_columns(time_hour=pl.lit(NEW_HOUR))
        hour.write_csv(data / f"{name}_2014-01.csv")


def _seconds(state: Path, data: Path, *arguments: str) -> float:
    command = [Path(sys.executable).with_name("mlops-ray"), *arguments, "--state", state, "--data", data]
    started = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    return time.monotonic() - started
