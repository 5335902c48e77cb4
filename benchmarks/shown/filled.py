"""What other pages of the console show: data, an endpoint that is watched, what was used, keys and rules."""

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.linear_model import LogisticRegression as Fitted

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Prices, Settings
from mlops_ray.cost.prices import digest_of
from mlops_ray.cost.steps import STEPS
from mlops_ray.cost.usage import Usage
from mlops_ray.exploration.kept import keep_profile
from mlops_ray.governance.budgets import Budget, set_budget
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.channels import Channels
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, Actor
from mlops_ray.governance.keys import create_key
from mlops_ray.governance.notifications import subscribe
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import set_policy
from mlops_ray.governance.usage import Part, hour_of, keep_prices, month_of, write_usage
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.monitoring.drift_actor import open_watch
from mlops_ray.monitoring.foreign_model import every_version, record_foreign
from mlops_ray.predictions.labels import BY_REQUEST, write_by_request
from mlops_ray.testing.example_lineage import AUTHOR
from mlops_ray.testing.example_stream import BY_COUNT, BY_TIME, START, example_stream, write_example_segments
from mlops_ray.training.candidates import LogisticRegression
from mlops_ray.use_case import Column, Label, Monitoring, Source, UseCase

PRICES = Prices(currency="EUR", cpu_hour=0.05, memory_gb_hour=0.01, read_gb=0, written_gb=0)
NUMBERS, ROWS, REFUSED = 20, 5_000, 100
DAYS, RUNS, REPLICAS = 30, 40, 4
WATCHED = "departures"
ADA = Actor("ada", ("operate",), id="ada")


def ingested(settings: Settings, names: Iterable[str]) -> dict[str, str]:
    """Two snapshots of each use case, of 20 columns of numbers and some refused records; returns the last digests."""
    columns = (Column("id", "integer"), Column("at", "timestamp"), *(Column(f"n{k}", "number") for k in range(NUMBERS)))
    found = {}
    for name in names:
        folder = Path(settings.data) / name
        folder.mkdir()
        case = UseCase(
            name=name,
            sources={"trips": Source(f"{name}/trips_*.csv", columns, key=("id",), known_at=pl.col("at"))},
            entities=("id",),
            event_time="at",
            label=Label("late", pl.col("n0") > 0, known_at=pl.col("at")),
            candidates=(LogisticRegression(),),
        )
        for number in range(2):
            _write(folder / f"trips_{number}.csv", number)
            snapshot = ingest(case, settings, None, "code", {"trips": "c"})
            keep_profile(Artifacts(settings.artifacts), snapshot)
        found[name] = snapshot.digest
    return found


def _write(file: Path, number: int) -> None:
    random = np.random.default_rng(number)
    days = [datetime(2025, 5 + number, 1, tzinfo=UTC) + timedelta(minutes=8 * row) for row in range(ROWS)]
    made = {f"n{k}": random.normal(number, 1, ROWS).round(3).astype(str) for k in range(NUMBERS)}
    made["n0"][:REFUSED] = "none"
    rows = pl.DataFrame({"id": range(number * ROWS, (number + 1) * ROWS), "at": days} | made)
    rows.with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_csv(file)


def answered(settings: Settings, names: Sequence[str], version: int) -> list[str]:
    """Predictions of a day by a version of each use case, whose sealed model is not kept; returns a request of each."""
    artifacts, found = Artifacts(settings.artifacts), []
    for number, name in enumerate(names):
        rows = example_stream(1, 5, START + timedelta(days=number))
        found.append(write_example_segments(artifacts, name, rows, version=str(version))[0])
    return found


