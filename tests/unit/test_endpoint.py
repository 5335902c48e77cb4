"""What the endpoint promises a caller: right answers, and for anything wrong a 4xx that names the field."""

import asyncio
import gzip
import json
import shutil
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_ray.errors import ConfigurationError, UnavailableError
from mlops_ray.features.online.row import OnlineRow
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.keys import create_key, list_keys
from mlops_ray.predictions.reader import Ledger
from mlops_ray.registry.sealed_model import load
from mlops_ray.serving.http import MAX_BODY_BYTES
from mlops_ray.serving.inquiries import KEPT_S, Given, Inquiry, RecentAnswers
from mlops_ray.serving.predictor import Predictor, Vectors
from mlops_ray.serving.served_version import Scored
from mlops_ray.tasks.binary import BINARY
from mlops_ray.testing.example_endpoint import NAME, ExampleEndpoint, example_endpoint
from mlops_ray.testing.example_model import FEATURES, example_answer, example_reader, seal_example
from tests.raw_ledger import raw_rows

KEY = {"carrier": "AA", "origin": "JFK", "departure": "2013-10-01T12:00:00Z", "distance": 500.0}
VECTOR = {"origin": "JFK", "distance": 500.0, "carrier": "AA", "hour": 8.0, "recent_delay": 30.0}
JSON = {"content-type": "application/json"}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleEndpoint]:
    with example_endpoint(tmp_path_factory.mktemp("state")) as example:
        yield example


def send(endpoint: ExampleEndpoint, method: str, path: str, **request: Any) -> httpx.Response:
    request["headers"] = {"authorization": f"Bearer {endpoint.key}", **request.get("headers", {})}

    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(endpoint.app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **request)

    return asyncio.run(once())


def predict(endpoint: ExampleEndpoint, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes | str) else json.dumps(body)
    return send(endpoint, "POST", "/predict", content=content, headers={**JSON, **headers})


def tensor(name: str, data: Sequence[Any], datatype: str, **more: Any) -> Json:
    return {"name": name, "shape": [len(data)], "datatype": datatype, "data": list(data), **more}


def tensors(**changes: Json) -> list[Json]:
    types = {"number": "FP32", "category": "BYTES"}
    inputs = {f.name: tensor(f.name, [VECTOR[f.name]], types[f.kind]) for f in FEATURES}
    return [{**value, **changes.get(name, {})} for name, value in inputs.items()]


def infer(endpoint: ExampleEndpoint, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes | str) else json.dumps(body)
    return send(endpoint, "POST", "/infer", content=content, headers={**JSON, **headers})


def assert_refused(response: httpx.Response, status: int, field: str | None) -> None:
    assert (response.status_code, response.json()["field"]) == (status, field), response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json()["error"]
    assert response.json()["request_id"] == response.headers["x-request-id"]


# What is right


def test_keys_and_the_vector_they_stand_for_have_the_same_probability(endpoint: ExampleEndpoint) -> None:
    by_keys = predict(endpoint, {"keys": KEY, "as_of": "2013-10-01T10:00:00Z"}).json()
    by_vector = predict(endpoint, {"features": [VECTOR]}).json()
    assert by_keys["predictions"] == by_vector["predictions"]
    assert by_keys["predictions"][0]["probability"] == pytest.approx(example_answer(VECTOR), abs=1e-6)
    assert by_keys["predictions"][0]["prediction"] is True
    assert (by_keys["model"], by_keys["version"], by_keys["as_of"]) == ("departures", "7", "2013-10-01T10:00:00Z")


def test_features_are_read_as_of_the_moment_of_the_request(endpoint: ExampleEndpoint) -> None:
    answer = predict(endpoint, {"keys": KEY, "as_of": "2012-12-31T23:00:00-00:30"}).json()
    unknown_then = example_answer({**VECTOR, "recent_delay": None})
    assert answer["predictions"][0]["probability"] == pytest.approx(unknown_then, abs=1e-6)


def test_the_moment_of_the_request_is_now_unless_given(endpoint: ExampleEndpoint) -> None:
    before = datetime.now(UTC)
    answered = datetime.fromisoformat(predict(endpoint, {"keys": KEY}).json()["as_of"])
    assert before <= answered <= datetime.now(UTC)


def test_an_answer_names_what_was_missing_and_says_nothing_where_nothing_was(endpoint: ExampleEndpoint) -> None:
    rows = [KEY, {**KEY, "carrier": "UA"}]
    known, unknown = predict(endpoint, {"keys": rows, "as_of": "2013-10-01T10:00:00Z"}).json()["predictions"]
    assert known.keys() == {"probability", "prediction"}
    assert unknown.keys() == {"probability", "prediction", "missing_features"}
    assert unknown["missing_features"] == ["recent_delay"]
    (by_vector,) = predict(endpoint, {"features": {**VECTOR, "recent_delay": None}}).json()["predictions"]
    assert by_vector.keys() == {"probability", "prediction"}


