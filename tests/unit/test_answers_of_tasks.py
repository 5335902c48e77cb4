"""Answers that are numbers or classes: as JSON, as tensors, in the ledger, in shadow, and in the client."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.client.predictions import Prediction, answer_of
from mlops_ray.predictions.compaction import compact
from mlops_ray.predictions.reader import Ledger
from mlops_ray.tasks.task import Task
from mlops_ray.testing.example_endpoint import NAME, ExampleEndpoint, example_endpoint
from tests.task_models import DELAY, OUTCOME, VECTORS, expected_answers, outcomes_then_late, sealed_as
from tests.unit.test_endpoint import KEY, assert_refused, binary_request, infer, predict, send
from tests.unit.test_labels import stored
from tests.unit.test_shadow import ask, mirror_everything


@pytest.fixture(scope="module")
def delays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleEndpoint]:
    with example_endpoint(tmp_path_factory.mktemp("delays"), seal=sealed_as(DELAY)) as example:
        yield example


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleEndpoint]:
    with example_endpoint(tmp_path_factory.mktemp("outcomes"), seal=sealed_as(OUTCOME)) as example:
        yield example


def kept(endpoint: ExampleEndpoint, request_id: str) -> pl.DataFrame:
    stored(endpoint)
    return Ledger(endpoint.settings, NAME).find(request_id).sort("row")


def compacted(example: ExampleEndpoint) -> None:
    compact(Artifacts(example.settings.artifacts), NAME, lambda segment: True)


# Answers


def test_a_number_is_answered_recorded_and_compacted_as_itself(delays: ExampleEndpoint) -> None:
    answer = predict(delays, {"features": VECTORS}).json()
    expected = expected_answers(DELAY, VECTORS)
    assert answer["predictions"] == [{"prediction": pytest.approx(value, abs=1e-4)} for value in expected]
    rows = kept(delays, answer["request_id"])
    assert rows["prediction"].dtype == pl.Float32
    assert rows["prediction"].to_list() == [row["prediction"] for row in answer["predictions"]]
    assert "probability" not in rows.columns
    compacted(delays)
    assert kept(delays, answer["request_id"]).equals(rows)


def test_classes_are_answered_recorded_and_compacted_with_their_probabilities(outcomes: ExampleEndpoint) -> None:
    answer = predict(outcomes, {"features": VECTORS}).json()
    expected = expected_answers(OUTCOME, VECTORS)
    names = [row["prediction"] for row in answer["predictions"]]
    assert names == [OUTCOME.classes[at] for at in expected.argmax(axis=1)]
    assert len(set(names)) > 1, "the rows differ"
    for row, probabilities in zip(answer["predictions"], expected, strict=True):
        assert row["probabilities"] == dict(zip(OUTCOME.classes, map(pytest.approx, probabilities), strict=True))
    rows = kept(outcomes, answer["request_id"])
    assert rows["probabilities"].to_list() == [list(row["probabilities"].values()) for row in answer["predictions"]]
    assert "probability" not in rows.columns
    compacted(outcomes)
    assert kept(outcomes, answer["request_id"]).equals(rows)
    assert Ledger(outcomes.settings, NAME).frame(columns=["probabilities"]).width == 1


@pytest.mark.parametrize(("task", "name"), [(DELAY, "delays"), (OUTCOME, "outcomes")])
def test_keys_give_what_features_give(task: Task, name: str, request: pytest.FixtureRequest) -> None:
    endpoint = request.getfixturevalue(name)
    given = predict(endpoint, {"keys": [KEY], "as_of": "2013-10-01T10:00:00Z"}).json()["predictions"][0]
    vector = {"origin": "JFK", "distance": 500.0, "carrier": "AA", "hour": 8.0, "recent_delay": 30.0}
    assert {part: given[part] for part in task.row_schema} == predict(endpoint, {"features": [vector]}).json()[
        "predictions"
    ][0]


def test_tensors_have_the_datatype_and_the_shape_that_the_description_says(
    delays: ExampleEndpoint, outcomes: ExampleEndpoint
) -> None:
    described = {kind: send(one, "GET", "").json()["outputs"] for kind, one in (("d", delays), ("o", outcomes))}
    assert described["d"] == [{"name": "prediction", "datatype": "FP32", "shape": [-1]}]
    assert described["o"] == [
        {
            "name": "probabilities",
            "datatype": "FP32",
            "shape": [-1, 3],
            "parameters": {"of": ["on time", "late", "cancelled"]},
        },
        {"name": "prediction", "datatype": "BYTES", "shape": [-1]},
    ]
    content, headers = binary_request([{**one, "recent_delay": float("nan")} for one in VECTORS])
    (number,) = infer(delays, content, **headers).json()["outputs"]
    assert (number["datatype"], number["shape"]) == ("FP32", [3])
    assert number["data"] == pytest.approx(expected_answers(DELAY, VECTORS).tolist(), abs=1e-4)
    probabilities, predicted = infer(outcomes, content, **headers).json()["outputs"]
    expected = expected_answers(OUTCOME, VECTORS)
    assert (probabilities["datatype"], probabilities["shape"]) == ("FP32", [3, 3])
    assert np.reshape(probabilities["data"], (3, 3)) == pytest.approx(expected, abs=1e-6)
    assert (predicted["datatype"], predicted["shape"]) == ("BYTES", [3])
    assert predicted["data"] == [OUTCOME.classes[at] for at in expected.argmax(axis=1)]


def test_tensors_of_classes_come_in_binary_when_asked(outcomes: ExampleEndpoint) -> None:
    vectors = [{**one, "recent_delay": float("nan")} for one in VECTORS]
    content, headers = binary_request(vectors, parameters={"binary_data_output": True})
    answer = infer(outcomes, content, **headers)
    length = int(answer.headers["inference-header-content-length"])
    head, tail = json.loads(answer.content[:length]), answer.content[length:]
    sizes = [output["parameters"]["binary_data_size"] for output in head["outputs"]]
    assert sizes[0] == 3 * 3 * 4
    assert len(tail) == sum(sizes)
    expected = expected_answers(OUTCOME, VECTORS)
    assert np.frombuffer(tail[:36], "<f4").reshape(3, 3) == pytest.approx(expected, abs=1e-6)
    names = [OUTCOME.classes[at].encode() for at in expected.argmax(axis=1)]
    assert tail[36:] == b"".join(struct.pack("<I", len(name)) + name for name in names)


def test_an_output_that_a_model_has_not_is_refused_by_name(delays: ExampleEndpoint) -> None:
    content, headers = binary_request(
        [{**VECTORS[0], "recent_delay": 0.0}], outputs=[{"name": "prediction"}, {"name": "probability"}]
    )
    answer = infer(delays, content, **headers)
    assert_refused(answer, 400, "outputs[1].name")
    assert "'probability' is not an output of this model (prediction)" in answer.json()["error"]


@pytest.mark.parametrize("name", ["delays", "outcomes"])
def test_answers_and_labels_are_what_the_document_says(name: str, request: pytest.FixtureRequest) -> None:
    endpoint = request.getfixturevalue(name)
    document = send(endpoint, "GET", "/openapi.json").json()

    def expect(value: Any, schema: str, fits: bool = True) -> None:
        whole = {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
        found = list(jsonschema.Draft202012Validator(whole).iter_errors(value))
        assert bool(found) != fits, found

    content, headers = binary_request([{**VECTORS[0], "recent_delay": 0.0}])
    expect(predict(endpoint, {"features": VECTORS}).json(), "Prediction")
    expect(infer(endpoint, content, **headers).json(), "Inference")
    expect(send(endpoint, "GET", "").json(), "Metadata")
    told = {"request_id": "0191C0A0-0000-7000-8000-000000000001", "label": {"delays": 3.5, "outcomes": "late"}[name]}
    expect({"labels": [told]}, "Labels")
    expect({"labels": [{**told, "label": None}]}, "Labels")
    expect({"labels": [{**told, "label": True}]}, "Labels", fits=False)


def test_the_client_reads_every_kind_of_answer(delays: ExampleEndpoint, outcomes: ExampleEndpoint) -> None:
    number = answer_of(predict(delays, {"features": VECTORS[:1]}).json()).predictions[0]
    assert (number.probability, number.probabilities) == (None, None)
    assert isinstance(number.prediction, float)
    named = answer_of(predict(outcomes, {"features": VECTORS[:1]}).json()).predictions[0]
    assert named.probabilities is not None
    assert named.prediction == max(named.probabilities, key=named.probabilities.__getitem__)
    assert Prediction(0.25, False) == Prediction(0.25, False, (), (), False, None)


# Versions


@pytest.mark.parametrize("task", [DELAY, OUTCOME], ids=lambda task: task.kind)
def test_a_shadow_of_the_same_kind_is_compared_and_recorded(task: Task, tmp_path: Path) -> None:
    with example_endpoint(tmp_path, versions=2, seal=sealed_as(task)) as example:
        mirror_everything(example)
        ask(example, 3)
        counts = example.follower.counts["8", "shadow"]
        assert (counts.compared, counts.difference) == (3, 0.0)
        stored(example)
        rows = Ledger(example.settings, NAME).frame()
        assert (rows.height, rows[next(iter(task.ledger_types))].null_count()) == (6, 0)


def test_a_shadow_of_another_kind_is_recorded_beside_and_not_compared(tmp_path: Path) -> None:
    with example_endpoint(tmp_path, versions=2, seal=outcomes_then_late) as example:
        mirror_everything(example)
        ask(example, 1)
        counts = example.follower.counts["8", "shadow"]
        assert (counts.requests, counts.errors, counts.compared) == (1, 0, 0)
        stored(example)
        rows = Ledger(example.settings, NAME).frame().sort("route")
        assert rows["probability"].is_null().to_list() == [True, False]
        assert rows["probabilities"].is_null().to_list() == [False, True]
        compacted(example)
        assert Ledger(example.settings, NAME).frame().sort("route").equals(rows.select(rows.columns))
