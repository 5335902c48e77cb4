"""One row's features online: all views of flights, by our reader and by Feast's `get_online_features`, side by side.

Both read the same store, filled once: SQLite in a file, and Redis on this machine. What is compared is the median time
of a call; the calls take turns, so that what else the machine does meets both.
"""

import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, load_settings
from mlops_ray.features.columns import DTYPES, PREDICTION_TIME
from mlops_ray.features.declared_views import declared_views
from mlops_ray.features.definitions import Definitions, View, project_of, read_definitions
from mlops_ray.features.online.materialize import materialize
from mlops_ray.features.store import Store
from mlops_ray.features.transform import FeatureRows
from mlops_ray.use_case import load_use_case

ROOT = Path(__file__).parents[2]
NOW = datetime(2013, 12, 1, 12, tzinfo=UTC)
CALLS, WARM = 600, 50
KEYS: dict[str, list[Any]] = {
    "origin": ["EWR", "JFK", "LGA"],
    "dest": [f"D{number:02}" for number in range(99)],
    "carrier": [f"{letter}{digit}" for letter in "AB" for digit in range(8)],
    "flight": list(range(1, 400)),
    "tailnum": [f"N{number:04}" for number in range(4_000)],
}


def figures() -> Iterator[tuple[str, float, str]]:
    speedups = []
    for kind in ("sqlite", "redis"):
        with tempfile.TemporaryDirectory() as folder, _store(kind) as url:
            ours_s, feast_s = _compared(Path(folder), url)
        speedups.append(feast_s / ours_s)
        yield f"online_{kind}_ms", ours_s * 1_000, "ms"
        yield f"online_{kind}_feast_ms", feast_s * 1_000, "ms"
    yield "online_speedup_vs_feast", min(speedups), "x"


@contextmanager
def _store(kind: str) -> Iterator[str | None]:
    if kind == "sqlite":
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(["redis-server", "--port", str(port), "--save", ""], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _compared(folder: Path, url: str | None) -> tuple[float, float]:
    """Seconds of a call of ours and of Feast's."""
    where = {} if url is None else {"online_store": url}
    settings = load_settings(state=str(folder), data=str(folder), **where)
    case = load_use_case(str(ROOT / "use_cases" / "flights.py"))
    definitions = read_definitions(ROOT / "feature_repo", "flights", declared=declared_views(case))
    assert definitions is not None
    rows = [_rows(settings, view) for view in definitions.views]
    materialize(settings, definitions, rows, NOW)
    store = Store(settings, project_of(definitions, rows))
    feast = store._feast
    service = feast.get_feature_service(definitions.service)
    asked = _questions(definitions)
    with closing(store.online_reader()) as reader:
        expected = reader.read([asked[0]], [NOW])[0]
        found = feast.get_online_features(features=service, entity_rows=[asked[0]]).to_dict()
        assert {name: found[name][0] for name in expected} == expected
        ours, theirs = list[float](), list[float]()
        for row in asked:
            ours.append(_seconds(lambda row: reader.read([row], [NOW]), row))
            theirs.append(
                _seconds(lambda row: feast.get_online_features(features=service, entity_rows=[row]).to_dict(), row)
            )
    return statistics.median(ours[WARM:]), statistics.median(theirs[WARM:])


def _questions(definitions: Definitions) -> list[dict[str, Any]]:
    given = random.Random(1)
    names = {key for view in definitions.views for key in view.asked}
    return [{name: given.choice(KEYS[name]) for name in sorted(names)} for _ in range(CALLS)]


def _seconds(call: Callable[[dict[str, Any]], object], row: dict[str, Any]) -> float:
    started = time.perf_counter()
    call(row)
    return time.perf_counter() - started


def _rows(settings: Settings, view: View) -> FeatureRows:
    """A row of each key, or of 7,000 where keys are taken together."""
    frame = pl.DataFrame({view.keys[0]: KEYS[view.keys[0]]})
    for key in view.keys[1:]:
        frame = frame.join(pl.DataFrame({key: KEYS[key]}), how="cross").head(7_000)
    numbers = pl.int_range(pl.len())
    frame = frame.with_columns(
        pl.lit(NOW - timedelta(minutes=5)).cast(pl.Datetime("us", "UTC")).alias(PREDICTION_TIME),
        *(
            (numbers * 0.37 + place).cast(DTYPES[view.types[name]]).alias(name)
            for place, name in enumerate(view.fields)
        ),
    )
    frame = frame.with_columns(pl.col(key).cast(DTYPES[view.types[key]]) for key in view.keys)
    url = Artifacts(settings.artifacts).write_table(frame, "features", f"{view.name}.parquet")
    return FeatureRows(view.name, url, view.name, frame.height)


if __name__ == "__main__":
    for figure, value, unit in figures():
        sys.stdout.write(f"figure features.{figure} {value:.4g} {unit}\n")