def test_an_answer_names_what_had_expired(tmp_path: Path) -> None:
    def expired(rows: Any) -> list[OnlineRow]:
        return [OnlineRow({"recent_delay": None}, [], ["recent_delay"]) for _ in rows]

    with example_endpoint(tmp_path, Reader(expired)) as endpoint:
        (row,) = predict(endpoint, {"keys": KEY, "as_of": "2013-10-01T10:00:00Z"}).json()["predictions"]
        assert row.keys() == {"probability", "prediction", "expired_features"}
        assert row["expired_features"] == ["recent_delay"]


def test_a_question_about_what_is_soon_or_past_is_answered_as_of_now_and_marked_as_late(
    endpoint: ExampleEndpoint,
) -> None:
    now = datetime.now(UTC)
    rows = [{**KEY, "departure": (now + timedelta(hours=hours)).isoformat()} for hours in (3, 1, -1)]
    answer = predict(endpoint, {"keys": rows}).json()
    assert [row.get("late", False) for row in answer["predictions"]] == [False, True, True]
    assert now <= datetime.fromisoformat(answer["as_of"]) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("as_of", "refused"),
    [
        ("2013-10-01T10:00:00Z", False),
        ("2013-10-01T12:00:00+02:00", False),
        ("2013-10-01T10:00:00.000001Z", True),
        ("2013-10-01T12:00:00Z", True),
        ("2026-01-01T00:00:00Z", True),
    ],
)
def test_as_of_later_than_the_lead_time_before_the_event_is_refused_with_both_moments(
    endpoint: ExampleEndpoint, as_of: str, refused: bool
) -> None:
    later = {**KEY, "departure": "2027-10-01T12:00:00Z"}
    response = predict(endpoint, {"keys": [later, KEY], "as_of": as_of})
    assert (response.status_code == 400) is refused
    if refused:
        assert_refused(response, 400, "as_of")
        for part in ("2013-10-01T10:00:00+00:00", "departure of row 1 (2013-10-01T12:00:00+00:00)", "2:00:00"):
            assert part in response.json()["error"]