def watched(settings: Settings, store: ControlStore) -> None:
    """An endpoint whose predictions of a month were watched, and labels told."""
    columns = (
        Column("carrier", "text"),
        Column("departure", "timestamp"),
        Column("distance", "number"),
        Column("hour", "number"),
        Column("late", "boolean", outcome=True),
    )
    case = UseCase(
        name=WATCHED,
        sources={"departures": Source("*.csv", columns)},
        entities=("carrier",),
        event_time="departure",
        label=Label("late", pl.col("late"), pl.col("departure")),
        candidates=(LogisticRegression(),),
        request_features={"distance": pl.col("distance"), "hour": pl.col("hour")},
        monitoring=Monitoring(windows=(BY_COUNT, BY_TIME), false_alarm_days=30, slices=()),
    )
    table = example_stream(DAYS, 2, START - timedelta(days=60)).rename({"time": "departure", "label": "late"})
    numbers = table.select("distance", "hour").to_numpy().astype(np.float32)
    model = to_onnx(
        Fitted(max_iter=1_000).fit(numbers, table["late"].to_numpy()),
        initial_types=[("X", FloatTensorType([None, 2]))],
        options={"zipmap": False},
    )
    made = record_foreign(settings, store, AUTHOR, case, model.SerializeToString(), table)
    set_champion(store, AUTHOR, WATCHED, made.ref, "first")
    artifacts, rows = Artifacts(settings.artifacts), example_stream(DAYS, 5)
    ids = write_example_segments(artifacts, WATCHED, rows, version="1")
    told = rows.select("label", known_at=pl.col("time") + timedelta(hours=3)).with_columns(
        request_id=pl.Series(ids), row=pl.lit(0, pl.Int32), received_at=pl.col("known_at")
    )
    told = told.select(pl.col(name).cast(kind) for name, kind in BY_REQUEST.items())
    write_by_request(artifacts, WATCHED, "019cab00-0000-7000-8000-000000000000", told)
    watch = open_watch(settings, every_version(settings, store), WATCHED, store)
    for _ in range(2):  # predictions, then what labels say of them
        while watch.round(rows["time"][-1] + timedelta(days=1), ["1"]).measured:
            pass


def used(store: ControlStore, names: Sequence[str]) -> None:
    """What a month of runs and of replicas used, the same for each use case, against a budget that is nearly spent."""
    keep_prices(store, digest_of(PRICES), PRICES.model_dump())
    now = datetime.now(UTC)
    usage = Usage(wall_s=300, cpu_s=400, peak_bytes=2 * 10**9, byte_s=6e11).to_json()
    for run in range(RUNS):
        for step in STEPS:
            part = Part(f"run-{run}", "step", step, names[0], f"key {step}", digest_of(PRICES))
            write_usage(store, part, month_of(now), usage, "ended")
    served, hour = Usage(wall_s=3_600, cpu_s=1_000, byte_s=3.6e12, predictions=20_000).to_json(), hour_of(now)
    while hour >= month_of(now):
        for replica in range(REPLICAS):
            part = Part(f"replica-{replica}", "replica", "1", names[0], "", digest_of(PRICES))
            write_usage(store, part, hour, served, "ended")
        hour -= timedelta(hours=1)
    database = sqlite3.connect(store.file)
    columns = [
        row[1] for row in database.execute("PRAGMA table_info(usage)") if row[1] not in ("id", "use_case", "run")
    ]
    listed = ", ".join(f'"{column}"' for column in columns)
    for name in names[1:]:
        database.execute(
            f"INSERT INTO usage (use_case, run, {listed}) SELECT ?, run || ?, {listed} FROM usage WHERE use_case = ?",
            (name, f" of {name}", names[0]),
        )
    database.commit()
    database.close()
    for name in names:
        set_budget(store, AUTHOR, Budget(name, "", 100.0, "EUR"), "plan")


def asked(store: ControlStore, names: Sequence[str]) -> None:
    """Of each use case a key, a subscription, and rules that wait."""
    for name in names:
        create_key(store, SYSTEM, f"team of {name}", ["operate"], [name])
        subscribe(store, AUTHOR, Channels(), f"https://hooks.example.org/{name}", name)
        set_policy(store, ADA, name, Policy(required=False), ("quality at least 0.7",), "too slow for us")
