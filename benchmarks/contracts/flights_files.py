"""Flights of 2013 repeated as Parquet files, a year later each time, with a few rows that break each rule.

python benchmarks/contracts/flights_files.py FOLDER ROWS
"""

import sys
from pathlib import Path

import polars as pl

DATA = Path(__file__).parents[2] / "data" / "flights"
YEAR_ROWS = 336_776
_SPOILED_EVERY = 1_009
_SPOILS = {
    "minute": pl.lit(75),
    "carrier": pl.lit("U"),
    "flight": pl.lit(12_345),
    "origin": pl.lit("PHL"),
    "dest": pl.lit(None, pl.String),
    "distance": pl.lit(0),
    "dep_delay": pl.lit(-500),
    "air_time": pl.lit(1),  # 15 miles a minute and more
    "tailnum": pl.lit(" N12345 "),  # trimmed, and accepted
}


def write_files(folder: Path, rows: int) -> None:
    """Write whole years until there are so many rows, the last one cut; one file each."""
    folder.mkdir(parents=True, exist_ok=True)
    year = pl.concat(
        pl.read_csv(file, null_values="NA", infer_schema_length=None) for file in sorted(DATA.glob("flights_*.csv"))
    )
    year = _spoiled(year.with_columns(pl.col("time_hour").str.to_datetime("%+", time_unit="us")))
    for copy in range(-(-rows // year.height)):
        part = year.head(rows - copy * year.height)
        part = part.with_columns(pl.col("time_hour").dt.offset_by(f"{copy}y"), pl.col("year") + copy)
        part.write_parquet(folder / f"flights_{2013 + copy}.parquet", row_group_size=65_536)


def _spoiled(year: pl.DataFrame) -> pl.DataFrame:
    """Every so many-th row breaks a rule, each rule in turn; and one of them comes twice."""
    rows = year.with_row_index("row")
    turn = (pl.col("row") // _SPOILED_EVERY) % len(_SPOILS)
    for number, (column, value) in enumerate(_SPOILS.items()):
        here = (pl.col("row") % _SPOILED_EVERY == 0) & (turn == number)
        rows = rows.with_columns(pl.when(here).then(value).otherwise(column).alias(column))
    return pl.concat([rows.drop("row").slice(1, year.height - 1), year.slice(7, 1)])


if __name__ == "__main__":
    write_files(Path(sys.argv[1]), int(sys.argv[2]))
