"""Every type of column is read as declared, whatever its name."""

import json
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.serving.http import HttpError
from mlops_ray.serving.validation import PredictBody
from mlops_ray.use_case import Column, Feature

COLUMNS = (
    Column("flight no.", "integer", minimum=0.5, maximum=9999),
    Column("class", "text", nullable=True),
    Column("departure", "timestamp"),
    Column("booked", "timestamp", nullable=True),
    Column("charter", "boolean"),
)
ROW: dict[str, Any] = {
    "flight no.": 1,
    "class": None,
    "departure": "2013-01-01T00:00:00+05:30",
    "booked": None,
    "charter": True,
}


@pytest.fixture(scope="module")
def body() -> PredictBody:
    return PredictBody(
        ModelSchema(
            use_case="flights",
            label="late",
            entities=("flight no.",),
            event_time="departure",
            lead_time_s=0,
            request_columns=COLUMNS,
            request_features={"charter": pl.col("charter").meta.serialize(format="json")},
            features=(Feature("charter", "number"), Feature("tail number", "category", ("N1",))),
        )
    )


def test_each_type_comes_as_it_is(body: PredictBody) -> None:
    asked = body.decode(json.dumps({"keys": ROW}).encode())
    assert asked.keys == [{**ROW, "departure": datetime(2012, 12, 31, 18, 30, tzinfo=UTC)}]
    asked = body.decode(json.dumps({"features": {"charter": False, "tail number": "N2"}}).encode())
    assert asked.features == [(False, "N2")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flight no.", 0),
        ("flight no.", 10_000),
        ("flight no.", 10**30),
        ("flight no.", 1.5),
        ("flight no.", "1"),
        ("flight no.", True),
        ("flight no.", None),
        ("class", ""),
        ("class", 1),
        ("booked", "2013-01-01T00:00:00"),
        ("booked", "1899-12-31T23:59:59Z"),
        ("booked", "2013-02-30T00:00:00Z"),
        ("charter", 1),
        ("charter", "true"),
    ],
)
def test_another_type_or_value_is_refused_by_name(body: PredictBody, name: str, value: Any) -> None:
    with pytest.raises(HttpError) as refused:
        body.decode(json.dumps({"keys": [{**ROW, name: value}]}).encode())
    assert (refused.value.status, refused.value.field) == (400, f"keys[0].{name}")


def test_a_feature_that_repeats_a_column_is_held_to_its_rules(body: PredictBody) -> None:
    with pytest.raises(HttpError) as refused:
        body.decode(b'{"features": {"charter": 0.5, "tail number": null}}')
    assert refused.value.field == "features.charter"


@pytest.mark.parametrize(
    "content", [rb'{"keys": "\ud800"}', rb'{"\udfff": 1}', rb'{"features": [{"origin": "\ud800"}]}']
)
def test_half_of_a_surrogate_pair_is_refused(body: PredictBody, content: bytes) -> None:
    with pytest.raises(HttpError) as error:
        body.decode(content)
    assert error.value.status == 400
