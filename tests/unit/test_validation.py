"""Every type of column is read as declared, whatever its name."""

import json
import time
import tracemalloc
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.serving.http import HttpError
from mlops_ray.serving.inference_protocol import InferBody, ledger_key
from mlops_ray.serving.json_body import expect_few_values
from mlops_ray.serving.label_routes import LabelsBody
from mlops_ray.serving.validation import MAX_ROWS, PredictBody
from mlops_ray.use_case import Column, Feature
from tests.unit.test_ledger import example_schema

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
        ("flight no.", "1.5"),
        ("flight no.", ""),
        ("flight no.", True),
        ("flight no.", None),
        ("booked", "2013-01-01T00:00:00"),
        ("booked", "1899-12-31T23:59:59Z"),
        ("booked", "2013-02-30T00:00:00Z"),
        ("charter", 2),
        ("charter", "maybe"),
        ("charter", {"yes": True}),
    ],
)
def test_another_type_or_value_is_refused_by_name(body: PredictBody, name: str, value: Any) -> None:
    with pytest.raises(HttpError) as refused:
        body.decode(json.dumps({"keys": [{**ROW, name: value}]}).encode())
    assert (refused.value.status, refused.value.field) == (400, f"keys[0].{name}")


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("flight no.", "1", 1),
        ("flight no.", 517.0, 517),
        ("class", "", None),
        ("class", " Zu\u0308rich ", "Z\u00fcrich"),
        ("class", 12.50, "12.5"),
        ("departure", "2013-01-01 00:00:00+05:30", datetime(2012, 12, 31, 18, 30, tzinfo=UTC)),
        ("booked", "", None),
        ("charter", 0, False),
        ("charter", "Yes", True),
    ],
)
def test_a_value_in_other_words_is_read_as_in_a_file(body: PredictBody, name: str, given: Any, read: Any) -> None:
    asked = body.decode(json.dumps({"keys": [ROW, {**ROW, name: given}]}).encode())
    assert asked.keys is not None
    assert asked.keys[1][name] == read
    assert asked.keys[0]["departure"] == datetime(2012, 12, 31, 18, 30, tzinfo=UTC)


def test_a_refusal_says_value_and_reason(body: PredictBody) -> None:
    for value, said in (
        ("x", "'x' is not of type integer (flight no.:not_integer)"),
        (10_000, "'10000' is outside 1 to 9999 (flight no.:out_of_range)"),
        (None, "a value must be given (flight no.:missing)"),
    ):
        with pytest.raises(HttpError) as refused:
            body.decode(json.dumps({"keys": {**ROW, "flight no.": value}}).encode())
        assert refused.value.args[1] == f"keys.flight no.: {said}."


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b'{"keys": {"class": "a", "class": "b"}}', "keys.class"),
        (b'{"keys": [{"class": "a"}, {"cl\\u0061ss": "b", "class": null}]}', "keys[1].class"),
        (b'{"keys": {}, "keys": {}}', "keys"),
        (b'{"features": {"charter": true, "tail number": {"a": 1, "a": 1}}}', "features.tail number.a"),
        (b'{"features": {"charter": true, "tail number": "x", "charter": true}}', "features.charter"),
        (b'{"features": {"charter": true, "tail number": "::", "charter": true}}', "features.charter"),
        (b'{"features": {"charter": true, "tail number": "\\u003a", "charter": true}}', "features.charter"),
        (b'{"features": {"charter": true, "tail number": "x"}, "as_of": "x", "as_of": "y"}', "as_of"),
    ],
)
def test_a_name_that_is_given_twice_is_refused(body: PredictBody, content: bytes, field: str) -> None:
    with pytest.raises(HttpError, match="given twice") as refused:
        body.decode(content)
    assert (refused.value.status, refused.value.field) == (400, field)


def test_a_body_of_many_names_is_refused_in_a_time_that_grows_with_its_length(body: PredictBody) -> None:
    """Whoever else asks the replica waits meanwhile."""
    names = [f'"k{number}":0' for number in range(40_000)]
    content = "{" + ",".join([*names, names[-1]]) + "}"
    began_s = time.process_time()
    with pytest.raises(HttpError, match="k39999: the name is given twice"):
        body.decode(content.encode())
    assert time.process_time() - began_s < 5


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["charter", "tail number", "as_of", "features"]), st.text(':\\u{}ab"', max_size=6)),
        max_size=4,
    )
)
def test_no_name_given_twice_is_missed(body: PredictBody, more: list[tuple[str, str]]) -> None:
    """Whatever else stands in the body, colons and escapes in its texts among it."""
    vector = [("charter", True), ("tail number", "N1"), *more]
    inner = ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in vector)
    with pytest.raises(HttpError) if more else nullcontext():
        body.decode(f'{{"features": {{{inner}}}}}'.encode())


