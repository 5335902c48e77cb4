"""Score the rows of a folder with the example model, whose features come from a year of delays:
`score_side.py FOLDER OUTPUT CORES`. The champion is made in FOLDER/state where there is none yet."""

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import ray

from mlops_ray.artifacts import Artifacts
from mlops_ray.batch.rows import read_rows
from mlops_ray.batch.scoring import score
from mlops_ray.config import Settings
from mlops_ray.features.definitions import read_definitions
from mlops_ray.features.store import Store
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.live import VersionRef
from mlops_ray.registry.models import register
from mlops_ray.testing.example_lineage import example_lineage
from mlops_ray.testing.example_model import seal_example
from mlops_ray.training.tracking import connect, experiment_id

DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

carrier = Entity(name="carrier", value_type=ValueType.STRING)
origin = Entity(name="origin", value_type=ValueType.STRING)
delays = FeatureView(
    name="delays",
    entities=[carrier, origin],
    ttl=timedelta(hours=6),
    schema=[Field(name="recent_delay", dtype=Float64)],
    source=FileSource(name="delays", path="delays.parquet", timestamp_field="event_timestamp"),
)
service = FeatureService(name="departures", features=[delays])
"""
START, MINUTES = datetime(2013, 1, 1, tzinfo=UTC), 365 * 1440


def champion(folder: Path) -> Settings:
    state = folder / "state"
    settings = Settings(state=str(state), data=str(state))
    if (state / "views.py").exists():
        return settings
    random = np.random.default_rng(3)
    keys = [(carrier, origin) for carrier in ("AA", "UA") for origin in ("JFK", "LGA", "EWR")]
    chosen = random.integers(0, len(keys), 2 * MINUTES)
    delays = pl.DataFrame(
        {
            "event_timestamp": [START + timedelta(seconds=30 * n) for n in range(2 * MINUTES)],
            "carrier": [keys[n][0] for n in chosen],
            "origin": [keys[n][1] for n in chosen],
            "recent_delay": random.normal(10, 20, 2 * MINUTES),
        },
        schema_overrides={"event_timestamp": pl.Datetime("us", "UTC")},
    )
    url = Artifacts(settings.artifacts).write_table(delays, "delays.parquet")
    (state / "views.py").write_text(DEFINITIONS)
    definitions = read_definitions(state, "departures")
    assert definitions is not None
    Store(settings, "departures").apply(definitions, {"delays": url}, START)
    digest = seal_example(state / "sealed")
    client = connect(settings)
    run_id = client.create_run(experiment_id(client, settings, "departures")).info.run_id
    lineage = example_lineage("departures", digest)
    version = register(settings, "departures", state / "sealed", lineage, run_id, {}, "key")
    set_champion(open_store(settings), SYSTEM, "departures", VersionRef(version.version, digest), "benchmark")
    return settings


def write_rows(folder: Path, rows: int) -> None:
    for number, at in enumerate(range(0, rows, 1_000_000)):
        here, random = min(1_000_000, rows - at), np.random.default_rng([5, number])
        minutes = np.sort(random.integers(MINUTES * at // rows, MINUTES * (at + here) // rows, here))
        departure = pl.Series(int(START.timestamp() * 1e6) + minutes * 60_000_000).cast(pl.Datetime("us", "UTC"))
        frame = {
            "carrier": random.choice(["AA", "UA"], here),
            "origin": random.choice(["JFK", "LGA", "EWR"], here),
            "departure": departure,
            "distance": random.uniform(100, 3000, here),
        }
        folder.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(frame).write_parquet(folder / f"{number:05}.parquet")


def main(folder: str, output: str, cores: str) -> None:
    settings = champion(Path(folder).parent)
    ray.init(
        address="local", num_cpus=int(cores), object_store_memory=1 << 30, include_dashboard=False, log_to_driver=False
    )
    started = time.monotonic()
    done = score(read_rows(str(Path(folder).absolute())), "departures", str(Path(output).absolute()), settings)
    print(json.dumps({"seconds": time.monotonic() - started, "rows": done.scored}))


if __name__ == "__main__":
    main(*sys.argv[1:])
