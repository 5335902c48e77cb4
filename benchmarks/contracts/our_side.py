"""The ingest of this project; prints seconds and what became of the rows, as JSON.

    python benchmarks/contracts/our_side.py FOLDER STATE [CORES]

CORES: of a Ray that is started before the time is taken; without it none is, as for files of less than 16 MiB.
"""

import json
import sys
import time
from datetime import UTC, datetime

import polars as pl
from flights_contract import SOURCE

from mlops_ray import Label, UseCase
from mlops_ray.config import load_settings
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.pipeline.steps.ingest import contract
from mlops_ray.training.candidates import GradientBoosting

CASE = UseCase(
    name="flights",
    owner="operations@example.org",
    sources={"flights": SOURCE},
    entities=("carrier", "flight", "origin"),
    event_time="time_hour",
    label=Label("late", value=pl.col("arr_delay") >= 15, known_at=pl.col("time_hour")),
    candidates=(GradientBoosting(),),
    request_features={"carrier": pl.col("carrier")},
)


def main(folder: str, state: str, cores: int) -> None:
    if cores:
        import ray

        ray.init(address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False)
        ray.get([ray.remote(_warm).remote() for _ in range(cores)])
    settings = load_settings(state=state, data=folder)
    started = time.perf_counter()
    moment = datetime(2190, 1, 1, tzinfo=UTC)
    snapshot = ingest(CASE, settings, moment, "benchmark", {"flights": contract(SOURCE)})
    seconds, counts = time.perf_counter() - started, snapshot.counts["flights"]
    accepted = counts.accepted + counts.repaired
    print(
        json.dumps({"seconds": seconds, "accepted": accepted, "repaired": counts.repaired, "reasons": counts.reasons})
    )


def _warm() -> None:
    """Import what a worker needs, as its start is not measured."""
    import mlops_ray.ingestion.ingest  # noqa: F401


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0)