def test_a_moment_is_judged_after_its_zone(body: PredictBody) -> None:
    row = {"features": {"charter": True, "tail number": "x"}}
    for as_of in ("1900-01-01T00:00:00+00:01", "2199-12-31T23:59:59-00:01", "2013-01-01", 5, None):
        with pytest.raises(HttpError) as refused:
            body.decode(json.dumps({**row, "as_of": as_of}).encode())
        assert refused.value.field == "as_of"
    asked = body.decode(json.dumps({**row, "as_of": "1899-12-31T23:59:59-00:01"}).encode())
    assert asked.as_of == datetime(1900, 1, 1, 0, 0, 59, tzinfo=UTC)


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


def test_millions_of_values_are_refused_before_anything_reads_them() -> None:
    """Read, they would hold the event loop for seconds, and nobody else would be answered."""
    body = b'{"keys": [' + b",".join([b"1"] * 4_000_000) + b"]}"
    infer = b'{"inputs": [{"name": "x", "shape": [4000000], "datatype": "FP32", "data": ' + body[9:-1] + b"}]}"
    schema = example_schema()
    began_s = time.process_time()
    for read in (lambda: PredictBody(schema).decode(body), lambda: InferBody(schema).decode(infer, None)):
        with pytest.raises(HttpError, match=r"4,000,00\d values have; the limit is 250,000\. Send fewer") as refused:
            read()
        assert refused.value.status == 413
    assert ledger_key(infer, None) is None
    assert time.process_time() - began_s < 0.5


@pytest.mark.parametrize("value", ["[" * 19 + "]" * 19, '{"a":1}', '{"a":' * 6 + "1" + "}" * 6])
def test_values_within_values_count_as_those_beside_each_other_do(value: str) -> None:
    """Also where the protocol passes over them: whatever is read holds the event loop."""
    values = f"[{f'{value},' * 240_000}1]"
    schema, infer = example_schema(), f'{{"inputs": [], "parameters": {{"x": {values}}}}}'.encode()
    readers = (
        lambda: PredictBody(schema).decode(f'{{"keys": {values}}}'.encode()),
        lambda: LabelsBody(schema).decode(f'{{"labels": {values}}}'.encode(), datetime.now(UTC)),
        lambda: InferBody(schema).decode(infer, None),
    )
    began_s = time.process_time()
    for read in readers:
        with pytest.raises(HttpError, match=r"values have; the limit is 250,000\. Send fewer") as refused:
            read()
        assert refused.value.status == 413
    assert ledger_key(infer, None) is None
    assert time.process_time() - began_s < 0.5


def test_the_most_rows_of_a_request_may_have_a_hundred_features_in_every_form() -> None:
    names = [f"feature {number}" for number in range(100)]
    rows = {"features": [dict.fromkeys(names, 0.25)] * MAX_ROWS}
    tensor = {"shape": [MAX_ROWS, 1], "datatype": "FP32", "data": [[0.25]] * MAX_ROWS}
    tensors = {"inputs": [{"name": name, **tensor} for name in names]}
    for body in (rows, tensors):
        expect_few_values(json.dumps(body).encode())


@pytest.mark.parametrize("offset", ["+05:60", "-05:99", "+24:00"])
def test_an_offset_that_a_file_may_not_have_is_refused(body: PredictBody, offset: str) -> None:
    with pytest.raises(HttpError, match=r"departure: .*departure:not_timestamp"):
        body.decode(json.dumps({"keys": {**ROW, "departure": f"2013-01-01T00:00:00{offset}"}}).encode())


@pytest.mark.parametrize("value", [[1] * 9_000, {"a": "b" * 10_000}, "x" * 10_001])
def test_a_text_of_any_form_has_a_limit(body: PredictBody, value: Any) -> None:
    with pytest.raises(HttpError, match=r"keys\.class: the text has .* characters; the limit is 10,000"):
        body.decode(json.dumps({"keys": {**ROW, "class": value}}).encode())


@pytest.mark.parametrize("name", ["k" * 3_000, "😀" * 800])
def test_what_is_nested_deeply_takes_the_memory_of_what_was_sent(body: PredictBody, name: str) -> None:
    depth = 300
    content = (f'{{"{name}":' * depth + "NaN" + "}" * depth).encode()
    tracemalloc.start()
    try:
        with pytest.raises(HttpError) as refused:
            body.decode(b'{"keys":' + content + b"}")
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert refused.value.field == f"keys.{'.'.join([name] * depth)}"
    assert peak < 12 * len(content)