def test_missing_values_may_be_null(endpoint: ExampleEndpoint) -> None:
    answer = predict(endpoint, {"features": {**VECTOR, "distance": None, "recent_delay": None}}).json()
    expected = example_answer({**VECTOR, "distance": None, "recent_delay": None})
    assert answer["predictions"][0]["probability"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("rows", [1, 40, 1000])
def test_every_row_gets_its_own_answer_in_order(endpoint: ExampleEndpoint, rows: int) -> None:
    vectors = [{**VECTOR, "distance": float(number)} for number in range(rows)]
    keys = [{**KEY, "distance": float(number)} for number in range(rows)]
    expected = [example_answer(vector) for vector in vectors]
    for body in ({"features": vectors}, {"keys": keys, "as_of": "2013-10-01T10:00:00Z"}):
        predictions = predict(endpoint, body).json()["predictions"]
        assert [row["probability"] for row in predictions] == pytest.approx(expected, abs=1e-6)


def test_a_tensor_is_read_as_a_vector_is(endpoint: ExampleEndpoint) -> None:
    changed = {"origin": {"data": [" JFK"]}, "carrier": {"data": ["AA\ufeff"]}, "distance": {"data": [500]}}
    probability = infer(endpoint, {"inputs": tensors(**changed)}).json()["outputs"][0]["data"]
    assert probability == pytest.approx([example_answer(VECTOR)], abs=1e-6)
    by_vector = predict(endpoint, {"features": {**VECTOR, "origin": " JFK", "hour": "8", "distance": "500"}}).json()
    assert by_vector["predictions"][0]["probability"] == pytest.approx(probability[0])


def test_a_request_id_is_kept_or_made(endpoint: ExampleEndpoint) -> None:
    mine = "0190F5A0-7D5E-7C3A-8000-0123456789AB"
    kept = predict(endpoint, {"keys": KEY}, **{"x-request-id": mine})
    assert kept.json()["request_id"] == kept.headers["x-request-id"] == mine.lower()
    for headers in ({}, {"x-request-id": "abc"}):
        made = predict(endpoint, {"keys": KEY}, **headers)
        assert UUID(made.json()["request_id"]).version == 7
        assert made.headers.get_list("x-request-id") == [made.json()["request_id"]]


MINE = "0191C0A0-0000-7000-8000-00000000000{}"


def recorded(example: ExampleEndpoint) -> pl.DataFrame:
    example.ledger.rotate()
    example.ledger.collect_leftovers()
    return raw_rows(example.settings, NAME)


def test_every_question_under_one_request_id_is_recorded(tmp_path: Path) -> None:
    mine = {"x-request-id": MINE.format(0)}
    with example_endpoint(tmp_path) as example:
        vectors = [{**VECTOR, "distance": distance} for distance in (100.0, 200.0, 300.0)]
        answers = [predict(example, {"features": vector}, **mine).json() for vector in vectors]
        given = [answer["predictions"][0]["probability"] for answer in answers]
        assert recorded(example)["probability"].to_list() == pytest.approx(given)
        assert Ledger(example.settings, NAME).frame().height == 3


@pytest.mark.parametrize("named", [{}, {"x-model-version": "7"}])
def test_a_repetition_gets_the_answer_that_is_recorded(tmp_path: Path, named: dict[str, str]) -> None:
    reader = example_reader()
    mine = {"x-request-id": MINE.format(1), **named}
    with example_endpoint(tmp_path, reader) as example:
        first = predict(example, {"keys": KEY}, **mine).json()
        reader.values = {("JFK", "AA"): (90.0, datetime(2013, 1, 1, tzinfo=UTC))}
        assert predict(example, {"keys": KEY}, **mine).json() == first
        other = predict(example, {"keys": KEY}).json()
        assert other["predictions"] != first["predictions"]
        assert recorded(example).height == 2


def together(
    example: ExampleEndpoint, times: int, after_s: float = 0.0, gone: int | None = None
) -> list[httpx.Response | BaseException]:
    """What becomes of a question and its repetitions. after_s: between the first and the others; gone: whose caller
    hangs up while all are at work."""

    async def ask() -> list[httpx.Response | BaseException]:
        headers = {"authorization": f"Bearer {example.key}", "x-request-id": MINE.format(5)}
        transport = httpx.ASGITransport(example.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            asked = [asyncio.create_task(client.post("/predict", json={"keys": KEY}))]
            await asyncio.sleep(after_s)
            asked += [asyncio.create_task(client.post("/predict", json={"keys": KEY})) for _ in range(times - 1)]
            if gone is not None:
                await asyncio.sleep(0.1)
                asked[gone].cancel()
            return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(ask())


def growing(fails: int = 0, hangs: float = 0.2) -> "Reader":
    """Finds another value each time, after a while; the first time it may fail, or hang."""
    found: list[int] = []

    def find(rows: Any) -> list[OnlineRow]:
        found.append(1)
        number = len(found)
        time.sleep(hangs if number == 1 else 0.05)
        if number <= fails:
            raise UnavailableError("The online store does not answer.")
        return [OnlineRow({"recent_delay": 10.0 * number}) for _ in rows]

    return Reader(find)


def test_a_repetition_waits_for_the_request_that_is_at_work_and_gets_its_answer(tmp_path: Path) -> None:
    with example_endpoint(tmp_path, growing()) as example:
        answers = [response.json() for response in together(example, 3) if isinstance(response, httpx.Response)]
        assert answers == answers[:1] * 3
        (probability,) = recorded(example)["probability"].to_list()
        assert probability == pytest.approx(answers[0]["predictions"][0]["probability"])
        assert example.endpoint.app.answers[200].requests == 3
        assert example.follower.counts["7", "champion"].requests == 1


def test_a_repetition_of_what_fails_is_asked_anew_and_by_one_of_them(tmp_path: Path) -> None:
    with example_endpoint(tmp_path, growing(fails=1)) as example:
        responses = [response for response in together(example, 4) if isinstance(response, httpx.Response)]
        assert [response.status_code for response in responses] == [503, 200, 200, 200]
        assert len({response.text for response in responses[1:]}) == 1
        assert recorded(example).height == 1


@pytest.mark.parametrize("gone", [0, 1])
def test_who_hangs_up_takes_no_answer_from_who_repeats_it(tmp_path: Path, gone: int) -> None:
    with example_endpoint(tmp_path, growing()) as example:
        responses = together(example, 3, gone=gone)
        assert isinstance(responses.pop(gone), asyncio.CancelledError)
        answers = [response.json() for response in responses if isinstance(response, httpx.Response)]
        assert answers == answers[:1] * 2
        (probability,) = recorded(example)["probability"].to_list()
        assert probability == pytest.approx(answers[0]["predictions"][0]["probability"])


def test_a_repetition_has_a_deadline_of_its_own(tmp_path: Path) -> None:
    with example_endpoint(tmp_path, growing(hangs=3.0), deadline_s=1.5) as example:
        started_s = time.monotonic()
        responses = together(example, 3, after_s=0.9)
        assert time.monotonic() - started_s < 3.0
        assert [getattr(response, "status_code", None) for response in responses] == [504, 200, 200]
        assert recorded(example).height == 1


def test_of_repetitions_that_wake_together_one_asks() -> None:
    scored = Scored(None, Vectors(np.zeros((1, 0)), np.zeros((1, 0))), np.zeros(1, np.float32), datetime.now(UTC))
    recent, inquiry = RecentAnswers(), Inquiry("1", b"", "", True, 100)
    asked: list[int] = []

    async def ask() -> Given:
        asked.append(1)
        if len(asked) == 1:
            await asyncio.sleep(0.01)
            raise UnavailableError("It is down.")
        return Given(str(len(asked)), BINARY, scored)

    async def all_at_once() -> list[Given | BaseException]:
        return await asyncio.gather(*(recent.once(inquiry, ask) for _ in range(4)), return_exceptions=True)

    failed, *answered = asyncio.run(all_at_once())
    assert isinstance(failed, UnavailableError)
    assert [given.version for given in answered if isinstance(given, Given)] == ["2", "2", "2"]


def test_those_who_cannot_ask_again_push_out_no_answer_of_one_who_can(tmp_path: Path) -> None:
    mine = {"x-request-id": MINE.format(3)}
    with example_endpoint(tmp_path) as example:
        example.endpoint._recent = RecentAnswers(most_rows=2)
        first = predict(example, {"features": VECTOR}, **mine).json()
        for _ in range(4):
            predict(example, {"features": VECTOR})
        assert predict(example, {"features": VECTOR}, **mine).json() == first
        assert recorded(example).filter(request_id=MINE.format(3).lower()).height == 1


def test_the_record_says_who_asked(tmp_path: Path) -> None:
    with example_endpoint(tmp_path) as example:
        made = create_key(example.store, SYSTEM, "shop", ["predict"])
        example.follower.follow_once()
        for key in (made.secret, example.key):
            headers = {"authorization": f"Bearer {key}", "x-request-id": MINE.format(2)}
            assert predict(example, {"features": VECTOR}, **headers).status_code == 200
        callers = recorded(example)["caller"].to_list()
        assert callers[0] == made.principal.id
        assert callers[1] in {record.principal.id for record in list_keys(example.store)} - {made.principal.id}


def test_recent_answers_are_bounded_by_rows_and_time() -> None:
    now = [0.0]
    recent = RecentAnswers(most_rows=10, clock=lambda: now[0])
    inquiries = [Inquiry(str(number), b"", "", True, 100) for number in range(4)]
    scored = Scored(None, Vectors(np.zeros((4, 0)), np.zeros((4, 0))), np.zeros(4, np.float32), datetime.now(UTC))
    for inquiry in inquiries:
        recent.keep(inquiry, Given("1", BINARY, scored))
    assert [recent.find(inquiry) is not None for inquiry in inquiries] == [False, False, True, True]
    recent.keep(Inquiry("ours", b"", "", False, 100), Given("1", BINARY, scored))
    assert recent.find(Inquiry("ours", b"", "", False, 100)) is None
    now[0] = KEPT_S
    assert not any(recent.find(inquiry) for inquiry in inquiries)


def test_recent_answers_are_bounded_by_the_bytes_that_were_sent() -> None:
    recent = RecentAnswers(most_bytes=1_000)
    inquiries = [Inquiry(str(number), b"", "", True, 400) for number in range(3)]
    scored = Scored(None, Vectors(np.zeros((1, 0)), np.zeros((1, 0))), np.zeros(1, np.float32), datetime.now(UTC))
    for _ in range(3):
        recent.keep(inquiries[0], Given("1", BINARY, scored))  # again is not twice
    for inquiry in inquiries:
        recent.keep(inquiry, Given("1", BINARY, scored))
    assert [recent.find(inquiry) is not None for inquiry in inquiries] == [False, True, True]
    recent.keep(Inquiry("large", b"", "", True, 2_000), Given("1", BINARY, scored))
    assert recent.find(inquiries[2]) is None


def test_two_callers_of_one_id_and_question_are_two_predictions(tmp_path: Path) -> None:
    with example_endpoint(tmp_path) as example:
        made = create_key(example.store, SYSTEM, "shop", ["predict"])
        example.follower.follow_once()
        for _ in range(2):
            for key in (made.secret, example.key):
                headers = {"authorization": f"Bearer {key}", "x-request-id": MINE.format(4)}
                assert predict(example, {"features": VECTOR}, **headers).status_code == 200
        recorded(example)
        found = Ledger(example.settings, NAME).frame()
        assert (found.height, found["caller"].n_unique()) == (2, 2)


def test_metadata_names_the_tensors(endpoint: ExampleEndpoint) -> None:
    answer = send(endpoint, "GET", "/").json()
    assert answer["name"] == "departures"
    assert answer["versions"] == ["7"]
    assert answer["inputs"][:2] == [
        {"name": "origin", "datatype": "BYTES", "shape": [-1]},
        {"name": "distance", "datatype": "FP32", "shape": [-1]},
    ]
    assert [output["name"] for output in answer["outputs"]] == ["probability", "prediction"]
    assert send(endpoint, "GET", "/ready").json() == {"name": "departures", "ready": True}


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT64"])
@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_infer_takes_every_number_type_as_json(endpoint: ExampleEndpoint, datatype: str, shape: list[int]) -> None:
    data: list[Any] = [8, 20] if len(shape) == 1 else [[8], [20]]
    inputs = [
        {**tensor(f.name, [VECTOR[f.name]] * 2, "BYTES" if f.kind == "category" else "FP32"), "shape": shape}
        for f in FEATURES
    ]
    inputs[3] |= {"data": data, "datatype": datatype}
    answer = infer(endpoint, {"id": "mine", "inputs": inputs}).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("departures", "7", "mine")
    expected = [example_answer({**VECTOR, "hour": hour}) for hour in (8, 20)]
    probability, prediction = answer["outputs"]
    assert (probability["datatype"], probability["shape"]) == ("FP32", [2])
    assert probability["data"] == pytest.approx(expected, abs=1e-6)
    assert (prediction["datatype"], prediction["data"]) == ("BOOL", [value >= 0.5 for value in expected])


def binary_request(vectors: Sequence[Mapping[str, Any]], **head: Any) -> tuple[bytes, dict[str, str]]:
    """The body and header of an infer request with every tensor in binary."""
    inputs, tail = [], b""
    for feature in FEATURES:
        values = [vector[feature.name] for vector in vectors]
        if feature.kind == "number":
            raw, datatype = np.array(values, "<f8").tobytes(), "FP64"
        else:
            raw = b"".join(struct.pack("<I", len(v.encode())) + v.encode() for v in values)
            datatype = "BYTES"
        parameters = {"binary_data_size": len(raw)}
        inputs.append({"name": feature.name, "shape": [len(values)], "datatype": datatype, "parameters": parameters})
        tail += raw
    body = json.dumps({"inputs": inputs, **head}).encode()
    return body + tail, {"inference-header-content-length": str(len(body))}


def test_infer_speaks_binary_both_ways(endpoint: ExampleEndpoint) -> None:
    vectors = [{**VECTOR, "recent_delay": delay, "carrier": "ZZ"} for delay in (1.0, float("nan"), -50.0)]
    outputs = [{"name": "prediction"}, {"name": "probability", "parameters": {"binary_data": True}}]
    content, headers = binary_request(vectors, outputs=outputs)
    answer = infer(endpoint, content, **headers, **{"content-type": "application/octet-stream"})
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    head, tail = json.loads(answer.content[:length]), answer.content[length:]
    assert [output["name"] for output in head["outputs"]] == ["prediction", "probability"]
    assert head["outputs"][1]["parameters"] == {"binary_data_size": 12}
    expected = [example_answer({**v, "recent_delay": d}) for v, d in zip(vectors, (1.0, None, -50.0), strict=True)]
    assert np.frombuffer(tail, "<f4") == pytest.approx(expected, abs=1e-6)
    assert head["outputs"][0]["data"] == [value >= 0.5 for value in expected]


def test_all_outputs_come_in_binary_when_asked(endpoint: ExampleEndpoint) -> None:
    content, headers = binary_request([VECTOR], parameters={"binary_data_output": True})
    answer = infer(endpoint, content, **headers)
    length = int(answer.headers["inference-header-content-length"])
    assert answer.content[length:] == np.float32(example_answer(VECTOR)).tobytes() + b"\x01"


# What is wrong


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"origin": None}, "origin"),
        ({"origin": "XXX"}, "origin"),
        ({"origin": 3}, "origin"),
        ({"carrier": "lower"}, "carrier"),
        ({"carrier": "A\nA"}, "carrier"),
        ({"distance": "far"}, "distance"),
        ({"distance": True}, "distance"),
        ({"distance": -1}, "distance"),
        ({"distance": 1e30}, "distance"),
        ({"distance": float("nan")}, "distance"),
        ({"distance": float("-inf")}, "distance"),
        ({"departure": "2013-10-01T12:00:00"}, "departure"),
        ({"departure": "tomorrow"}, "departure"),
        ({"departure": 1380628800}, "departure"),
        ({"departure": "0001-01-01T00:00:00+23:59"}, "departure"),
        ({"gate": "B2"}, "gate"),
    ],
)
def test_a_wrong_key_is_refused_by_name(endpoint: ExampleEndpoint, change: Json, field: str) -> None:
    assert_refused(predict(endpoint, {"keys": {**KEY, **change}}), 400, f"keys.{field}")
    assert_refused(predict(endpoint, {"keys": [KEY, {**KEY, **change}]}), 400, f"keys[1].{field}")


