"""A small installation for tests of backups: something in every store, each with what names the others."""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import uuid6
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from mlops_ray.artifacts import Artifacts, digest_json
from mlops_ray.config import Settings
from mlops_ray.governance.anchors import anchor
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.channels import Channels
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor
from mlops_ray.governance.keys import create_key
from mlops_ray.governance.notifications import subscribe
from mlops_ray.governance.versions import Evidence, VersionRef, record_version
from mlops_ray.predictions.compaction import compact
from mlops_ray.predictions.reader import Ledger
from mlops_ray.predictions.writer import LedgerWriter
from mlops_ray.testing.example_model import example_schema

ROOT = Actor("root", ("admin",))
CASE = "departures"
REF = VersionRef(1, "1" * 64)
PLANTED = "planted-secret-"
"""Begins every secret of the installation, so that none can be overlooked."""


def small_state(settings: Settings, store: ControlStore) -> list[str]:
    """Fill it, and return the ids of the predictions that are in its ledger."""
    artifacts_and_databases(settings)
    Path(settings.ledger_secret_file).write_text(f"{PLANTED}ledger")
    create_key(store, ROOT, "somebody", ["admin"])
    subscribe(store, ROOT, Channels(("127.0.0.1",)), f"https://127.0.0.1/{PLANTED}hook", CASE)
    record_version(store, ROOT, CASE, REF.version, Evidence(REF.digest, "e" * 64))
    set_champion(store, ROOT, CASE, REF, "first")
    anchor(store, settings)
    old = predictions(settings, 3)
    compact(Artifacts(settings.artifacts), CASE, lambda _: True)
    return [*old, *predictions(settings, 2)]


def artifacts_and_databases(settings: Settings) -> None:
    """A snapshot, the record of a step, a commit of the watch, and the databases of others."""
    artifacts = Artifacts(settings.artifacts)
    rows = pl.DataFrame({"x": [1, 2, 3]})
    table = artifacts.write_table(rows, "snapshots", CASE, "d" * 64, "flights", "part-00000.parquet")
    artifacts.write_json({"digest": "d" * 64}, "snapshots", CASE, "d" * 64, "manifest.json")
    artifacts.write_json({"digest": "d" * 64}, "last_ingest", f"{CASE}.json")
    record = step_record(settings, table)
    artifacts.write_json(record, "pipeline", CASE, "features", f"{record['key']}.json")
    artifacts.write_json({"key": record["key"]}, "pipeline", CASE, "features", "last.json")
    artifacts.write_bytes(b"commit", "monitoring", CASE, "state", "000000000001")
    _databases(settings, table)


def step_record(settings: Settings, table: str) -> dict[str, Any]:
    """Of a step that depends on where MLflow is, as the step `register` does."""
    depends_on = ["mapping", ["settings", ["mapping", ["mlflow_uri", settings.mlflow_uri], ["advisories", ""]]]]
    result = {"url": table, "rows": 3, "parts": [{"url": table}]}
    return {"key": digest_json(depends_on), "depends_on": depends_on, "attempt": 0, "result": result}


def predictions(settings: Settings, number: int) -> list[str]:
    """Answers that are acknowledged and have reached the ledger's segments."""
    with ledger_writer(settings) as writer:
        return [append(writer) for _ in range(number)]


def ledger_writer(settings: Settings) -> LedgerWriter:
    writer = LedgerWriter(settings, CASE)
    writer.add_version("1", example_schema())
    return writer


def append(writer: LedgerWriter) -> str:
    id, now = str(uuid6.uuid7()), datetime.now(UTC)
    writer.append(
        "1", request_id=id, route="champion", latency_s=0.001, as_of=now,
        keys=[{"carrier": "AA", "origin": "JFK", "departure": now + timedelta(hours=2), "distance": 500.0}],
        numbers=np.array([[500, 8, np.nan]], np.float32), categories=np.array([["JFK", ""]], dtype=object),
        answer=np.full(1, 0.25, np.float32),
    )  # fmt: skip
    return id


def predicted(settings: Settings) -> list[str]:
    """The ids in the ledger, one for each row."""
    return list(Ledger(settings, CASE).frame()["request_id"])


def protobuf(path: str) -> bytes:
    """A message with a path in a nested message, long enough that lengths take two bytes, and one in a text."""
    message = FileDescriptorProto(name="view", package=f"# {path}/mentioned in code\n" * 3)
    message.message_type.add(name="source").field.add(name=path, json_name="n" * 200, number=7)
    return message.SerializeToString()


def _databases(settings: Settings, table: str) -> None:
    run = f"{settings.artifacts}/mlflow/run"
    source = json.dumps({"uri": table, "digest": "d"})
    contents: Mapping[str, tuple[tuple[str, tuple[Any, ...]], ...]] = {
        "mlflow.db": (
            ("CREATE TABLE experiments (artifact_location TEXT)", (f"{settings.artifacts}/mlflow",)),
            ("CREATE TABLE runs (artifact_uri TEXT)", (run,)),
            ("CREATE TABLE model_versions (source TEXT)", (f"{run}/artifacts",)),
            ("CREATE TABLE datasets (dataset_source TEXT)", (source,)),
            ("CREATE TABLE params (value TEXT)", (run,)),
        ),
        "feast_registry.db": (("CREATE TABLE data_sources (data_source_proto BLOB)", (protobuf(table),)),),
        "online_store.db": (("CREATE TABLE mlops_ray_online (rows TEXT)", (table,)),),
    }
    for name, tables in contents.items():
        with closing(sqlite3.connect(Path(settings.state, name))) as file, file:
            for made, values in tables:
                file.execute(made)
                file.execute(f"INSERT INTO {made.split()[2]} VALUES (?)", values)
