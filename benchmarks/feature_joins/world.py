"""Entity rows and the histories of three views, of any size, as Parquet files in the order of time."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

START, DAYS = datetime(2013, 1, 1, tzinfo=UTC), 365
FILE_ROWS = 3_000_000
VIEWS = {"airport": timedelta(hours=6), "aircraft": timedelta(days=30), "route": timedelta(days=3650)}
FEATURES = 4


def moments(random: np.random.Generator, rows: int, first: float, last: float) -> pl.Series:
    """Ascending, in the part of the year from first to last, each a fraction."""
    us = np.sort(random.integers(int(first * DAYS * 86_400e6), int(last * DAYS * 86_400e6), rows))
    return pl.Series("event_timestamp", us + int(START.timestamp() * 1e6)).cast(pl.Datetime("us", "UTC"))


def write_world(folder: Path, rows: int, events: int, keys: int) -> None:
    """`rows` to join, `events` of each view, each about one of `keys` keys."""
    for number, at in enumerate(range(0, rows, FILE_ROWS)):
        here = min(FILE_ROWS, rows - at)
        random = np.random.default_rng([1, number])
        frame = {view: random.integers(0, keys, here) for view in VIEWS}
        part = pl.DataFrame(frame).with_columns(
            moments(random, here, at / rows, (at + here) / rows), n=np.arange(at, at + here)
        )
        _write(part, folder / "rows" / f"{number:05}.parquet")
    for place, view in enumerate(VIEWS):
        for number, at in enumerate(range(0, events, FILE_ROWS)):
            here = min(FILE_ROWS, events - at)
            random = np.random.default_rng([2, place, number])
            values = {f"{view}_{n}": random.normal(size=here) for n in range(FEATURES)}
            part = pl.DataFrame({view: random.integers(0, keys, here)} | values)
            at_moments = moments(random, here, at / events, (at + here) / events)
            _write(part.with_columns(at_moments), folder / view / f"{number:05}.parquet")


def _write(part: pl.DataFrame, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part.write_parquet(file, row_group_size=250_000)
