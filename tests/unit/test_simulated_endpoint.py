"""What is simulated about an endpoint in memory is what its watch decides from ledger and labels."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from benchmarks.drift.endpoint import Endpoint
from mlops_ray.artifacts import Artifacts
from mlops_ray.monitoring.alarm_change import AlarmChange
from mlops_ray.monitoring.label_times import LabelTimes
from mlops_ray.testing.example_stream import START, example_stream, write_example_segments
from tests.unit.test_drift_watch import DAY, NAME, WATCHED, Watching, said, tell

DAYS = 16


@pytest.mark.parametrize("delay", [timedelta(hours=1), timedelta(days=2)])
def test_the_simulated_endpoint_announces_what_the_watch_does(tmp_path: Path, delay: timedelta) -> None:
    """Longer distances from the fourth day on, for five days; and flipped labels of an origin from the tenth on."""
    rows = example_stream(DAYS, 33)
    far = pl.col("time").is_between(START + 4 * DAY, START + 9 * DAY)
    flipped = (pl.col("origin") == "EWR") & (pl.col("time") >= START + 10 * DAY)
    rows = rows.with_columns(
        pl.col("distance") + pl.when(far).then(600.0).otherwise(0.0), label=flipped ^ pl.col("label")
    ).with_columns(known_at=pl.col("time") + delay)
    artifacts = Artifacts(str(tmp_path))
    watching, endpoint = Watching(artifacts), Endpoint(WATCHED, LabelTimes())
    ids: list[str] = []
    simulated: list[AlarmChange] = []
    for day in range(1, DAYS + 1):
        now = START + day * DAY
        new = rows.filter(pl.col("time").is_between(now - DAY, now, closed="left"))
        ids += write_example_segments(artifacts, NAME, new)
        labels = said(rows.head(len(ids)), ids, delay)
        tell(artifacts, labels.filter(pl.col("known_at").is_between(now - DAY, now, closed="right")), day)
        watching.rounds(now=now)
        simulated += endpoint.round(new, now)
    assert {one.question for one in simulated} >= {"data", "concept"}
    assert list(map(told, simulated)) == list(map(told, watching.announced))


def told(change: AlarmChange) -> tuple[object, ...]:
    return change.kind, change.question, change.severity, change.since, change.payload["columns"]
