"""The same contract in dataframely; runs in an environment of its own. Prints seconds and what became of the rows.

    python benchmarks/contracts/dataframely_side.py FOLDER OUTPUT

Texts are trimmed before, as dataframely repairs nothing. Writes the good rows, and the others.
"""

import json
import sys
import time
from pathlib import Path

import dataframely as dy
import polars as pl
from polars_side import COLUMNS, KEY, LIMITS, PATTERNS, TEXTS


def integer(name: str) -> dy.Int64:
    low, high = LIMITS[name]
    return dy.Int64(nullable=name.endswith(("delay", "time")), min=low, max=high, primary_key=name in KEY)


class Flights(dy.Schema):
    time_hour = dy.Datetime(primary_key=True, time_zone="UTC", time_unit="us")
    minute = integer("minute")
    carrier = dy.String(primary_key=True, regex=PATTERNS["carrier"])
    flight = integer("flight")
    tailnum = dy.String(nullable=True, regex=PATTERNS["tailnum"])
    origin = dy.String(primary_key=True, check=lambda origin: origin.is_in(["EWR", "JFK", "LGA"]))
    dest = dy.String(nullable=False, regex=PATTERNS["dest"])
    distance = integer("distance")
    dep_delay = integer("dep_delay")
    arr_delay = integer("arr_delay")
    air_time = integer("air_time")

    @dy.rule()
    def landed_after_departure(cls) -> pl.Expr:
        return pl.col("arr_delay").is_null() | pl.col("dep_delay").is_not_null()

    @dy.rule()
    def flown_where_landed(cls) -> pl.Expr:
        return pl.col("arr_delay").is_null() == pl.col("air_time").is_null()

    @dy.rule()
    def speed(cls) -> pl.Expr:
        return pl.col("distance") / pl.col("air_time") < 15


def main(folder: str, output: Path) -> None:
    output.mkdir(parents=True)
    started = time.perf_counter()
    rows = pl.read_parquet(f"{folder}/*.parquet", columns=COLUMNS).with_columns(pl.col(TEXTS).str.strip_chars())
    good, failures = Flights.filter(rows)
    refused = failures.details()
    good.write_parquet(output / "accepted.parquet")
    refused.write_parquet(output / "refused.parquet")
    found = {"accepted": good.height, "refused": refused.height, "reasons": failures.counts()}
    print(json.dumps({"seconds": time.perf_counter() - started, **found}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
