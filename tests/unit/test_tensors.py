"""Tensors of any form are read as rows are, or refused by the name of what is wrong; nothing brings the reader down."""

import json
import struct
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.serving.http import HttpError
from mlops_ray.serving.inference_protocol import InferBody, Tensors, ledger_key
from mlops_ray.serving.tensors import NUMERIC_TYPES
from mlops_ray.use_case import Column, Feature

COLUMNS = (
    Column("seats", "integer", minimum=0, maximum=200),
    Column("class", "text", nullable=True),
    Column("charter", "boolean", nullable=True),
)
BODY = InferBody(
    ModelSchema(
        use_case="flights",
        label="late",
        entities=("seats",),
        event_time="departure",
        lead_time_s=0,
        request_columns=COLUMNS,
        request_features={c.name: pl.col(c.name).meta.serialize(format="json") for c in COLUMNS},
        features=(Feature("seats", "number"), Feature("class", "category", ("a",)), Feature("charter", "number")),
    )
)
RIGHT: dict[str, dict[str, Any]] = {
    "seats": {"name": "seats", "shape": [2], "datatype": "INT64", "data": [1, 2]},
    "class": {"name": "class", "shape": [2], "datatype": "BYTES", "data": ["a", None]},
    "charter": {"name": "charter", "shape": [2], "datatype": "BOOL", "data": [True, None]},
}


def read(tail: bytes = b"", **changes: dict[str, Any]) -> Tensors:
    """With `changes`; data goes where binary data is announced."""
    inputs = [{**tensor, **changes.get(name, {})} for name, tensor in RIGHT.items()]
    head = json.dumps({"inputs": [{k: v for k, v in one.items() if v is not ...} for one in inputs]}).encode()
    return BODY.decode(head + tail, str(len(head)).encode())


def binary(raw: bytes, **more: Any) -> dict[str, Any]:
    return {"data": ..., "parameters": {"binary_data_size": len(raw)}, **more}


def refused(tail: bytes = b"", **changes: dict[str, Any]) -> str | None:
    with pytest.raises(HttpError) as error:
        read(tail, **changes)
    assert error.value.status == 400
    return error.value.field


def test_booleans_are_booleans_in_json_and_in_binary() -> None:
    np.testing.assert_array_equal(read().columns["charter"], np.array([1, np.nan], np.float32))
    raw = b"\x01\x00"
    assert read(raw, charter=binary(raw)).columns["charter"].tolist() == [1, 0]
    assert refused(b"\x02\x00", charter=binary(b"\x02\x00")) == "inputs[2].data[0]"
    assert refused(charter={"data": [True, "true"]}) == "inputs[2].data[1]"
    assert refused(charter={"data": [0.5, True]}) == "inputs[2].data[0]"
    assert refused(charter={"data": [True, 5]}) == "inputs[2].data[1]"
    assert refused(seats={"datatype": "BOOL", "data": [True, False]}) == "inputs[0].datatype"


@pytest.mark.parametrize("datatype", NUMERIC_TYPES)
def test_every_type_of_number_is_read_in_binary_as_in_json(datatype: str) -> None:
    raw = np.array([3, 120], NUMERIC_TYPES[datatype]).tobytes()
    found = read(raw, seats=binary(raw, datatype=datatype)).columns["seats"]
    assert found.tolist() == read(seats={"datatype": datatype, "data": [3, 120]}).columns["seats"].tolist() == [3, 120]
    assert refused(raw[:-1], seats=binary(raw[:-1], datatype=datatype)) == "inputs[0].parameters.binary_data_size"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=32) | st.integers(0, 200).map(float), min_size=2, max_size=2))
def test_a_number_in_binary_is_judged_as_the_same_number_in_json(values: list[float]) -> None:
    raw = np.array(values, "<f4").tobytes()
    given = [None if value != value else value for value in values]
    by_json = outcome(seats={"datatype": "FP64", "data": given}) if np.isfinite(values).all() else None
    by_binary = outcome(raw, seats=binary(raw, datatype="FP32"))
    assert by_json is None or by_json == by_binary
    fits = all(value == int(value) and 0 <= value <= 200 for value in values) if np.isfinite(values).all() else False
    assert isinstance(by_binary, list) is fits


def outcome(tail: bytes = b"", **changes: Any) -> Any:
    """The values of `seats`, or the field that is wrong."""
    try:
        return read(tail, **changes).columns["seats"].tolist()
    except HttpError as error:
        return error.field


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=5), min_size=2, max_size=2))
def test_a_text_in_binary_is_judged_as_the_same_text_in_json(texts: list[str]) -> None:
    raw = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)
    by_binary = read(raw, **{"class": binary(raw)}).columns["class"].tolist()
    assert by_binary == read(**{"class": {"data": texts}}).columns["class"].tolist()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 3), st.binary(max_size=4) | st.integers(0, 80).map(lambda n: b"%d" % n))
def test_no_bytes_bring_the_reader_down(raw: bytes, cut: int, length: bytes) -> None:
    head = json.dumps({"inputs": [*list(RIGHT.values())[:1], {**RIGHT["class"], **binary(raw)}][:2]}, default=str)
    for content, header in (
        (raw, length),
        (head.encode()[cut:] + raw, length),
        (head.encode() + raw, b"%d" % len(head)),
    ):
        with pytest.raises(HttpError) as error:
            BODY.decode(content, header)
        assert error.value.status == 400


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40))
@example(struct.pack("<I", 2**32 - 1))
@example(struct.pack("<II", 0, 0))
@example(struct.pack("<I", 1) + b"\xff" + struct.pack("<I", 0))
def test_whatever_stands_where_texts_should_is_two_texts_or_a_400(raw: bytes) -> None:
    try:
        texts = read(raw, **{"class": binary(raw)}).columns["class"].tolist()
    except HttpError as error:
        where = error.status, str(error.field)[:9]
        assert where == (400, "inputs[1]")
        return
    assert len(texts) == 2
    assert raw.count(b"\0") >= 4  # two lengths


@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: json.dumps({"id": text}).encode()))
@example(b'{"id": "0190F5A0-7D5E-7C3A-8000-0123456789AB"}')
@example(b'{"id": "\\ud800"}')
@example(b"[" * 100_000)
def test_only_a_uuid_is_a_key_of_the_ledger(content: bytes) -> None:
    key = ledger_key(content, None)
    assert key in (None, "0190f5a0-7d5e-7c3a-8000-0123456789ab")
    assert ledger_key(content, b"99999") is None
