"""Feast definitions of the views of the flights use case that are functions; those of windows follow from the use case.

What is defined here stands: a view or the whole feature service may be defined here as well, as Feast has it.
"""

from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64

origin = Entity(name="origin", value_type=ValueType.STRING)
tailnum = Entity(name="tailnum", value_type=ValueType.STRING)


def rows_of(view: str) -> FileSource:
    """Where the view's rows lie below the artifact root; filled in when mlops_ray applies the definitions."""
    return FileSource(name=view, path=f"{view}.parquet", timestamp_field="event_timestamp")


weather = FeatureView(
    name="weather",
    entities=[origin],
    ttl=timedelta(hours=3),
    schema=[
        Field(name=name, dtype=Float64)
        for name in ("temp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    ],
    source=rows_of("weather"),
)

plane = FeatureView(
    name="plane",
    entities=[tailnum],
    ttl=timedelta(days=3650),
    schema=[Field(name="plane_year", dtype=Int64), Field(name="plane_seats", dtype=Int64)],
    source=rows_of("plane"),
)