@pytest.mark.parametrize("name", KEY)
def test_a_missing_key_is_refused_by_name(endpoint: ExampleEndpoint, name: str) -> None:
    given = {key: value for key, value in KEY.items() if key != name}
    assert_refused(predict(endpoint, {"keys": [given]}), 400, f"keys[0].{name}")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"origin": "XXX"}, "origin"),
        ({"carrier": 1}, "carrier"),
        ({"hour": "eight"}, "hour"),
        ({"hour": float("nan")}, "hour"),
        ({"recent_delay": 1e39}, "recent_delay"),
        ({"gate": 1}, "gate"),
    ],
)
def test_a_wrong_feature_is_refused_by_name(endpoint: ExampleEndpoint, change: Json, field: str) -> None:
    assert_refused(predict(endpoint, {"features": [VECTOR, {**VECTOR, **change}]}), 400, f"features[1].{field}")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"nonsense", "body"),
        (b"[]", "body"),
        (b"NaN", "body"),
        (b'{"keys": "\xff"}', "keys"),
        (b'{"keys": {"carrier": "\xff\xfe"}}', "body"),
        (b"\xff\xfe\x00", "body"),
        (b'{"keys":' + b"[" * 1000, "keys[0]"),
        (b'{"deep":' + b"[" * 100_000, "deep"),
        (b'{"keys": {"carrier":' + b'{"a":' * 1000, "keys.carrier"),
        ({}, "keys"),
        ({"keys": KEY, "features": VECTOR}, "keys"),
        ({"keys": []}, "keys"),
        ({"features": []}, "features"),
        ({"keys": None}, "keys"),
        ({"keys": [KEY] * 1001}, "keys"),
        ({"keys": KEY, "as_of": "2013-10-01"}, "as_of"),
        ({"keys": KEY, "as_of": "2013-10-01T00:00:00"}, "as_of"),
        ({"keys": KEY, "as_of": "9999-12-31T23:59:59-12:00"}, "as_of"),
        ({"keys": KEY, "when": 1}, "when"),
    ],
)
def test_a_wrong_body_is_refused(endpoint: ExampleEndpoint, body: Any, field: str) -> None:
    assert_refused(predict(endpoint, body), 400, field)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json; charset=utf-16", "application/xml"])
