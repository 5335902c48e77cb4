"""Training and serving are proven equal row by row: each planted difference is found, and named."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest

from mlops_ray.errors import UseCaseError
from mlops_ray.features.online.row import OnlineRow
from mlops_ray.pipeline.hard_rows import MAX_ROWS, hard_rows, zones_of
from mlops_ray.pipeline.parity import RequestParity, TrainingRows, expect_request_parity
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.registry.onnx_model import OnnxModel
from mlops_ray.registry.sealed_model import SealedModel, golden_cases, load, seal
from mlops_ray.serving.golden import replay_golden_requests
from mlops_ray.testing.example_model import FEATURES, example_answer, example_onnx, example_schema
from mlops_ray.use_case import Column

NEW_YORK = ZoneInfo("America/New_York")
LEAD = timedelta(hours=2)
ROWS = 60


def departures() -> list[dict[str, Any]]:
    """Raw rows of a year, twelve of them around the two changes of New York's clocks."""
    changes = [datetime(2013, 3, 10, 7, tzinfo=UTC), datetime(2013, 11, 3, 6, tzinfo=UTC)]
    near = [at + timedelta(minutes=30 * step) for at in changes for step in range(-3, 3)]
    others = [datetime(2013, 1, 1, tzinfo=UTC) + timedelta(days=6, hours=7) * n for n in range(ROWS - len(near))]
    return [
        {
            "carrier": ("AA", "UA", "B6", "ZZ")[n % 4],
            "origin": ("EWR", "JFK", "LGA")[n % 3],
            "departure": at,
            "distance": None if n % 7 == 0 else 10_000.0 if n == 8 else 0.1 * n,
        }
        for n, at in enumerate(sorted(near + others))
    ]


def delay_of(row: Mapping[str, Any], moment: datetime) -> float | None:
    """What the online store says: each carrier's delay, unknown of ZZ."""
    return None if row["carrier"] == "ZZ" else moment.minute / 3 + len(row["origin"])


