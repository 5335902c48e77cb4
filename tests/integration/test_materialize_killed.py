"""A materialization that is killed while others read: nobody fails, and the next run ends where a clean one does."""

import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import UnavailableError
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import Definitions, read_definitions
from mlops_ray.features.online.materialize import materialize, verify
from mlops_ray.features.online.store import writer_of
from mlops_ray.features.store import Store
from mlops_ray.features.transform import FeatureRows
from tests.integration.test_online_store import DEFINITIONS, HOUR, NOON, postgresql, redis, us

KEYS, PER_S = 16_000, 20
RUN = """
import os, pickle, signal, sys, threading
from mlops_ray.features.online.materialize import materialize
from mlops_ray.features.online.store import writer_of
settings, definitions, newer, as_of, project = pickle.load(open(sys.argv[1], "rb"))
batches, writer = [], type(writer_of(settings.online_store, project))
write = writer.write

def killed_while_it_writes(self, view, rows):
    batches.append(len(rows))
    if len(batches) == 4:
        threading.Timer(0.005, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return write(self, view, rows)

writer.write = killed_while_it_writes
materialize(settings, definitions, newer, as_of)
"""


@pytest.fixture(params=["sqlite", "redis", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    places = {"state": str(tmp_path), "data": str(tmp_path)}
    if request.param == "sqlite":
        yield load_settings(**places)
    else:
        with (redis if request.param == "redis" else postgresql)() as url:
            yield load_settings(**places, online_store=url)


def rows(settings: Settings, hour: int, value: float) -> list[FeatureRows]:
    numbers = pl.DataFrame({"number": range(KEYS)})
    frame = numbers.select(
        pl.format("A{}", "number").alias("airport"),
        pl.lit(NOON + hour * HOUR).cast(pl.Datetime("us", "UTC")).alias(PREDICTION_TIME),
        delay=pl.col("number") + value,
    )
    url = Artifacts(settings.artifacts).write_table(frame, f"delays-{value}.parquet")
    return [FeatureRows("delays", url, str(value), KEYS)]


class Readers:
    """A caller at 20 requests a second, through what replicas read with."""

    def __init__(self, store: Store):
        self._store, self._ending = store, threading.Event()
        self.answers, self.failed = list[float | None](), list[Exception]()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> "Readers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _read(self) -> None:
        number = 0
        with closing(self._store.online_reader()) as reader:
            while not self._ending.wait(1 / PER_S):
                number = (number + 997) % KEYS
                try:
                    (found,) = reader.read([{"airport": f"A{number}"}], [NOON + HOUR])
                    self.answers.append(None if found["delay"] is None else found["delay"] - number)
                except UnavailableError as error:
                    self.failed.append(error)


@pytest.mark.timeout(280)
def test_nobody_who_reads_fails_and_the_next_run_ends_as_a_clean_one(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "views.py").write_text(DEFINITIONS)
    definitions = read_definitions(tmp_path, "service")
    assert definitions is not None
    project = materialize(settings, definitions, rows(settings, -1, 0.25), NOON).project
    newer, store = rows(settings, 0, 0.75), Store(settings, project)
    with Readers(store) as readers:
        written = killed_in_the_middle(settings, definitions, project, newer, tmp_path)
        assert 0 < written < KEYS
        done = materialize(settings, definitions, newer, NOON)
        time.sleep(0.2)
    assert readers.failed == []
    assert set(readers.answers) <= {0.25, 0.75}
    assert len(readers.answers) > PER_S
    assert (done.keys, done.kept) == ({"delays": KEYS}, {"delays": 0})
    assert done.written == {"delays": KEYS - written}
    assert verify(settings, definitions, newer, NOON) is None
    asked = [{"airport": f"A{number}"} for number in range(KEYS)]
    found = store.online_reader().read(asked[::7], [NOON + HOUR] * len(asked[::7]))
    assert [one["delay"] for one in found] == [number + 0.75 for number in range(0, KEYS, 7)]


def killed_in_the_middle(
    settings: Settings, definitions: Definitions, project: str, newer: list[FeatureRows], folder: Path
) -> int:
    """How many keys a run wrote before SIGKILL, in the middle of its fourth batch of eight."""
    (folder / "given").write_bytes(pickle.dumps((settings, definitions, newer, NOON, project)))
    run = subprocess.run([sys.executable, "-c", RUN, str(folder / "given")], timeout=120, check=False)
    assert run.returncode == -signal.SIGKILL
    time.sleep(0.5)  # PostgreSQL ends what the connection was at
    (view,) = definitions.views
    return writer_of(settings.online_store, project).count(view, us(NOON))
