"""The contract that every side of the comparison checks: 16 rules on the columns of flights, declared as a source."""

import polars as pl

from mlops_ray import Column, Source

KEY = ("time_hour", "carrier", "flight", "origin")
SOURCE = Source(
    path="flights_*.parquet",
    key=KEY,
    columns=(
        Column("time_hour", "timestamp"),
        Column("minute", "integer", minimum=0, maximum=59),
        Column("carrier", "text", pattern="[A-Z0-9]{2}"),
        Column("flight", "integer", minimum=1, maximum=9999),
        Column("tailnum", "text", nullable=True, pattern="[A-Z0-9]{2,8}"),
        Column("origin", "text", choices=("EWR", "JFK", "LGA")),
        Column("dest", "text", pattern="[A-Z]{3}"),
        Column("distance", "integer", minimum=1, maximum=6000),
        Column("dep_delay", "integer", nullable=True, minimum=-120, maximum=2880),
        Column("arr_delay", "integer", nullable=True, minimum=-180, maximum=2880),
        Column("air_time", "integer", nullable=True, minimum=1, maximum=1200),
    ),
    rules={
        "landed_after_departure": pl.col("arr_delay").is_null() | pl.col("dep_delay").is_not_null(),
        "flown_where_landed": pl.col("arr_delay").is_null() == pl.col("air_time").is_null(),
        "speed": pl.col("distance") / pl.col("air_time") < 15,
    },
)