def test_another_content_type_is_refused(endpoint: ExampleEndpoint, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    response = send(endpoint, "POST", "/predict", content=json.dumps({"keys": KEY}), headers=headers)
    assert_refused(response, 415, "content-type")


def test_a_compressed_body_is_refused(endpoint: ExampleEndpoint) -> None:
    headers = {**JSON, "content-encoding": "gzip"}
    response = send(
        endpoint, "POST", "/predict", content=gzip.compress(json.dumps({"keys": KEY}).encode()), headers=headers
    )
    assert_refused(response, 415, "content-encoding")


def test_a_body_declared_too_large_is_refused_unread(endpoint: ExampleEndpoint) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    headers = {**JSON, "content-length": "50000000"}
    assert_refused(send(endpoint, "POST", "/predict", content=never(), headers=headers), 413, "body")


def test_a_body_that_grows_too_large_is_not_read_to_the_end(endpoint: ExampleEndpoint) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1_000_000
            yield b" " * 1_000_000

    assert_refused(send(endpoint, "POST", "/predict", content=endless(), headers=JSON), 413, "body")
    assert sent <= MAX_BODY_BYTES + 2_000_000


def test_a_body_that_stalls_is_given_up(tmp_path: Path) -> None:
    async def stalled() -> None:
        await asyncio.sleep(5)

    sent = []

    async def keep(message: Any) -> None:
        sent.append(message)

    with example_endpoint(tmp_path, deadline_s=0.02) as endpoint:
        headers = [(b"content-type", b"application/json"), (b"authorization", f"Bearer {endpoint.key}".encode())]
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers}
        asyncio.run(endpoint.app(scope, stalled, keep))  # type: ignore[arg-type]
    assert sent[0]["status"] == 408


