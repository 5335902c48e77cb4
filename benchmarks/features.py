"""Features: the point-in-time join beside Feast's DuckDB store and plain polars; its memory and its time for each row
from 3 to 30 million rows; one key with most events; batch scoring of 10 million rows; and what transforms and the
online store cost (`feature_paths/`).

`FEATURES_ROWS=3000000 python benchmarks/run.py features` takes so many rows, and a tenth of them, for the large sizes;
`python benchmarks/run.py features:skew,online` runs these parts alone.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
SIDES = HERE / "feature_joins"
sys.path.insert(0, str(SIDES))

CORES, SMALL_ROWS, SMALL_EVENTS, SMALL_KEYS = 2, 300_000, 300_000, 4_000
LARGE_ROWS = int(os.environ.get("FEATURES_ROWS", "30000000"))
SCORED_ROWS = LARGE_ROWS // 3
SKEWED_EVENTS = 100_000
TTL = timedelta(days=30)
SAMPLED_EVERY_S = 0.2
Figures = Iterator[tuple[str, float, str]]


def beside_others(folder: Path) -> Figures:
    """Through Feast's SDK with either store, and a script in polars; the answers of all three are the same.

    As dense as flights are, of which each is an event of each view: as many events as rows, of as many keys as there
    are aircraft. Of fewer keys, as of airports, Feast's DuckDB store needs more memory than there is.
    """
    import polars as pl
    from world import write_world

    write_world(folder / "small", SMALL_ROWS, SMALL_EVENTS, SMALL_KEYS)
    entities = pl.read_parquet(folder / "small" / "rows").to_pandas()
    ours = _best(3, lambda: _by_feast(folder, entities, "mlops_ray.features.offline_store.AsOfOfflineStore"))
    duckdb = _best(1, lambda: _by_feast(folder, entities, "duckdb"))
    script = _best(3, lambda: _by_polars(folder / "small", entities))
    columns = sorted(ours.rows.columns)
    first, *others = (one.rows.sort("n").select(columns) for one in (ours, duckdb, script))
    for other in others:
        if not first.drop("event_timestamp").equals(other.drop("event_timestamp")):
            raise SystemExit("The answers differ.")
    yield "seconds_300k", ours.seconds, f"s for {SMALL_ROWS:,} rows, 3 views, 12 features, once imported"
    yield "seconds_300k_feast_duckdb", duckdb.seconds, "s"
    yield "seconds_300k_polars", script.seconds, "s"
    yield "speedup_vs_feast_duckdb", duckdb.seconds / ours.seconds, "x"
    yield "time_vs_polars_asof", ours.seconds / script.seconds, "x"


def skew(folder: Path) -> Figures:
    """So many events of one key beside keys with one each, against as many spread evenly over the keys."""
    import numpy as np
    import polars as pl
    from world import moments

    from mlops_ray.features.history_source import HistorySource, join_sources

    random = np.random.default_rng(4)
    spread = random.integers(0, SKEWED_EVENTS, 2 * SKEWED_EVENTS)
    one = np.concatenate([np.zeros(SKEWED_EVENTS, np.int64), np.arange(SKEWED_EVENTS)])
    seconds = {}
    for name, keys in (("even", spread), ("skewed", one)):
        at = moments(random, len(keys), 0, 1)
        history = pl.DataFrame({"key": random.permutation(keys), "value": random.normal(size=len(keys))})
        history.with_columns(at).write_parquet(folder / f"{name}.parquet")
        columns = {"key": "key", "value": "value"}
        url = str(folder / f"{name}.parquet")
        source = HistorySource(name, (url,), "event_timestamp", columns, {"key": "key"}, ("value",), TTL)
        asked = pl.DataFrame({"key": random.choice(keys, SMALL_ROWS)}).with_columns(moments(random, SMALL_ROWS, 0, 1))
        seconds[name] = _best(3, lambda rows=asked, of=source: join_sources(rows, "event_timestamp", [of])).seconds
    yield "skew_ratio", seconds["skewed"] / seconds["even"], f"x, one key with {SKEWED_EVENTS:,} events"


def large(folder: Path) -> Figures:
    from world import write_world

    found = {}
    for rows in (LARGE_ROWS // 10, LARGE_ROWS):
        write_world(folder / "large", rows, rows // 3, 100_000)
        found[rows] = _run(folder, "large", "join_side.py")
        shutil.rmtree(folder / "large")
        if found[rows].found["rows"] != rows:
            raise SystemExit(f"Of {rows} rows {found[rows].found['rows']} were joined.")
    few, many = (found[rows] for rows in (LARGE_ROWS // 10, LARGE_ROWS))
    per_million = [one.seconds / rows * 1e6 for rows, one in found.items()]
    yield "seconds_per_million_3m", per_million[0], f"s, of {LARGE_ROWS // 10:,} rows in {few.found['slices']} slices"
    yield "seconds_per_million_30m", per_million[1], f"s, of {LARGE_ROWS:,} rows in {many.found['slices']} slices"
    yield "row_cost_ratio_30m", per_million[1] / per_million[0], "x, of the time for each row"
    yield "peak_mb_30m", many.peak_mb, "MB, of the process that took most"


def scoring(folder: Path) -> Figures:
    from score_side import write_rows

    found = {}
    for rows in (SCORED_ROWS // 10, SCORED_ROWS):
        write_rows(folder / "scored", rows)
        found[rows] = _run(folder, "scored", "score_side.py")
        shutil.rmtree(folder / "scored")
        shutil.rmtree(folder / "output-scored")
    few, many = (one.seconds / rows * 1e6 for rows, one in found.items())
    yield "scoring_seconds_per_million_1m", few, f"s, of {SCORED_ROWS // 10:,} rows"
    yield "scoring_seconds_per_million_10m", many, f"s, of {SCORED_ROWS:,} rows"
    yield "scoring_row_cost_ratio", many / few, "x, of the time for each row"
    yield "scoring_peak_mb", found[SCORED_ROWS].peak_mb, "MB, of the process that took most"


@dataclass(frozen=True)
class _Timed:
    seconds: float
    rows: Any


@dataclass(frozen=True)
class _Side:
    """seconds: as the side tells, once it has imported what it needs and Ray runs."""

    seconds: float
    peak_mb: float
    found: dict[str, Any]


def _best(times: int, work: Callable[[], Any]) -> _Timed:
    """The fastest of so many, after one that imports and opens what all need."""
    best, rows = float("inf"), work()
    for _ in range(times):
        started = time.monotonic()
        rows = work()
        best = min(best, time.monotonic() - started)
    return _Timed(best, rows)


def _by_feast(folder: Path, entities: Any, store: str) -> Any:
    import polars as pl
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float64
    from world import FEATURES, VIEWS

    database = folder / f"registry-{store}.db"
    config = RepoConfig(
        project="bench", provider="local", entity_key_serialization_version=3,
        registry={"registry_type": "sql", "path": f"sqlite:///{database}"},
        offline_store={"type": store}, online_store={"type": "sqlite", "path": str(folder / "online.db")},
    )  # fmt: skip
    fresh = not database.exists()
    feast = FeatureStore(config=config)
    if fresh:
        for view, ttl in VIEWS.items():
            path = str(next((folder / "small" / view).iterdir()))
            entity = Entity(name=view, value_type=ValueType.INT64)
            fields = [Field(name=f"{view}_{n}", dtype=Float64) for n in range(FEATURES)]
            source = FileSource(name=view, path=path, timestamp_field="event_timestamp")
            feast.apply([entity, FeatureView(name=view, entities=[entity], ttl=ttl, schema=fields, source=source)])
    asked = [f"{view}:{view}_{n}" for view in VIEWS for n in range(FEATURES)]
    return pl.from_arrow(feast.get_historical_features(entity_df=entities, features=asked).to_arrow())


def _by_polars(folder: Path, entities: Any) -> Any:
    import polars as pl
    from world import FEATURES, VIEWS

    rows = pl.from_pandas(entities).with_columns(pl.col("event_timestamp").cast(pl.Datetime("us", "UTC")))
    rows = rows.sort("event_timestamp")
    for view, ttl in VIEWS.items():
        history = pl.read_parquet(folder / view).with_columns(known="event_timestamp").sort("event_timestamp")
        rows = rows.join_asof(history, on="event_timestamp", by=view, check_sortedness=False)
        fresh = pl.col("event_timestamp") - pl.col("known") <= ttl
        names = [f"{view}_{n}" for n in range(FEATURES)]
        rows = rows.with_columns(pl.when(fresh).then(pl.col(name)).alias(name) for name in names).drop("known")
    return pl.from_arrow(rows.to_arrow())


def _run(folder: Path, rows: str, side: str) -> _Side:
    output = folder / f"output-{rows}"
    shutil.rmtree(output, ignore_errors=True)
    environment = {**os.environ, "POLARS_MAX_THREADS": str(CORES), "OMP_NUM_THREADS": str(CORES)}
    command = [str(part) for part in (sys.executable, SIDES / side, folder / rows, output, CORES)]
    process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    peaks: list[float] = []
    watching = threading.Thread(target=_watch, args=(process, peaks))
    watching.start()
    printed, _ = process.communicate()
    watching.join()
    if process.returncode:
        raise SystemExit(f"{side} ended with {process.returncode}.")
    found = json.loads(printed.splitlines()[-1])
    return _Side(found.pop("seconds"), max(peaks), found)


def _watch(process: psutil.Process, peaks: list[float]) -> None:
    """Note the most memory that the process or one that it started has had so far, until it ends."""
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        for one in (process, *process.children(recursive=True)):
            try:
                status = Path(f"/proc/{one.pid}/status").read_text()
            except OSError:
                continue
            peaks += [int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")]
        time.sleep(SAMPLED_EVERY_S)


def _in_a_folder(part: Callable[[Path], Figures]) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        yield from part(Path(folder))


def _of_path(name: str) -> Figures:
    yield from importlib.import_module(f"feature_paths.{name}").figures()


PARTS: dict[str, Callable[[], Figures]] = {
    **{part.__name__: partial(_in_a_folder, part) for part in (beside_others, skew, large, scoring)},
    **{name: partial(_of_path, name) for name in ("incremental", "online")},
}