def features_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What training computes, in plain Python."""
    hour = float(row["departure"].astimezone(NEW_YORK).hour)
    same = {name: row[name] for name in ("origin", "distance", "carrier")}
    return {**same, "hour": hour, "recent_delay": delay_of(row, row["departure"] - LEAD)}


class Delays:
    """An online reader over `delay_of`. changed: what it gets wrong."""

    waits = False
    seconds, reads, missing, stale = 0.0, 0, 0, 0

    def __init__(self, name: str = "recent_delay", shift: timedelta = timedelta(0)):
        self.name, self.shift = name, shift

    def close(self) -> None:
        pass

    def find(self, rows: Sequence[Mapping[str, Any]], moments: Sequence[datetime]) -> list[OnlineRow]:
        known = [delay_of(row, moment + self.shift) for row, moment in zip(rows, moments, strict=True)]
        return [OnlineRow({self.name: value}, [self.name] if value is None else []) for value in known]


RAW = departures()
TRAINED = pl.DataFrame([features_of(row) for row in RAW])
SEALED = SealedModel("", example_schema(), OnnxModel(example_onnx(), FEATURES), {})


def prove(
    schema: ModelSchema = SEALED.schema,
    trained: pl.DataFrame = TRAINED,
    raw: Sequence[Mapping[str, Any]] = RAW,
    reader: Any = None,
    answers: Any = None,
) -> RequestParity:
    requests = pl.DataFrame(raw, schema_overrides={"departure": pl.Datetime("us", "UTC")})
    moments = requests["departure"] - LEAD
    given = [example_answer(row) for row in TRAINED.to_dicts()] if answers is None else answers
    rows = TrainingRows(requests, trained, moments, given)
    return expect_request_parity(replace(SEALED, schema=schema), rows, ["plain"] * len(raw), reader or Delays())


def expressions(**changed: pl.Expr) -> ModelSchema:
    texts = {name: expression.meta.serialize(format="json") for name, expression in changed.items()}
    return replace(SEALED.schema, request_features={**SEALED.schema.request_features, **texts})


def test_rows_that_come_out_as_trained_are_counted_and_become_golden_requests(tmp_path: Path) -> None:
    found = prove()
    assert (found.rows, found.cases, found.limit) == (ROWS, {"plain": ROWS}, 1e-5)
    assert found.missing == sum(row["carrier"] == "ZZ" for row in RAW)
    assert 0 <= found.largest_difference < 1e-6
    assert json.loads(json.dumps(found.to_json()))["rows"] == ROWS
    rows = golden_cases(TRAINED.head(4), FEATURES)
    answers = [example_answer(row) for row in rows.to_dicts()]
    digest = seal(tmp_path, example_onnx(), SEALED.schema, rows, answers, {}, golden_requests=found.golden)
    sealed = load(tmp_path, digest)
    assert sealed.golden_requests == found.golden
    assert len(sealed.golden_requests) == 32
    replay_golden_requests(sealed)


LOCAL = pl.col("departure").dt.convert_time_zone("America/New_York")


@pytest.mark.parametrize(
    ("feature", "planted"),
    [
        (
            "hour",
            lambda: prove(expressions(hour=pl.col("departure").dt.convert_time_zone("America/Chicago").dt.hour())),
        ),
        ("hour", lambda: prove(expressions(hour=LOCAL.dt.hour() + LOCAL.dt.minute() / 60_000))),
        ("hour", lambda: prove(expressions(hour=pl.col("departure").dt.hour() - 5))),  # winter's offset all year
        ("distance", lambda: prove(expressions(distance=pl.col("distance").fill_null(0)))),
        ("distance", lambda: prove(trained=TRAINED.with_columns(pl.col("distance").fill_null(strategy="forward")))),
        ("distance", lambda: prove(expressions(distance=pl.col("distance").cast(pl.Float32) * pl.lit(1.000001)))),
        ("distance", lambda: prove(expressions(distance=pl.col("distance").cast(pl.Int64)))),
        ("distance", lambda: prove(trained=TRAINED.with_columns(distance="hour", hour="distance"))),
        ("carrier", lambda: prove(trained=TRAINED.with_columns(pl.col("carrier").str.strip_chars_end("A")))),
        ("carrier", lambda: prove(trained=TRAINED.with_columns(pl.col("carrier").replace("ZZ", None)))),
        ("origin", lambda: prove(expressions(origin=pl.col("origin").str.to_lowercase()))),
        ("recent_delay", lambda: prove(reader=Delays(name="recent_delays"))),
        ("recent_delay", lambda: prove(reader=Delays(shift=timedelta(minutes=1)))),
    ],
)
def test_a_planted_difference_is_found_and_named(feature: str, planted: Callable[[], RequestParity]) -> None:
    with pytest.raises(UseCaseError) as found:
        planted()
    message = str(found.value)
    assert f"Training and serving differ in feature {feature!r}: training computed" in message
    assert '"departure": "2013-' in message, "the row"
    assert "not registered" in message
    where = "its feature view" if feature == "recent_delay" else "its expression in request_features"
    assert where in message


def test_what_a_float32_cannot_tell_apart_is_no_difference() -> None:
    assert prove(trained=TRAINED.with_columns(pl.col("distance") * (1 + 1e-12))).rows == ROWS


@pytest.mark.parametrize("wrong", [1e-4, math.nan])
def test_another_answer_from_the_same_features_is_found(wrong: float) -> None:
    answers = np.array([example_answer(row) for row in TRAINED.to_dicts()])
    answers[17] += wrong
    with pytest.raises(UseCaseError, match="The fitted model of departures answers"):
        prove(answers=answers)


def test_a_row_that_the_endpoint_would_refuse_is_named_by_its_column() -> None:
    raw = [*RAW[:9], {**RAW[9], "carrier": "too long"}, *RAW[10:]]
    with pytest.raises(UseCaseError, match=r"would refuse a row that the model was trained on: keys\.carrier"):
        prove(raw=raw)


MOMENT = pl.col("departure")


@pytest.mark.parametrize(
    ("expression", "dtype"),
    [
        (MOMENT - pl.datetime(1970, 1, 1, time_zone="UTC"), "Duration"),
        (MOMENT.dt.date(), "Date"),
        (MOMENT.dt.time(), "Time"),
        (MOMENT.dt.offset_by("1h"), "Datetime"),
        (pl.col("carrier").str.split("A"), "List"),
        (pl.col("carrier").cast(pl.Categorical), "Categorical"),
    ],
)
def test_a_request_feature_of_a_type_that_no_request_can_give_fails_by_name(expression: pl.Expr, dtype: str) -> None:
    with pytest.raises(UseCaseError, match=rf"Request feature 'hour' of use case departures is of type {dtype}"):
        prove(expressions(hour=expression))


def test_a_raw_value_that_json_cannot_hold_fails_by_name() -> None:
    schema = replace(SEALED.schema, request_columns=(*SEALED.schema.request_columns, Column("flown", "timestamp")))
    with pytest.raises(UseCaseError, match=r"'flown' holds datetime\.timedelta"):
        prove(schema, raw=[{**row, "flown": timedelta(hours=1)} for row in RAW])


# Personal values


def test_golden_requests_tell_nothing_of_a_person() -> None:
    hidden = {"carrier": "omit", "distance": "hash"}
    columns = [
        replace(column, personal=hidden.get(column.name), pattern=None) for column in SEALED.schema.request_columns
    ]
    schema = replace(SEALED.schema, request_columns=tuple(columns))
    golden = prove(schema).golden
    asked = [json.loads(one.body)["keys"] for one in golden]
    assert {(keys["carrier"], keys["distance"]) for keys in asked} == {("x", None)}
    assert {(one.features["carrier"], one.features["distance"]) for one in golden} == {("x", None)}
    replay_golden_requests(SealedModel("", schema, SEALED.model, {}, golden))
    rows = golden_cases(TRAINED, FEATURES, schema.personal_features())
    assert set(rows["distance"]) == {None}
    assert set(rows["carrier"]) == {None, "", "never seen in training"}


def test_where_no_value_can_stand_for_a_personal_one_there_are_no_golden_requests() -> None:
    columns = [replace(c, personal="omit") if c.name == "carrier" else c for c in SEALED.schema.request_columns]
    assert prove(replace(SEALED.schema, request_columns=tuple(columns))).golden == ()


def test_an_error_does_not_show_what_a_person_is_called() -> None:
    columns = [replace(c, personal="omit") if c.name == "carrier" else c for c in SEALED.schema.request_columns]
    schema = replace(expressions(hour=MOMENT.dt.hour()), request_columns=tuple(columns))
    with pytest.raises(UseCaseError, match=r'"carrier": "\(personal\)"'):
        prove(schema)


# Which rows


def chosen(raw: pl.DataFrame, schema: ModelSchema = SEALED.schema, trained: pl.DataFrame = TRAINED) -> dict[int, str]:
    return hard_rows(raw, trained, raw["departure"] - LEAD, schema)


def many_rows(count: int = 5_000) -> tuple[pl.DataFrame, pl.DataFrame]:
    random = np.random.default_rng(3)
    start = datetime(2013, 1, 1, tzinfo=UTC)
    raw = [
        {
            "carrier": str(random.choice(["AA", "UA", "B6"])),
            "origin": str(random.choice(["EWR", "JFK", "LGA"])),
            "departure": start + timedelta(minutes=int(minutes)),
            "distance": None if random.random() < 0.001 else float(random.normal()),
        }
        for minutes in random.integers(0, 525_000, count)
    ]
    raw[77]["carrier"], raw[78]["origin"] = "QQ", "XXX"
    features = pl.DataFrame([features_of(row) for row in raw], schema_overrides={"recent_delay": pl.Float64})
    return pl.DataFrame(raw, schema_overrides={"departure": pl.Datetime("us", "UTC")}), features


def test_every_hard_case_is_among_the_chosen_rows() -> None:
    raw, trained = many_rows()
    found = chosen(raw, trained=trained)
    assert len(found) < MAX_ROWS
    assert found == chosen(raw, trained=trained)
    moments = raw["departure"].gather(list(found))
    assert moments.is_sorted()
    assert {raw["departure"].min(), raw["departure"].max()} <= set(moments)
    assert any(raw["distance"][row] is None for row in found)
    assert {raw["distance"].arg_max(), raw["distance"].arg_min()} <= set(found)
    assert 77 in found, "a rare category"
    assert "feature carrier is unknown" in found.values()
    assert 78 not in found, "what a closed column refuses cannot be asked for"
    assert any(trained["carrier"][row] == "UA" for row in found)


@pytest.mark.parametrize("change", [datetime(2013, 3, 10, 7, tzinfo=UTC), datetime(2013, 11, 3, 6, tzinfo=UTC)])
def test_the_rows_next_to_each_change_of_the_clocks_are_chosen(change: datetime) -> None:
    raw, trained = many_rows()
    may_be_asked = raw.with_row_index("row").filter(pl.col("origin") != "XXX")
    before = may_be_asked.filter(pl.col("departure") < change).sort("departure")["row"][-1]
    after = may_be_asked.filter(pl.col("departure") >= change).sort("departure")["row"][0]
    assert {before, after} <= set(chosen(raw, trained=trained))


def test_zones_are_those_that_expressions_name() -> None:
    assert zones_of(SEALED.schema) == ["America/New_York"]
    assert zones_of(expressions(hour=MOMENT.dt.hour())) == []


def test_few_rows_are_all_chosen_and_none_twice() -> None:
    raw = pl.DataFrame(RAW, schema_overrides={"departure": pl.Datetime("us", "UTC")})
    assert sorted(chosen(raw)) == list(range(ROWS))
    assert chosen(raw.head(1), trained=TRAINED.head(1)).keys() == {0}
    assert chosen(raw.clear(), trained=TRAINED.clear()) == {}