def test_other_paths_and_methods_are_refused(endpoint: ExampleEndpoint) -> None:
    assert_refused(send(endpoint, "GET", "/nothing"), 404, None)
    refused = send(endpoint, "GET", "/predict")
    assert_refused(refused, 405, None)
    assert refused.headers["allow"] == "POST"
    assert_refused(send(endpoint, "DELETE", "/ready"), 405, None)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "gate"}, "inputs[3].name"),
        ({"name": "origin"}, "inputs[3].name"),
        ({"datatype": "BF16"}, "inputs[3].datatype"),
        ({"datatype": "BOOL", "data": [True]}, "inputs[3].datatype"),
        ({"parameters": {"shared_memory_region": "r"}}, "inputs[3].parameters.shared_memory_region"),
        ({"parameters": {"content_type": 5}}, "inputs[3].parameters.content_type"),
        ({"parameters": 5}, "inputs[3].parameters"),
        ({"datatype": "BYTES", "data": ["8"]}, "inputs[3].datatype"),
        ({"shape": [2]}, "inputs[3].data"),
        ({"shape": [1, 2]}, "inputs[3].shape"),
        ({"shape": [0], "data": []}, "inputs[3].shape"),
        ({"shape": []}, "inputs[3].shape"),
        ({"shape": [-1]}, "inputs[3].shape[0]"),
        ({"shape": [100_000]}, "inputs[3].shape"),
        ({"data": ["8"]}, "inputs[3].data[0]"),
        ({"data": [True]}, "inputs[3].data[0]"),
        ({"data": [[8, 9]]}, "inputs[3].data"),
        ({"data": [float("nan")]}, "inputs[3].data[0]"),
        ({"data": [10**400]}, "inputs[3].data[0]"),
        ({"data": [1e39]}, "inputs[3].data[0]"),
        ({"data": [1.5], "datatype": "INT32"}, "inputs[3].data[0]"),
        ({"data": [300], "datatype": "UINT8"}, "inputs[3].data[0]"),
        ({"data": [-1], "datatype": "UINT64"}, "inputs[3].data[0]"),
        ({"data": [-129], "datatype": "INT8"}, "inputs[3].data[0]"),
        ({"data": [2**63], "datatype": "INT64"}, "inputs[3].data[0]"),
        ({"data": [70_000.0], "datatype": "FP16"}, "inputs[3].data[0]"),
        ({"data": None}, "inputs[3].data"),
        ({"parameters": {"binary_data_size": 4}}, "inputs[3].parameters.binary_data_size"),
        ({"colour": 1}, "inputs[3].colour"),
    ],
)
def test_a_wrong_tensor_is_refused_by_name(endpoint: ExampleEndpoint, change: Json, field: str) -> None:
    assert_refused(infer(endpoint, {"inputs": tensors(hour=change)}), 400, field)


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ([], "inputs"),
        (tensors()[1:], "inputs.origin"),
        (tensors(origin={"data": ["XXX"]}), "inputs[0].data[0]"),
        (tensors(origin={"data": [None]}), "inputs[0].data[0]"),
        (tensors(carrier={"data": ["a"]}), "inputs[2].data[0]"),
        (tensors(carrier={"data": [5]}), "inputs[2].data[0]"),
        (tensors(distance={"data": [-5]}), "inputs[1].data[0]"),
        (tensors(hour={"data": [1, 2], "shape": [2]}), "inputs"),
    ],
)
def test_wrong_inputs_are_refused(endpoint: ExampleEndpoint, inputs: list[Json], field: str) -> None:
    assert_refused(infer(endpoint, {"inputs": inputs}), 400, field)


