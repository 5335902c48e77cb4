"""The same contract as a script in polars, as somebody writes it by hand; prints seconds and what became of the rows.

    python benchmarks/contracts/polars_side.py FOLDER OUTPUT

Writes the accepted rows, those of each file apart, and the refused ones with their file, place and all reasons.
"""

import json
import sys
import time
from collections import Counter
from pathlib import Path

import polars as pl

KEY = ["time_hour", "carrier", "flight", "origin"]
TEXTS = ["carrier", "tailnum", "origin", "dest"]
LIMITS = {
    "minute": (0, 59),
    "flight": (1, 9999),
    "distance": (1, 6000),
    "dep_delay": (-120, 2880),
    "arr_delay": (-180, 2880),
    "air_time": (1, 1200),
}
PATTERNS = {"carrier": "^[A-Z0-9]{2}$", "tailnum": "^[A-Z0-9]{2,8}$", "dest": "^[A-Z]{3}$"}
REQUIRED = ["time_hour", "minute", "carrier", "flight", "origin", "dest", "distance"]
COLUMNS = [*REQUIRED, "tailnum", "dep_delay", "arr_delay", "air_time"]


def flags() -> dict[str, pl.Expr]:
    column = pl.col
    of_columns = {
        **{f"{name}:missing": column(name).is_null() for name in REQUIRED},
        **{f"{name}:out_of_range": ~column(name).is_between(low, high) for name, (low, high) in LIMITS.items()},
        **{f"{name}:pattern": ~column(name).str.contains(pattern) for name, pattern in PATTERNS.items()},
        "origin:not_a_choice": ~column("origin").is_in(["EWR", "JFK", "LGA"]),
    }
    rules = {
        "landed_after_departure": column("arr_delay").is_null() | column("dep_delay").is_not_null(),
        "flown_where_landed": column("arr_delay").is_null() == column("air_time").is_null(),
        "speed": column("distance") / column("air_time") < 15,
    }
    readable = ~pl.any_horizontal(flag.fill_null(False) for flag in of_columns.values())
    return {**of_columns, **{f"rule:{name}": readable & ~rule for name, rule in rules.items()}}


def main(folder: str, output: Path) -> None:
    output.mkdir(parents=True)
    started = time.perf_counter()
    rows = pl.scan_parquet(f"{folder}/*.parquet", include_file_paths="file", row_index_name="place")
    trimmed = [pl.col(name).str.strip_chars().alias(name) for name in TEXTS]
    changed = pl.any_horizontal(pl.col(name) != pl.col(name).str.strip_chars() for name in TEXTS)
    rows = rows.select(*COLUMNS, "file", "place").with_columns(*trimmed, changed.fill_null(False).alias("repaired"))
    codes = [pl.when(flag).then(pl.lit(code)) for code, flag in flags().items()]
    reason = pl.concat_str(codes, separator=";", ignore_nulls=True).replace("", None)
    judged = rows.with_columns(reason.alias("reason")).collect(engine="streaming")
    accepted = judged.filter(pl.col("reason").is_null())
    first = pl.struct(KEY).is_first_distinct()
    twice = accepted.filter(~first).with_columns(reason=pl.lit("duplicate_key"))
    accepted = accepted.filter(first)
    refused = pl.concat([judged.filter(pl.col("reason").is_not_null()), twice])
    for number, (_, part) in enumerate(accepted.group_by("file", maintain_order=True)):
        part.select(COLUMNS).write_parquet(output / f"accepted-{number:05}.parquet")
    refused.sort("file", "place").write_parquet(output / "refused.parquet")
    seconds = time.perf_counter() - started
    reasons = Counter(code for text in refused["reason"] for code in text.split(";"))
    found = {
        "accepted": accepted.height,
        "repaired": int(accepted["repaired"].sum()),
        "reasons": dict(sorted(reasons.items())),
    }
    print(json.dumps({"seconds": seconds, **found}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
