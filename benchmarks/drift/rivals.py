"""Evidently and NannyML at their defaults, by their own rules, in worlds of `promise` in which nothing changes.

They judge a week of rows at a time against all of the past, as their guides show it. What counts as an alarm is theirs:
Evidently's preset says that a data set drifted if half of its columns did; NannyML marks each chunk of each column that
left its limits (univariate drift), and each chunk whose rows are reconstructed worse than before (multivariate).
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
from drift.promise import WORLDS
from drift.worlds import World, draw, later_rows, past_rows

ROOT = Path(__file__).parents[2]
# NannyML imports statsmodels without requiring it.
PACKAGES = {
    "evidently": ["evidently==0.7.23", "pandas<3", "pyarrow"],
    "nannyml": ["nannyml==0.13.1", "pyarrow", "statsmodels"],
}
Figures = Iterator[tuple[str, float, str]]
_WORLDS = ("iid", "autocorrelated_days", "daily_cycle", "weekly_cycle", "trend_in_the_reference")
_MODELS, _WEEKS = 3, 12
# They look at all rows of the past for each week.
_PAST_DAYS = 60
_MONTH_WEEKS = 30 / 7


def figures() -> Figures:
    for world in (one for one in WORLDS if one.name in _WORLDS):
        found: dict[str, list[float]] = {}
        for seed in range(_MODELS):
            for rule, share in verdicts(world, seed).items():
                found.setdefault(rule, []).append(share)
        for rule, shares in found.items():
            rate = sum(shares) / len(shares) * _MONTH_WEEKS
            yield f"false_alarms_per_month_{world.name}_{rule}", rate, f"of {_MODELS * _WEEKS} weeks"


def verdicts(world: World, seed: int) -> dict[str, float]:
    """The share of weeks that each rule calls drift."""
    drawn = draw(replace(world, days=_PAST_DAYS), _WEEKS // 4, seed)
    past, later = past_rows(drawn), later_rows(drawn, 7 * _WEEKS)
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in (("past", past), ("later", later)):
            rows.drop("label", "probability").with_columns(pl.col("c").cast(pl.String)).write_parquet(
                Path(folder) / f"{name}.parquet"
            )
        return {rule: share for rival in PACKAGES for rule, share in _run(rival, folder).items()}


def _run(rival: str, folder: str) -> dict[str, float]:
    python = ROOT / f".venv-{rival}" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES[rival]], check=True, stderr=subprocess.DEVNULL)
    command = [python, "-W", "ignore", Path(__file__).with_name(f"{rival}_weeks.py"), folder]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found: dict[str, float] = json.loads(printed[-1])
    return found