def test_unknown_outputs_and_what_is_given_twice_is_refused(endpoint: ExampleEndpoint) -> None:
    assert_refused(infer(endpoint, {"inputs": tensors(), "outputs": [{"name": "x"}]}), 400, "outputs[0].name")
    classified = [{"name": "probability", "parameters": {"classification": 2}}]
    refused = infer(endpoint, {"inputs": tensors(), "outputs": classified})
    assert_refused(refused, 400, "outputs[0].parameters.classification")
    twice = json.dumps({"inputs": tensors()})[:-1] + ', "parameters": {"x": {"a": 1, "a": 2}}}'
    assert_refused(infer(endpoint, twice), 400, "parameters.x.a")
    assert_refused(infer(endpoint, b'{"inputs":[{"data":' + b"[" * 1000), 400, "inputs[0].data[0][0]")
    contrary = [{"name": "probability", "parameters": {"binary_data": binary}} for binary in (True, False)]
    assert_refused(infer(endpoint, {"inputs": tensors(), "outputs": contrary}), 400, "outputs[1].name")


@pytest.mark.parametrize("passed_over", [b'"\xff"', *(b"[" * depth + b"]" * depth for depth in range(920, 1000, 4))])
@pytest.mark.parametrize("twice", ["inputs", "id"])
def test_what_is_passed_over_hides_no_name_that_is_given_twice(
    endpoint: ExampleEndpoint, twice: str, passed_over: bytes
) -> None:
    given = {"inputs": tensors(hour={"data": [23]}), "id": "b"}
    body = json.dumps({"inputs": tensors(), "id": "a"})[:-1] + f', "{twice}": {json.dumps(given[twice])}'
    response = infer(endpoint, body.encode() + b', "parameters": {"x": ' + passed_over + b"}}")
    assert response.status_code == 400, response.text


