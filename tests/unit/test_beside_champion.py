"""A rollout is stopped by what is wrong with its version, not by a world that has changed for the champion too."""

from dataclasses import replace
from datetime import timedelta

import polars as pl
import pytest

from mlops_ray.monitoring.alarm_change import AlarmChange
from mlops_ray.monitoring.beside_champion import Rollout
from mlops_ray.monitoring.observation import moments_of, observe
from mlops_ray.monitoring.reference import to_datetime
from mlops_ray.monitoring.version_watch import VersionWatch, Watched
from mlops_ray.testing.example_stream import START, example_stream, example_watched

# The candidate was trained on other rows, so its bins are others.
CHAMPION, CANDIDATE = (replace(example_watched(*one), importance={}) for one in (("7", 1), ("8", 5)))
DAYS = 4


def stream(seed: int, shifted: bool = False, gone: bool = False) -> pl.DataFrame:
    rows = example_stream(DAYS, seed, START + timedelta(days=1)).rename({"probability": "prediction"})
    if shifted:
        rows = rows.with_columns(pl.col("distance") + 600)
    return rows.with_columns(recent_delay=pl.lit(None, pl.Float64)) if gone else rows


def rolled_out(champion: pl.DataFrame, candidate: pl.DataFrame) -> list[AlarmChange]:
    """What is announced about the candidate while both take traffic, day by day."""
    watches, changes = {"7": VersionWatch("7"), "8": VersionWatch("8")}, []
    for day in range(DAYS):
        for watched, rows in ((CHAMPION, champion), (CANDIDATE, candidate)):
            begin = START + timedelta(days=1 + day)
            part = rows.filter(pl.col("time").is_between(begin, begin + timedelta(days=1), closed="left"))
            seen = observed(watches, watched, part)
            watches[watched.version] = VersionWatch.from_bytes(seen[0].to_bytes())
            changes += seen[1] if watched is CANDIDATE else []
    return changes


def observed(
    watches: dict[str, VersionWatch], watched: Watched, rows: pl.DataFrame
) -> tuple[VersionWatch, list[AlarmChange]]:
    moment, version = moments_of(rows["time"]), watched.version
    rollout = Rollout(None if version == "7" else watches["7"])
    end = to_datetime(moment[-1])
    found = observe(watches[version], watched, rows, moment, moment, end, lambda: version, rollout)
    return found.watch, list(found.changes)


def test_a_shift_that_the_champion_sees_as_well_stops_no_rollout() -> None:
    changes = rolled_out(stream(21, shifted=True), stream(22, shifted=True))
    about_data = [change for change in changes if change.question == "data"]
    assert about_data, "it is seen"
    assert {change.severity for change in about_data} == {"info"}, "and nobody acts on it"
    assert "The champion's requests of that time are like these" in about_data[0].title


@pytest.mark.parametrize("wrong", ["shifted", "gone"])
def test_what_only_the_new_version_is_given_stops_its_rollout(wrong: str) -> None:
    changes = rolled_out(stream(21), stream(22, **{wrong: True}))
    found = [change for change in changes if change.question == "data"]
    assert found[0].severity in ("warning", "critical")
    assert found[0].payload["findings"][0]["column"] == {"shifted": "distance", "gone": "recent_delay"}[wrong]


def test_without_traffic_of_the_champion_nothing_is_done() -> None:
    rows = stream(22, shifted=True)
    watches = {"7": VersionWatch("7"), "8": VersionWatch("8")}
    _, changes = observed(watches, CANDIDATE, rows)
    assert {change.severity for change in changes} == {"info"}
    assert "nothing of that time to compare with" in changes[0].title
