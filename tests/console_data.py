"""Data of a use case as a console shows it: two snapshots with profiles, refused records, and a column of persons."""

from pathlib import Path

import polars as pl

from mlops_ray import Column, Label, Source, UseCase
from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.exploration.kept import keep_profile
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.ingestion.snapshot import Snapshot
from mlops_ray.training.candidates import GradientBoosting

PERSON = "Ada Lovelace"


def ingest_twice(settings: Settings, odd: str = "gate", value: str = "B12") -> list[Snapshot]:
    """Of `flights` sources trips, with a column named `odd` that holds `value`, and guests, who are persons."""
    name = odd.replace('"', '""')
    columns = (Column("id", "integer"), Column("at", "timestamp"), Column("delay", "number"), Column(odd, "text"))
    guests = (Column("id", "integer"), Column("guest", "text", personal="hash"), Column("bag", "text"))
    case = UseCase(
        name="flights",
        sources={
            "trips": Source(path="trips_*.csv", columns=columns, key=("id",), known_at=pl.col("at")),
            "guests": Source(
                path="guests.csv", columns=guests, key=("id",), derived={"initial": pl.col("guest").str.head(1)}
            ),
        },
        entities=("id",),
        event_time="at",
        label=Label("late", value=pl.col("delay") > 0, known_at=pl.col("at")),
        candidates=(GradientBoosting(),),
    )
    folder, artifacts, found = Path(settings.data), Artifacts(settings.artifacts), []
    (folder / "guests.csv").write_text(
        "".join(["id,guest,bag\n", *(f"{n},{PERSON},red\n" for n in range(40)), "x,y\n"])
    )
    for number, (rows, shift) in enumerate([(200, 0), (400, 50)]):
        said = value.replace('"', '""')
        lines = [f'id,at,delay,"{name}"']
        lines += [
            f'{number * 1000 + n},2025-0{5 + number}-{1 + n % 28:02d}T00:00:00Z,{shift + n % 37},"{said}"'
            for n in range(rows)
        ]
        lines += [
            f'{number * 1000 + 999},not a time,1,"{said}"',
            f'{number * 1000 + 998},2025-05-01T00:00:00Z,late,"x"',
        ]
        (folder / f"trips_{number}.csv").write_text("\n".join(lines) + "\n")
        snapshot = ingest(case, settings, None, "code", {"trips": "c", "guests": "c"})
        keep_profile(artifacts, snapshot)
        found.append(snapshot)
    return found
