"""What may be pushed to a feature view, how it is kept, and how it is accounted for."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import ConflictError, DataError
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import View
from mlops_ray.features.online.pushes import (
    Push,
    all_pushed,
    bring_together,
    digest_of,
    erase_pushed,
    judged_rows,
    keep_push,
    pushed_rows,
    pushes,
)
from mlops_ray.serving.http import HttpError
from mlops_ray.serving.push_routes import PushBody

NOW = datetime(2030, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
VIEW = View(
    name="delays",
    keys=("airport",),
    asked=("airport",),
    features=("delay", "flights"),
    fields=("delay", "flights"),
    types={"airport": "String", "delay": "Float64", "flights": "Int64"},
    ttl_s=10_800,
    columns={},
)
ID = "0190163d-8694-739b-aea5-966c26f8ad91"


def rows(**changed: Any) -> pl.DataFrame:
    given = {"airport": ["EWR", "JFK"], PREDICTION_TIME: [NOW - HOUR, NOW], "delay": [1.0, None], "flights": [3, 4]}
    return pl.DataFrame(given | changed)


def kept(artifacts: Artifacts, frame: pl.DataFrame, id_: str = ID, at: datetime = NOW) -> Push:
    judged = judged_rows(VIEW, frame, at)
    push = Push(id_, "delays", at, "ann", judged.height, digest_of(judged))
    keep_push(artifacts, "project", VIEW, judged, push)
    return push


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(str(tmp_path))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"delay": ["1", "2"]}, "column 'delay' is String in its rows and Float64 in its definition"),
        ({"airport": [None, "JFK"]}, "key 'airport' is null in 1 of 2 rows"),
        ({PREDICTION_TIME: [NOW, None]}, "event_timestamp is null in 1 of 2 rows"),
        ({PREDICTION_TIME: [NOW.replace(tzinfo=None)] * 2}, "as a moment with a time zone"),
        ({PREDICTION_TIME: [NOW, NOW + HOUR]}, "2030-06-01T13:00:00+00:00 lies ahead of now"),
        ({"gate": [1, 2]}, "has no column 'gate'"),
    ],
)
def test_what_no_row_of_the_view_may_be_is_refused_by_name(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match="Feature view 'delays'.*" + said.replace("+", r"\+")):
        judged_rows(VIEW, rows(**changed), NOW)


def test_a_missing_column_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="its rows have no column 'flights'"):
        judged_rows(VIEW, rows().drop("flights"), NOW)


def test_of_rows_that_share_key_and_moment_the_last_counts_and_nan_is_nothing() -> None:
    frame = rows(airport=["EWR", "EWR"], delay=[1.0, float("nan")], **{PREDICTION_TIME: [NOW, NOW]})
    judged = judged_rows(VIEW, frame, NOW)
    assert judged.select("airport", "delay", "flights").rows() == [("EWR", None, 4)]


def test_a_push_is_accounted_for_with_who_when_and_what(artifacts: Artifacts) -> None:
    push = kept(artifacts, rows())
    assert pushes(artifacts, "project", VIEW) == [push]
    assert kept(artifacts, rows()) == push  # again, and still one
    assert pushes(artifacts, "project", VIEW) == [push]
    with pytest.raises(ConflictError, match="other rows were pushed before"):
        kept(artifacts, rows(flights=[5, 6]))
    assert pushes(artifacts, "other", VIEW) == []


def test_what_counts_as_of_a_moment_is_not_later_and_within_the_ttl(artifacts: Artifacts) -> None:
    kept(artifacts, rows())
    assert pushed_rows(artifacts, "project", VIEW, NOW)["airport"].to_list() == ["EWR", "JFK"]
    assert pushed_rows(artifacts, "project", VIEW, NOW - HOUR)["airport"].to_list() == ["EWR"]
    assert pushed_rows(artifacts, "project", VIEW, NOW + 3 * HOUR)["airport"].to_list() == ["JFK"]
    assert pushed_rows(artifacts, "project", VIEW, NOW + 100 * HOUR).is_empty()
    assert all_pushed(artifacts, "project", replace(VIEW, created="came"))["came"].unique().to_list() == [NOW]


def test_days_that_are_over_are_one_file_with_all_that_was_pushed(artifacts: Artifacts, tmp_path: Path) -> None:
    days = [NOW - timedelta(days=1), NOW - timedelta(days=1, hours=1), NOW]
    sent = [
        kept(artifacts, rows(**{PREDICTION_TIME: [at - HOUR, at]}), ID[:-1] + str(number), at)
        for number, at in enumerate(days)
    ]
    bring_together(artifacts, "project", VIEW)
    bring_together(artifacts, "project", VIEW)
    files = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.parquet"))
    assert files == [
        "pushes/project/delays/2030-05-31/together.parquet",
        f"pushes/project/delays/2030-06-01/{ID[:-1]}2.parquet",
    ]
    assert pushes(artifacts, "project", VIEW) == [sent[1], sent[0], sent[2]]
    assert all_pushed(artifacts, "project", VIEW).height == 6
    created = pushed_rows(artifacts, "project", replace(VIEW, created="came"), NOW - timedelta(days=1))
    assert created["came"].max() == NOW - timedelta(days=1)


def test_an_erasure_takes_the_rows_of_one_key_and_leaves_the_others(artifacts: Artifacts) -> None:
    kept(artifacts, rows())
    assert erase_pushed(artifacts, "project", VIEW, "airport", "EWR", dry_run=True) == 1
    assert erase_pushed(artifacts, "project", VIEW, "airport", "EWR", dry_run=False) == 1
    assert all_pushed(artifacts, "project", VIEW)["airport"].to_list() == ["JFK"]
    assert erase_pushed(artifacts, "project", VIEW, "airport", "JFK", dry_run=False) == 1
    assert pushes(artifacts, "project", VIEW) == []


def body(*given: str) -> bytes:
    return f'{{"view": "delays", "rows": [{", ".join(given)}]}}'.encode()


def test_rows_that_are_sent_are_read_as_those_of_a_request() -> None:
    read = PushBody(VIEW).decode
    plain = '{"event_timestamp": "2030-06-01T12:00:00Z", "airport": "EWR", "delay": 1.5, "flights": 3}'
    other = '{"event_timestamp": "2030-06-01 14:00:00+02:00", "airport": " JFK ", "delay": null, "flights": "4"}'
    expected = {PREDICTION_TIME: [NOW], "airport": ["EWR"], "delay": [1.5], "flights": [3]}
    assert read(body(plain)).to_dict(as_series=False) == expected
    assert read(body(plain, other)).rows()[1] == (NOW, "JFK", None, 4)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ('{"event_timestamp": "2030-06-01T12:00:00Z", "airport": "EWR", "delay": "x", "flights": 3}', "rows[0].delay"),
        ('{"event_timestamp": "2030-06-01T12:00:00Z", "airport": null, "delay": 1, "flights": 3}', "rows[0].airport"),
        ('{"event_timestamp": "yesterday", "airport": "EWR", "delay": 1, "flights": 3}', "rows[0].event_timestamp"),
        ('{"event_timestamp": "2030-06-01T12:00:00Z", "airport": "EWR", "delay": 1}', "rows[0].flights"),
        ('{"event_timestamp": "2030-06-01T12:00:00Z", "airport": "E", "delay": 1, "flights": 3, "x": 1}', "rows[0].x"),
        ('{"event_timestamp": "2030-06-01T12:00:00Z", "airport": "E", "delay": NaN, "flights": 3}', "rows[0].delay"),
    ],
)
def test_what_is_wrong_in_a_sent_row_is_named_by_its_field(row: str, field: str) -> None:
    with pytest.raises(HttpError) as refused:
        PushBody(VIEW).decode(body(row))
    assert (refused.value.status, refused.value.field) == (400, field)
