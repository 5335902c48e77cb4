"""A new day after a year: what the views of flights and their refresh online cost, beside the day's rows alone."""

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, load_settings
from mlops_ray.features.declared_views import declared_views
from mlops_ray.features.definitions import Definitions, read_definitions
from mlops_ray.features.online.materialize import materialize
from mlops_ray.features.transform import transform
from mlops_ray.ingestion.snapshot import ACCEPTED, SNAPSHOTS, LineCounts, Snapshot, SourceCounts
from mlops_ray.use_case import Source, UseCase, load_use_case

ROOT = Path(__file__).parents[2]
COPIES = 8  # of the year's flights, each of carriers and aircraft of its own: 2.7 million
TABLE_ROWS = 100_000  # as a snapshot's tables have
LAST_DAY, DAY = datetime(2013, 12, 31, tzinfo=UTC), timedelta(days=1)
_KINDS = {"integer": pl.Int64, "number": pl.Float64, "text": pl.String}


def figures() -> Iterator[tuple[str, float, str]]:
    case = load_use_case(str(ROOT / "use_cases" / "flights.py"))
    definitions = read_definitions(ROOT / "feature_repo", "flights", declared=declared_views(case))
    assert definitions is not None
    with tempfile.TemporaryDirectory() as folder:
        tables = _tables(case, Path(folder) / "raw")
        departure = pl.col("scheduled_departure")
        year = {**tables, "flights": tables["flights"].filter(departure < LAST_DAY)}
        day = {**tables, "flights": tables["flights"].filter(departure >= LAST_DAY)}
        here = load_settings(state=str(Path(folder) / "year"), data=folder)
        first = _costs(case, here, definitions, year, LAST_DAY)
        more = _costs(case, here, definitions, tables, LAST_DAY + DAY)
        there = load_settings(state=str(Path(folder) / "day"), data=folder)
        alone = _costs(case, there, definitions, day, LAST_DAY + DAY)
    for name, one in (("a year", first), ("a day more", more), ("the day alone", alone)):
        print(f"{name}: transforms {one.transforms_s:.2f} s, online {one.online_s:.2f} s", file=sys.stderr)
    transforms, refresh = more.transforms_s / alone.transforms_s, more.refresh_s / alone.refresh_s
    yield "incremental_transforms_ratio", transforms, "x, what the day's rows alone cost"
    yield "incremental_refresh_ratio", refresh, "x, with what brings them online"
    yield "incremental_ratio", max(transforms, refresh), "x"


@dataclass(frozen=True)
class _Costs:
    transforms_s: float
    online_s: float

    @property
    def refresh_s(self) -> float:
        return self.transforms_s + self.online_s


def _costs(
    case: UseCase, settings: Settings, definitions: Definitions, tables: dict[str, pl.DataFrame], as_of: datetime
) -> _Costs:
    snapshot = write_snapshot(Artifacts(settings.artifacts), case, tables)
    started = time.monotonic()
    rows = transform(case, settings, snapshot, definitions, _start_ray)
    transformed = time.monotonic()
    materialize(settings, definitions, rows, as_of)
    return _Costs(transformed - started, time.monotonic() - transformed)


def _start_ray() -> None:
    import ray

    if not ray.is_initialized():
        ray.init(address="local", log_to_driver=False)


def write_snapshot(artifacts: Artifacts, case: UseCase, tables: dict[str, pl.DataFrame]) -> Snapshot:
    """A snapshot of tables as ingest would have written it, without the hours that it takes to judge so many rows."""
    digest, parts = str(tables["flights"].height), dict[str, dict[str, str]]()
    for source, table in tables.items():
        parts[source] = {}
        for number, rows in enumerate(table.iter_slices(TABLE_ROWS)):
            place = (SNAPSHOTS, case.name, digest, source, ACCEPTED, f"part-{number:05}.parquet")
            artifacts.write_table(rows, *place)
            parts[source][place[-1]] = artifacts.sha256(*place)
    lines = LineCounts(0, 0, 0, 0, 0)
    counts = {name: SourceCounts(len(one), len(one), 0, 0, 0, {}, {}, lines) for name, one in tables.items()}
    content = {name: {"accepted": str(one.height), "quarantined": ""} for name, one in tables.items()}
    return Snapshot(case.name, digest, LAST_DAY + timedelta(days=2), "", "", counts, content, {}, parts=parts)


def _tables(case: UseCase, folder: Path) -> dict[str, pl.DataFrame]:
    sys.path.insert(0, str(ROOT))
    from use_cases.flights_raw_data import write_raw_data

    write_raw_data(folder)
    tables = {name: _read(folder, source) for name, source in case.sources.items()}
    flown = tables["flights"]
    copies = [
        flown.with_columns(
            pl.concat_str(pl.col("carrier").str.slice(0, 1), pl.lit(chr(ord("A") + number))).alias("carrier"),
            pl.concat_str(pl.col("tailnum"), pl.lit(chr(ord("A") + number))).alias("tailnum"),
        )
        for number in range(COPIES)
    ]
    return {**tables, "flights": pl.concat(copies).sort("scheduled_departure", maintain_order=True)}


def _read(folder: Path, source: Source) -> pl.DataFrame:
    text = pl.read_csv(folder / str(source.path), infer_schema=False, null_values=["", "NA"])
    frame = text.select(
        pl.col(one.name).str.to_datetime(time_zone="UTC", time_unit="us")
        if one.type == "timestamp"
        else pl.col(one.name).cast(_KINDS[one.type])
        for one in source.columns
    )
    for name, expression in source.derived.items():
        frame = frame.with_columns(expression.alias(name))
    return frame
