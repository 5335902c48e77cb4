"""The online store, whichever it is, answers as the point-in-time join does: as of a moment, and within the ttl."""

import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, load_settings
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.materialize import materialize
from mlops_ray.features.store import Store
from mlops_ray.features.transform import FeatureRows

DEFINITIONS = {
    "views.py": """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

airport = Entity(name="airport", value_type=ValueType.STRING)
delays = FeatureView(
    name="delays",
    entities=[airport],
    ttl=timedelta(hours=3),
    schema=[Field(name="delay", dtype=Float64)],
    source=FileSource(name="delays", path="delays.parquet", timestamp_field="event_timestamp"),
)
service = FeatureService(name="service", features=[delays])
"""
}
NOON = datetime.fromisoformat("2013-06-01T12:00:00Z")
HOUR = timedelta(hours=1)
ROWS = pl.DataFrame(
    {
        "airport": ["EWR", "EWR", "EWR", "JFK", "LGA"],
        PREDICTION_TIME: [NOON - 2 * HOUR, NOON - HOUR, NOON + HOUR, NOON - 3 * HOUR, NOON - 4 * HOUR],
        "delay": [1.0, 2.0, 99.0, 3.0, 4.0],
    },
    schema_overrides={PREDICTION_TIME: pl.Datetime("us", "UTC")},
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"nothing listens on port {port}")


@contextmanager
def redis() -> Iterator[str]:
    port = free_port()
    server = subprocess.Popen(["redis-server", "--port", str(port), "--save", ""], stdout=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@contextmanager
def postgresql() -> Iterator[str]:
    """PostgreSQL does not run as root, so it runs as its own user, in a folder that this user may enter."""
    (binaries,) = Path("/usr/lib/postgresql").glob("*/bin")
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    folder, port = Path(tempfile.mkdtemp(prefix="mlops-ray-postgres-")), free_port()
    shutil.chown(folder, "postgres", "postgres")
    subprocess.run(
        [*as_user, binaries / "initdb", "-A", "trust", folder / "data"], check=True, stdout=subprocess.DEVNULL
    )
    options = ["-D", folder / "data", "-p", str(port), "-h", "127.0.0.1", "-k", folder]
    server = subprocess.Popen([*as_user, binaries / "postgres", *options], stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield f"postgresql://postgres:none@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # SIGTERM would wait for our own connections to close
        server.wait()
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "redis", "postgresql"], scope="module")
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        yield load_settings(state=str(folder), data=str(folder))
    elif request.param == "redis":
        with redis() as url:
            yield load_settings(state=str(folder), data=str(folder), online_store=url)
    else:
        with postgresql() as url:
            yield load_settings(state=str(folder), data=str(folder), online_store=url, feast_registry=url)


@pytest.fixture(scope="module")
def store(settings: Settings) -> Store:
    url = Artifacts(settings.artifacts).write_table(ROWS, "delays.parquet")
    store = Store(settings, "service")
    store.apply(DEFINITIONS, {"delays": url})
    done = materialize(settings, "service", [FeatureRows("delays", url, "", ROWS.height)], NOON)
    assert done.keys == {"delays": 2}
    return store


def delay(store: Store, airport: str | None, moment: datetime) -> object:
    return store.online_reader().read([{"airport": airport}], [moment])[0]["delay"]


def test_the_newest_value_known_at_the_moment_is_read(store: Store) -> None:
    assert delay(store, "EWR", NOON) == 2.0
    assert delay(store, "JFK", NOON) == 3.0


def test_a_reader_of_a_file_does_not_wait_for_who_writes(store: Store, settings: Settings) -> None:
    if not settings.online_store.startswith("sqlite"):
        pytest.skip("servers have locks of their own")
    with closing(sqlite3.connect(settings.online_store.removeprefix("sqlite:///"))) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        started_s = time.monotonic()
        assert delay(store, "EWR", NOON) == 2.0
        assert time.monotonic() - started_s < 1
        writer.rollback()


def test_a_value_older_than_the_ttl_has_expired(store: Store) -> None:
    assert delay(store, "LGA", NOON) is None
    assert delay(store, "JFK", NOON + timedelta(seconds=1)) is None
    assert delay(store, "EWR", NOON + 2 * HOUR) == 2.0


def test_a_value_from_after_the_moment_is_not_read(store: Store) -> None:
    assert delay(store, "EWR", NOON - 2 * HOUR) is None


@pytest.mark.parametrize("airport", ["XXX", "", None])
def test_an_unknown_key_has_no_value(store: Store, airport: str | None) -> None:
    assert delay(store, airport, NOON) is None


def test_offline_and_online_agree(store: Store) -> None:
    entities = pl.DataFrame(
        {"airport": ["EWR", "JFK", "LGA", None], PREDICTION_TIME: [NOON] * 4},
        schema={"airport": pl.String, PREDICTION_TIME: pl.Datetime("us", "UTC")},
    )
    offline = store.historical(entities)["delay"].to_list()
    assert offline == [delay(store, row["airport"], NOON) for row in entities.to_dicts()]
