"""How many rows a second the column contract judges: a year of flights, as texts of a CSV file.

python benchmarks/contract.py DATA    # the folder of flights_*.csv; see use_cases/flights_raw_data.py
"""

import sys
import time
from pathlib import Path

import polars as pl

from mlops_ray import Source
from mlops_ray.ingestion.contract import REASON, REPAIRS, check_rows

sys.path.insert(0, str(Path(__file__).parents[1] / "use_cases"))
from flights import flights, weather

_REPEATS = 5


def measure(name: str, rows: pl.DataFrame, source: Source) -> None:
    seconds = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        judged = check_rows(rows, source, name, None)
        seconds.append(time.perf_counter() - began)
    refused, repaired = judged[REASON].is_not_null().sum(), judged[REPAIRS].is_not_null().sum()
    print(
        f"{name}: {rows.height:,} rows in {min(seconds):.3f} s, {rows.height / min(seconds):,.0f} rows/s, "
        f"{refused} refused, {repaired} repaired"
    )


def main(data: str) -> None:
    for name, source in (("flights", flights), ("weather", weather)):
        measure(name, pl.read_csv(f"{data}/{source.path}", infer_schema=False), source)


if __name__ == "__main__":
    main(sys.argv[1])
