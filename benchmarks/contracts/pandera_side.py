"""The same contract in pandera, on polars; runs in an environment of its own. Prints seconds, as JSON.

    python benchmarks/contracts/pandera_side.py FOLDER OUTPUT

Texts are trimmed before, as pandera repairs nothing. Writes the rows without a failure, and the failures.
"""

import json
import sys
import time
from pathlib import Path

import pandera.polars as pa
import polars as pl
from polars_side import COLUMNS, KEY, LIMITS, PATTERNS, REQUIRED, TEXTS


def schema() -> pa.DataFrameSchema:
    def checks(name: str) -> list[pa.Check]:
        found = [pa.Check.in_range(*LIMITS[name])] if name in LIMITS else []
        found += [pa.Check.str_matches(PATTERNS[name])] if name in PATTERNS else []
        return found + ([pa.Check.isin(["EWR", "JFK", "LGA"])] if name == "origin" else [])

    delayed, flown = pl.col("arr_delay"), pl.col("air_time")
    together = {
        "landed_after_departure": delayed.is_null() | pl.col("dep_delay").is_not_null(),
        "flown_where_landed": delayed.is_null() == flown.is_null(),
        "speed": (pl.col("distance") / flown < 15).fill_null(True),
    }

    def check(name: str, rule: pl.Expr) -> pa.Check:
        return pa.Check(lambda data: data.lazyframe.select(rule.alias(name)), name=name)

    return pa.DataFrameSchema(
        {name: pa.Column(nullable=name not in REQUIRED, checks=checks(name)) for name in COLUMNS},
        checks=[check(name, rule) for name, rule in together.items()],
        unique=KEY,
    )


def main(folder: str, output: Path) -> None:
    output.mkdir(parents=True)
    started = time.perf_counter()
    rows = pl.read_parquet(f"{folder}/*.parquet", columns=COLUMNS).with_columns(pl.col(TEXTS).str.strip_chars())
    failures = pl.DataFrame(schema={"index": pl.Int64})
    try:
        schema().validate(rows, lazy=True)
    except pa.errors.SchemaErrors as found:
        failures = found.failure_cases
    refused = failures.select(pl.col("index").cast(pl.UInt32)).drop_nulls().unique()
    rows.with_row_index().join(refused, on="index", how="anti").drop("index").write_parquet(output / "accepted.parquet")
    failures.write_parquet(output / "failures.parquet")
    print(json.dumps({"seconds": time.perf_counter() - started, "refused": refused.height}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
