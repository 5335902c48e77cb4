"""Evidently and NannyML at their defaults, by their own rules, in the worlds of `promise`, with its faults.

They judge a week of rows at a time against four weeks of the past, as their guides show it. What counts as an alarm is
theirs: Evidently's preset says that a data set drifted if half of its columns did; NannyML marks each chunk of each
column that left its limits (univariate drift), each chunk whose rows are reconstructed worse than before
(multivariate), and each chunk whose ROC AUC left its limits (performance, with all labels).
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import polars as pl
from drift.outcomes import Outcomes, processes
from drift.promise import AUTOCORRELATED, FAULTS, WORLDS
from drift.worlds import CALM, STEP_HOURS, Fault, World, draw, later_rows, past_rows

ROOT = Path(__file__).parents[2]
# NannyML imports statsmodels without requiring it.
PACKAGES = {
    "evidently": ["evidently==0.7.23", "pandas<3", "pyarrow"],
    "nannyml": ["nannyml==0.13.1", "pyarrow", "statsmodels"],
}
_CODE = ("worlds", "rivals", "evidently_weeks", "nannyml_weeks")
Figures = Iterator[tuple[str, float, str]]
Weeks = list[list[str]]
"""What a rule marks in each week: columns, or "all"."""
# The others differ in what rivals do not know (replicas, labels that are missing), or have too many rows or columns.
_ASKED = (
    "iid",
    "autocorrelated_days",
    "daily_cycle",
    "weekly_cycle",
    "trend_in_the_reference",
    "new_identifiers",
    "shrinking_traffic",
)
_MODELS, _WEEKS, _PAST_DAYS = 2, 8, 28
_FAULT_MODELS, _FAULT_WEEKS = 3, 6
_MONTH_WEEKS, _WEEK_HOURS = 30 / 7, 168


def false_alarms() -> Figures:
    """About six minutes of two cores, and four more for the packages the first time."""
    with _asked() as known:
        for world in (one for one in WORLDS if one.name in _ASKED):
            found: dict[str, list[bool]] = {}
            for one in known.of(verdicts, [(world, seed, _WEEKS) for seed in range(_MODELS)]):
                for rule, weeks in one.items():
                    found.setdefault(rule, []).extend(bool(week) for week in weeks)
            for rule, marked in found.items():
                rate = sum(marked) / len(marked) * _MONTH_WEEKS
                yield f"false_alarms_per_month_{world.name}_{rule}", rate, f"of {len(marked)} weeks"


def found_faults() -> Figures:
    """About five minutes of two cores."""
    with _asked() as known:
        for fault in FAULTS:
            yield from _delays(known, fault)


@contextmanager
def _asked() -> Iterator[Outcomes]:
    for rival in PACKAGES:
        environment(rival)
    with processes() as some:
        yield Outcomes(some, _CODE)


def _delays(known: Outcomes, fault: Fault) -> Figures:
    """From the fault to the end of the first week in which a rule marks what is wrong; six weeks if none does."""
    waited: dict[str, list[int]] = {}
    seeds = range(100, 100 + _FAULT_MODELS)
    for one in known.of(verdicts, [(AUTOCORRELATED, seed, _FAULT_WEEKS, fault) for seed in seeds]):
        for rule, weeks in one.items():
            about = {"all", "c" if fault.swapped else "x1"} if not fault.flipped else {"all"}
            first = next((at for at, marked in enumerate(weeks) if about & set(marked)), None)
            waited.setdefault(rule, []).append(_FAULT_WEEKS if first is None else first + 1)
    for rule, found in waited.items():
        seen = sum(one < _FAULT_WEEKS for one in found)
        hours = float(sorted(found)[len(found) // 2] * _WEEK_HOURS)
        yield f"delay_h_{fault.name}_{rule}", hours, f"hours, median; {seen} of {len(found)} found before the last week"


def verdicts(world: World, seed: int, weeks: int, fault: Fault = CALM) -> dict[str, Weeks]:
    """What each rule marks in each week; the fault is there from the first on."""
    drawn = draw(replace(world, days=_PAST_DAYS), -(-weeks // 4), seed)
    past, later = past_rows(drawn), later_rows(drawn, 0, weeks * _WEEK_HOURS // STEP_HOURS, fault)
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in (("past", past), ("later", later)):
            rows.drop("read_at", "known_at", "id", strict=False).with_columns(
                pl.col("time").dt.replace_time_zone(None)
            ).write_parquet(Path(folder) / f"{name}.parquet")
        return {rule: found for rival in PACKAGES for rule, found in _run(rival, folder).items()}


def _run(rival: str, folder: str) -> dict[str, Weeks]:
    python = environment(rival)
    command = [python, "-W", "ignore", Path(__file__).with_name(f"{rival}_weeks.py"), folder]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found: dict[str, Weeks] = json.loads(printed[-1])
    return found


def environment(rival: str) -> Path:
    """The Python of an environment with its packages, which is made if it is not there."""
    python = ROOT / f".venv-{rival}" / "bin" / "python"
    ready = python.parents[1] / "installed"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", *PACKAGES[rival]]
        subprocess.run(pip, check=True, stderr=subprocess.DEVNULL)
        ready.touch()
    return python
