"""Reasons of an answer, over HTTP: they add up to it, are the same again, and nobody pays who did not ask."""

from collections.abc import Iterator

import jsonschema
import numpy as np
import pytest

from mlops_ray.client.predictions import answer_of
from mlops_ray.tasks.binary import BINARY
from mlops_ray.testing.example_endpoint import ExampleEndpoint, example_endpoint
from tests.task_models import DELAY, OUTCOME, VECTORS, sealed_as
from tests.unit.test_endpoint import KEY, assert_refused, predict, send

TASKS = (BINARY, OUTCOME, DELAY)


@pytest.fixture(scope="module", params=TASKS, ids=lambda task: task.kind)
def endpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleEndpoint]:
    folder = tmp_path_factory.mktemp(request.param.kind)
    with example_endpoint(folder, seal=sealed_as(request.param)) as example:
        yield example


def on_scale(row: dict[str, object]) -> float:
    """What is answered, on the scale of its reasons."""
    if "probabilities" in row:
        share = row["probabilities"][row["prediction"]]  # type: ignore[index]
    elif "probability" in row:
        share = row["probability"]
    else:
        return float(row["prediction"])  # type: ignore[arg-type]
    return float(np.log(share / (1 - share)))


def test_base_and_contributions_add_up_to_the_answer(endpoint: ExampleEndpoint) -> None:
    plain = predict(endpoint, {"features": VECTORS}).json()
    asked = predict(endpoint, {"features": VECTORS, "explain": True}).json()
    for row, before in zip(asked["predictions"], plain["predictions"], strict=True):
        reasons = row.pop("reasons")
        assert row == before
        sizes = [abs(value) for value in reasons["contributions"].values()]
        assert sizes == sorted(sizes, reverse=True)
        assert set(reasons["contributions"]) == set(VECTORS[0])
        total = reasons["base"] + sum(reasons["contributions"].values())
        assert total == pytest.approx(on_scale(row), rel=1e-4, abs=1e-3)


def test_the_same_question_has_the_same_reasons(endpoint: ExampleEndpoint) -> None:
    first, second = (predict(endpoint, {"features": VECTORS[:1], "explain": True}).json() for _ in range(2))
    assert first["predictions"] == second["predictions"]
    (prediction,) = answer_of(first).predictions
    assert prediction.reasons == first["predictions"][0]["reasons"]


def test_an_answer_by_keys_is_explained_too_and_fits_the_document(endpoint: ExampleEndpoint) -> None:
    answer = predict(endpoint, {"keys": KEY, "explain": True}).json()
    assert "reasons" in answer["predictions"][0]
    document = send(endpoint, "GET", "/openapi.json").json()
    schema = {"$ref": "#/components/schemas/Prediction", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(answer)


def test_more_rows_than_can_be_explained_in_time_are_refused(endpoint: ExampleEndpoint) -> None:
    assert_refused(predict(endpoint, {"features": VECTORS[:1] * 11, "explain": True}), 400, "explain")
    assert predict(endpoint, {"features": VECTORS[:1] * 11, "explain": False}).status_code == 200
    assert_refused(predict(endpoint, {"features": VECTORS[:1], "explain": "yes"}), 400, "explain")