def cut_tail(content: bytes, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    return content[:-1], headers


def longer_tail(content: bytes, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    return content + b"x", headers


def header_beyond_body(content: bytes, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    return content, {"inference-header-content-length": str(len(content) + 1)}


def header_without_number(content: bytes, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    return content, {"inference-header-content-length": "-5"}


def text_length_too_long(content: bytes, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    at = int(headers["inference-header-content-length"])
    return content[:at] + struct.pack("<I", 2**31) + content[at + 4 :], headers


def text_not_utf8(content: bytes, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    at = int(headers["inference-header-content-length"]) + 4
    return content[:at] + b"\xff" + content[at + 1 :], headers


@pytest.mark.parametrize(
    "change", [cut_tail, longer_tail, header_beyond_body, header_without_number, text_length_too_long, text_not_utf8]
)
def test_broken_binary_data_is_refused(
    endpoint: ExampleEndpoint, change: Callable[..., tuple[bytes, dict[str, str]]]
) -> None:
    content, headers = change(*binary_request([VECTOR]))
    response = infer(endpoint, content, **headers)
    assert response.status_code == 400, response.text
    assert response.json()["field"]


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes().map(str)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from([*KEY, "x"]), values), st.sampled_from(["keys", "features", "as_of"]))
def test_no_value_brings_the_endpoint_down(endpoint: ExampleEndpoint, change: Json, where: str) -> None:
    body: Json = {"keys": {**KEY, **change}} if where == "keys" else {"features": {**VECTOR, **change}}
    if where == "as_of":
        body = {"keys": KEY, "as_of": next(iter(change.values()), None)}
    assert predict(endpoint, body).status_code in (200, 400)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([f.name for f in FEATURES]), st.dictionaries(st.sampled_from(["data", "shape"]), values))
def test_no_tensor_brings_the_endpoint_down(endpoint: ExampleEndpoint, name: str, change: Json) -> None:
    assert infer(endpoint, {"inputs": tensors(**{name: change})}).status_code in (200, 400)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 10_000, width=32), st.text(), st.floats(-1e6, 1e6, width=32))
def test_any_vector_of_the_right_types_is_answered_as_the_model_does(
    endpoint: ExampleEndpoint, distance: float, carrier: str, delay: float
) -> None:
    content, headers = binary_request([{**VECTOR, "distance": distance, "recent_delay": delay}])
    assert infer(endpoint, content, **headers).status_code == 200
    vector = {**VECTOR, "distance": distance, "recent_delay": delay, "hour": None}
    (answer,) = predict(endpoint, {"features": vector}).json()["predictions"]
    assert answer["probability"] == pytest.approx(stable_answer(vector), abs=1e-4)


def stable_answer(vector: Json) -> float:
    try:
        return example_answer(vector)
    except OverflowError:
        return 0.0


@pytest.mark.parametrize(
    "version", ["9" * 24, "9" * 5_000, "2147483648", "0", "-1", "1.5", "1e400", '"7"', "null", "true", "[7]", "NaN"]
)
def test_what_is_no_number_of_a_version_starts_no_rollout(endpoint: ExampleEndpoint, version: str) -> None:
    response = send(endpoint, "POST", "/rollout", content=f'{{"version": {version}, "revision": 1}}', headers=JSON)
    assert_refused(response, 400, "body")
    assert len(response.json()["error"]) < 300
    unknown = {"version": 2**31 - 1, "revision": 1}
    assert_refused(send(endpoint, "POST", "/rollout", json=unknown), 400, None)


# What is down


class Reader:
    """An online store that does what a test wants."""

    waits = True

    def __init__(self, find: Callable[[Any], list[OnlineRow]]):
        self.seconds, self.reads = 0.0, 0
        self.missing, self.stale = dict[str, int](), dict[str, int]()
        self._find = find

    def find(self, rows: Any, moments: Any) -> list[OnlineRow]:
        return self._find(rows)

    def close(self) -> None:
        pass


def test_an_online_store_that_is_down_is_a_503_and_vectors_still_work(tmp_path: Path) -> None:
    def down(rows: Any) -> list[OnlineRow]:
        raise UnavailableError("The online store does not answer.")

    with example_endpoint(tmp_path, Reader(down)) as endpoint:
        refused = predict(endpoint, {"keys": KEY})
        assert_refused(refused, 503, None)
        assert refused.json()["error"] == "The online store does not answer."
        assert predict(endpoint, {"features": VECTOR}).status_code == 200


def test_a_slow_answer_is_a_504_at_the_deadline(tmp_path: Path) -> None:
    def slow(rows: Any) -> list[OnlineRow]:
        time.sleep(0.5)
        return [OnlineRow() for _ in rows]

    with example_endpoint(tmp_path, Reader(slow), deadline_s=0.05) as endpoint:
        started = time.monotonic()
        assert_refused(predict(endpoint, {"keys": KEY}, **{"x-request-timeout-seconds": "99"}), 504, None)
        assert time.monotonic() - started < 0.5 + 0.4


def test_a_bug_is_a_500_without_its_details(tmp_path: Path) -> None:
    def broken(rows: Any) -> list[OnlineRow]:
        raise ZeroDivisionError("secret detail")

    with example_endpoint(tmp_path, Reader(broken)) as endpoint:
        response = predict(endpoint, {"keys": KEY})
        assert_refused(response, 500, None)
        assert "secret" not in response.text


def test_a_model_with_online_features_needs_a_reader(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="feature service 'departures'"):
        Predictor(load(tmp_path, seal_example(tmp_path)), None)


def test_a_folder_is_not_needed_after_loading(tmp_path: Path) -> None:
    with example_endpoint(tmp_path) as endpoint:
        shutil.rmtree(tmp_path / "sealed")
        assert predict(endpoint, {"features": VECTOR}).status_code == 200
