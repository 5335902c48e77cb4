"""Feast definitions of the flights use case. A view's ttl is the window it looks back over."""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64

origin = Entity(name="origin", value_type=ValueType.STRING)
dest = Entity(name="dest", value_type=ValueType.STRING)
carrier = Entity(name="carrier", value_type=ValueType.STRING)
flight = Entity(name="flight", value_type=ValueType.INT64)
tailnum = Entity(name="tailnum", value_type=ValueType.STRING)


def rows_of(view: str) -> FileSource:
    """Where the view's rows lie below the artifact root; filled in when mlops_ray applies the definitions."""
    return FileSource(name=view, path=f"{view}.parquet", timestamp_field="event_timestamp")


def recent(name: str, entities: list[Entity], window: timedelta) -> FeatureView:
    statistics = ("departure_delay", "arrival_delay", "late_share", "last_departure_delay", "last_arrival_delay")
    return FeatureView(
        name=name,
        entities=entities,
        ttl=window,
        schema=[Field(name=f"{name}_{statistic}", dtype=Float64) for statistic in statistics],
        source=rows_of(name),
    )


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

origin_3h = recent("origin_3h", [origin], timedelta(hours=3))
destination_3h = recent("destination_3h", [dest], timedelta(hours=3))
carrier_3h = recent("carrier_3h", [carrier], timedelta(hours=3))
aircraft_24h = recent("aircraft_24h", [tailnum], timedelta(hours=24))
route_7d = recent("route_7d", [origin, dest], timedelta(days=7))
flight_number_7d = recent("flight_number_7d", [carrier, flight], timedelta(days=7))

flights = FeatureService(
    name="flights",
    features=[
        weather,
        plane,
        origin_3h,
        destination_3h,
        carrier_3h,
        aircraft_24h,
        route_7d,
        flight_number_7d,
    ],
)
