"""The flights with all 45 features, joined in memory by polars: the rows of the training set, without the pipeline."""

import sys
import tempfile
from pathlib import Path

import polars as pl

from mlops_ray.use_case import Feature, Source, UseCase, load_use_case

ROOT = Path(__file__).parents[2]
TIME = "event_timestamp"
LONGEST = {"weather": "3h", "plane": "3650d", "aircraft_24h": "24h", "route_7d": "7d", "flight_number_7d": "7d"}


def flights() -> tuple[pl.DataFrame, list[Feature]]:
    """Rows by time, with `event_timestamp`, `late` (null if cancelled) and the features; and the features."""
    use_case = load_use_case(str(ROOT / "use_cases" / "flights.py"))
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, str(ROOT))
        from use_cases.flights_raw_data import write_raw_data

        write_raw_data(Path(folder))
        tables = {name: _read(Path(folder), source) for name, source in use_case.sources.items()}
    rows = tables["flights"].with_columns((pl.col(use_case.event_time) - use_case.lead_time).alias(TIME))
    given = rows.columns
    rows = rows.with_columns(late=use_case.label.value, **use_case.features_of_request()).sort(TIME)
    for name, view in use_case.feature_views.items():
        rows = _join(rows, name, view(tables), use_case)
    names = [
        *use_case.features_of_request(),
        *(c for c in rows.columns if c not in (*given, *use_case.features_of_request())),
    ]
    names = [name for name in dict.fromkeys(names) if name != "late"]
    features = [Feature(name, "category" if rows.schema[name] == pl.String else "number") for name in names]
    return rows.select(TIME, "late", *names), features


def _read(folder: Path, source: Source) -> pl.DataFrame:
    types = {"integer": pl.Int64, "number": pl.Float64, "text": pl.String}
    text = pl.read_csv(folder / source.path, infer_schema=False, null_values=["", "NA"])
    frame = text.select(
        pl.col(c.name).str.to_datetime(time_zone="UTC", time_unit="us")
        if c.type == "timestamp"
        else pl.col(c.name).cast(types[c.type])
        for c in source.columns
    ).unique(source.key, keep="first", maintain_order=True)
    for name, expression in source.derived.items():
        frame = frame.with_columns(expression.alias(name))
    return frame


def _join(rows: pl.DataFrame, name: str, events: pl.DataFrame, use_case: UseCase) -> pl.DataFrame:
    """The latest values at each row's moment that are not older than the view's time to live."""
    keys = [column for column in use_case.entities if column in events.columns]
    events = events.drop_nulls(keys).sort(TIME)
    return rows.join_asof(events, on=TIME, by=keys, tolerance=LONGEST.get(name, "3h"), check_sortedness=False)
