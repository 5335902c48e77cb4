"""A backup under load, of SQLite and PostgreSQL, on a disk and in an object store, restored and counted by another."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from moto.server import ThreadedMotoServer

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import ConfigurationError, ConflictError
from mlops_ray.governance.audit import verify_store
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import read_events
from mlops_ray.governance.live import live
from mlops_ray.governance.replicas import Replica, report
from mlops_ray.governance.versions import Evidence, VersionRef, list_versions, record_version
from mlops_ray.operations.backup.create import create
from mlops_ray.operations.backup.place import Place
from mlops_ray.operations.backup.restore import restore
from mlops_ray.operations.backup.verify import verify
from mlops_ray.predictions.compaction import compact
from tests.backup_state import CASE, ROOT, append, ledger_writer, predicted, small_state

ROTATE_S = 0.3


@pytest.fixture
def settings(url: str, tmp_path: Path) -> Settings:
    state = tmp_path / "old"
    state.mkdir()
    made = load_settings(state=str(state), data=str(tmp_path), control_store=url, ledger_rotate_s=ROTATE_S)
    store = open_store(made)
    small_state(made, store)
    store.close()
    return made


@contextmanager
def load(settings: Settings, acknowledged: list[tuple[str, datetime]]) -> Iterator[None]:
    """Answers, compaction, ingestion and releases, each as fast as it can, until the block ends."""
    ended, artifacts = threading.Event(), Artifacts(settings.artifacts)

    def answer() -> None:
        with ledger_writer(settings) as writer:
            while not ended.wait(0.002):
                acknowledged.append((append(writer), datetime.now(UTC)))

    def compact_on() -> None:
        while not ended.wait(0.1):
            with suppress(ConflictError):
                compact(artifacts, CASE, lambda _: True)

    def ingest() -> None:
        for number in range(100_000):
            if ended.wait(0.02):
                return
            artifacts.write_bytes(b"%d" % number * 100, "snapshots", "flights", f"{number}", "part-00000.parquet")
            artifacts.write_json({"part": number}, "snapshots", "flights", f"{number}", "manifest.json")
            artifacts.write_json({"digest": f"{number}"}, "last_ingest", "flights.json")

    def release() -> None:
        store = ControlStore(settings.control_store)
        for number in range(2, 100_000):
            ref = VersionRef(number, f"{number:064}")
            artifacts.write_json({"version": number}, "lineage", CASE, f"{number:064}.json")
            record_version(store, ROOT, CASE, number, Evidence(ref.digest, "e" * 64))
            set_champion(store, ROOT, CASE, ref, "better")
            report(store, CASE, Replica("replica", "node", number, (ref,)))
            if ended.wait(0.02):
                break
        store.close()

    works: tuple[Callable[[], None], ...] = (answer, compact_on, ingest, release)
    with ThreadPoolExecutor(len(works)) as threads:
        running = [threads.submit(work) for work in works]
        try:
            yield
        finally:
            ended.set()
        for one in running:
            one.result()


def test_a_backup_under_load_has_all_that_was_acknowledged_before_its_point_once(
    settings: Settings, url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    acknowledged: list[tuple[str, datetime]] = []
    place, made = Place(str(tmp_path / "backups")), []
    with load(settings, acknowledged):
        for _ in range(3):
            time.sleep(0.7)
            made.append(create(settings, ROOT, place))
    for number, one in enumerate(made):
        new = load_settings(
            state=str(tmp_path / f"new {number}"), data=str(tmp_path), control_store=another(url, request, number)
        )
        restore(new, place, one.id)
        check(new, one.manifest.predictions[CASE], acknowledged)


def check(new: Settings, until: str, acknowledged: list[tuple[str, datetime]]) -> None:
    """Whether what one place says is in it, by counting alone."""
    counted = Counter(predicted(new))
    before = {id for id, at in acknowledged if at < datetime.fromisoformat(until)}
    assert len(before) > 20, "answers fell before the point"
    assert [id for id in before if counted[id] != 1] == []
    assert [id for id, number in counted.items() if number != 1] == []
    store = open_store(new)
    found = verify_store(store, new)
    assert (found.ok, found.problem) == (True, None)
    artifacts = Artifacts(new.artifacts)
    versions = {one.version for one in list_versions(store, CASE)}
    assert versions == set(range(1, max(versions) + 1)), "no version before another is missing"
    for version in versions - {1}:
        assert artifacts.read_json("lineage", CASE, f"{version:064}.json") == {"version": version}
    champion = live(store, CASE).champion
    assert champion is not None
    assert champion.version >= max(versions) - 1
    last = artifacts.read_json("last_ingest", "flights.json")
    assert last is not None
    for entry in artifacts.entries("snapshots", "flights"):
        if artifacts.read_json("snapshots", "flights", entry.name, "manifest.json") is not None:
            assert artifacts.read_bytes("snapshots", "flights", entry.name, "part-00000.parquet")
    assert artifacts.read_json("snapshots", "flights", last["digest"], "manifest.json") is not None
    store.close()


def another(url: str, request: pytest.FixtureRequest, number: int) -> str:
    """An empty place of the same kind; the last time of the other one."""
    on_server = url.startswith("postgresql") != (number == 2)
    return database(request.getfixturevalue("server")) if on_server else ""


def database(server: str) -> str:
    name = f"restored_{time.monotonic_ns()}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return server.rpartition("/")[0] + f"/{name}"


def test_databases_on_a_server_are_dumped_and_restored_at_their_new_place(server: str, tmp_path: Path) -> None:
    state = tmp_path / "old"
    state.mkdir()
    old, new = database(server), database(server)
    with psycopg.connect(old) as connection:
        connection.execute("CREATE TABLE runs (run_uuid TEXT PRIMARY KEY, artifact_uri TEXT)")
        connection.execute("INSERT INTO runs VALUES ('r', %s)", (f"{state}/artifacts/mlflow/r",))
    settings = load_settings(state=str(state), data=str(tmp_path), mlflow_uri=old.replace("://", "+psycopg://", 1))
    open_store(settings).close()
    place = Place(str(tmp_path / "backups"))
    made = create(settings, ROOT, place)
    assert made.manifest.databases == {"mlflow_uri": "postgresql"}
    sqlite = load_settings(state=str(tmp_path / "new"), data=str(tmp_path))
    with pytest.raises(ConfigurationError, match="the backup has a database of postgresql"):
        restore(sqlite, place, "latest")
    taken = load_settings(state=str(tmp_path / "new"), data=str(tmp_path), mlflow_uri=old)
    with pytest.raises(ConfigurationError, match="is not empty"):
        restore(taken, place, "latest")
    there = load_settings(state=str(tmp_path / "new"), data=str(tmp_path), mlflow_uri=new)
    restore(there, place, "latest")
    with psycopg.connect(new) as connection:
        assert connection.execute("SELECT artifact_uri FROM runs").fetchall() == [(f"{there.artifacts}/mlflow/r",)]


def test_without_the_tools_of_postgresql_that_is_said(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(state=str(tmp_path / "old"), data=str(tmp_path), feast_registry=database(server))
    open_store(settings).close()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigurationError, match="pg_dump is not on this machine"):
        create(settings, ROOT, Place(str(tmp_path / "backups")))
    assert Place(str(tmp_path / "backups")).points() == []


def test_artifacts_and_backups_lie_in_object_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "DEFAULT_REGION": "eu-central-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = f"?endpoint_override=http://{host}:{port}&region=eu-central-1"
    client: Any = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    where = {"CreateBucketConfiguration": {"LocationConstraint": "eu-central-1"}}
    for bucket in ("old", "new", "kept"):
        client.create_bucket(Bucket=bucket, **where)
    try:
        (tmp_path / "old").mkdir()
        old = load_settings(state=str(tmp_path / "old"), data=str(tmp_path), artifacts=f"s3://old/root{options}")
        store = open_store(old)
        ids = small_state(old, store)
        place = Place(f"s3://kept/of flights{options}")
        first = create(old, ROOT, place)
        second = create(old, ROOT, place)
        assert second.copied < first.copied / 2
        (table,) = [one for one in second.manifest.items if one.path.endswith("part-00000.parquet")]
        client.put_object(Bucket="kept", Key=f"of flights/content/{table.sha256[:2]}/{table.sha256}", Body=b"damaged")
        assert verify(place, second.manifest).set_aside == 1
        third = create(old, ROOT, place)
        assert verify(place, second.manifest).problems == verify(place, third.manifest).problems == ()
        with pytest.raises(ConfigurationError, match="belong to another installation"):
            place.expect_owner("another")
        new = load_settings(state=str(tmp_path / "new"), data=str(tmp_path), artifacts=f"s3://new/root{options}")
        client.delete_object(Bucket="kept", Key=f"of flights/points/{first.id}/manifest.json")
        assert place.points() == [second.id, third.id]
        restore(new, place, "latest")
        assert sorted(predicted(new)) == sorted(ids)
        (event,) = read_events(store, types=["backup.created"], limit=1)
        assert event.payload["place"] == place.root
        key = Artifacts(new.artifacts).read_json("pipeline", CASE, "features", "last.json")["key"]
        step = Artifacts(new.artifacts).read_json("pipeline", CASE, "features", f"{key}.json")
        assert "s3://old" not in json.dumps(step)
        store.close()
    finally:
        server.stop()
