"""A row to score has features from before its prediction's moment, whoever chose the moment."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from mlops_ray.batch.judged import _judge
from mlops_ray.ingestion.contract import REASON
from mlops_ray.testing.example_model import example_schema

DEPARTURE = datetime(2013, 6, 1, 15, tzinfo=UTC)
LATEST = DEPARTURE - timedelta(hours=2)
ROW = {"carrier": "AA", "origin": "JFK", "departure": DEPARTURE, "distance": 500.0}


@pytest.mark.parametrize(
    ("as_of", "reason"),
    [
        (LATEST, None),
        (LATEST - timedelta(days=1), None),
        (LATEST + timedelta(microseconds=1), "as_of:too_late"),
        (DEPARTURE, "as_of:too_late"),
        (DEPARTURE + timedelta(days=400), "as_of:too_late"),
    ],
)
def test_a_moment_later_than_the_lead_time_before_the_event_is_refused(as_of: datetime, reason: str | None) -> None:
    judged = _judge(example_schema(), pl.DataFrame([ROW | {"as_of": as_of}]))
    assert judged[REASON].to_list() == [reason]


def test_without_a_moment_it_is_the_lead_time_before_the_event() -> None:
    judged = _judge(example_schema(), pl.DataFrame([ROW]))
    assert judged["as_of"].to_list() == [LATEST]
    assert judged[REASON].to_list() == [None]


def test_a_row_that_is_refused_for_another_reason_keeps_that() -> None:
    judged = _judge(example_schema(), pl.DataFrame([ROW | {"as_of": DEPARTURE, "carrier": "toolong"}]))
    assert judged[REASON].to_list() == ["carrier:pattern"]
