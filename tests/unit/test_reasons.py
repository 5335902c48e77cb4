"""Reasons of an answer, over HTTP: they add up to it, are the same again, and nobody pays who did not ask."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import onnx
import polars as pl
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mlops_ray.client.predictions import answer_of
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.live import Plan, Rules, Step, VersionRef
from mlops_ray.governance.rollouts import start_rollout
from mlops_ray.registry.onnx_model import OnnxModel, _with_output_alone
from mlops_ray.registry.sealed_model import load
from mlops_ray.sdk.rows import with_answers
from mlops_ray.serving.predictor import Predictor
from mlops_ray.tasks.binary import BINARY
from mlops_ray.testing.example_endpoint import NAME, ExampleEndpoint, example_endpoint
from mlops_ray.training.encoding import fit_encoder
from mlops_ray.training.side_by_side import SideBySide
from mlops_ray.use_case import Feature
from tests.task_models import DELAY, OUTCOME, VECTORS, sealed_as
from tests.unit.test_endpoint import KEY, assert_refused, predict, recorded, send

QUANTILES = replace(DELAY, quantiles=(0.1, 0.9))
TASKS = {"binary": BINARY, "multiclass": OUTCOME, "regression": DELAY, "quantiles": QUANTILES}


@pytest.fixture(scope="module", params=TASKS.values(), ids=TASKS)
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


def assert_documented(endpoint: ExampleEndpoint, answer: Any) -> None:
    document = send(endpoint, "GET", "/openapi.json").json()
    schema = {"$ref": "#/components/schemas/Prediction", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(answer)


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


def test_reasons_of_a_number_with_quantiles_are_made_by_the_model_of_the_number_alone(tmp_path: Path) -> None:
    digest = sealed_as(QUANTILES)(tmp_path / "sealed", 7)
    sealed = load(tmp_path / "sealed", digest)
    assert sealed.explained is not None
    numbers, categories = sealed.explained.background
    alone = sealed.explained.answers(numbers, categories)
    assert alone.shape == (len(numbers),)
    assert np.array_equal(alone, sealed.model.answers(numbers, categories)[:, 0])
    assert len(numbers) == 8, "All held-out rows, as with a number that has no quantiles."
    whole = onnx.load(tmp_path / "sealed" / "model.onnx")
    cut = _with_output_alone(whole, "estimate")
    assert cut is not None
    parts = [one.graph for one in (whole, cut)]
    weights = [sum("weights" in one.name for one in graph.initializer) for graph in parts]
    assert weights[0] == 3 * weights[1] > 0


def test_a_model_of_quantiles_that_was_sealed_without_its_number_apart_is_explained_by_all_of_it(
    tmp_path: Path,
) -> None:
    digest = sealed_as(QUANTILES)(tmp_path, 7)
    sealed, model = load(tmp_path, digest), onnx.load(tmp_path / "model.onnx")
    del model.graph.output[1:]
    assert sealed.explained is not None
    earlier = OnnxModel(model.SerializeToString(), sealed.schema.features, QUANTILES)
    answers = earlier.explained(*sealed.explained.background)
    assert np.array_equal(
        QUANTILES.additive(answers, answers[0]), sealed.explained.answers(*sealed.explained.background)
    )


class Branches:
    """A model of the first column, whose file takes a value from outside into the branches of an If."""

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return matrix[:, 0].astype(np.float64)

    def to_onnx(self) -> bytes:
        def number(name: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows"])

        def branch(name: str) -> onnx.GraphProto:
            return helper.make_graph([helper.make_node("Identity", ["first"], [name])], name, [], [number(name)])

        nodes = [
            helper.make_node("Gather", ["matrix", "zero"], ["first"], axis=1),
            helper.make_node("If", ["yes"], ["prediction"], then_branch=branch("one"), else_branch=branch("other")),
        ]
        values = [numpy_helper.from_array(np.array(0), "zero"), numpy_helper.from_array(np.array(True), "yes")]
        matrix = helper.make_tensor_value_info("matrix", TensorProto.FLOAT, ["rows", 1])
        graph = helper.make_graph(nodes, "branches", [matrix], [number("prediction")], values)
        opset = [helper.make_opsetid("", 18)]
        return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()  # type: ignore[no-any-return]


def test_a_model_of_quantiles_whose_file_cannot_be_cut_is_explained_by_all_of_it() -> None:
    features, frame = (Feature("x", "number"),), pl.DataFrame({"x": [1.0, 2.0]})
    content = fit_encoder(frame, features).wrap_onnx(SideBySide((Branches(),) * 3, "prediction").to_onnx())
    model = OnnxModel(content, features, QUANTILES)
    assert model.explained(np.array([[7.0]], np.float32), np.empty((1, 0), object)).tolist() == [[7, 7, 7]]


@pytest.mark.parametrize("task", [BINARY, OUTCOME, DELAY], ids=lambda task: task.kind)
def test_reasons_are_about_the_answer_whatever_else_a_model_gives(task: Any) -> None:
    assert task.explained_output == task.output


def test_the_same_question_has_the_same_reasons(endpoint: ExampleEndpoint) -> None:
    first, second = (predict(endpoint, {"features": VECTORS[:1], "explain": True}).json() for _ in range(2))
    assert first["predictions"] == second["predictions"]
    (prediction,) = answer_of(first).predictions
    assert prediction.reasons == first["predictions"][0]["reasons"]


def test_reasons_that_are_given_are_recorded(tmp_path: Path) -> None:
    with example_endpoint(tmp_path, seal=sealed_as(OUTCOME)) as example:
        answer = predict(example, {"features": VECTORS, "explain": True}).json()
        assert predict(example, {"features": VECTORS[:1]}).status_code == 200
        found = recorded(example).sort("time", "row")["reasons"].to_list()
        assert [text and json.loads(text) for text in found] == [
            *[row["reasons"] for row in answer["predictions"]],
            None,
        ]


def test_an_answer_by_keys_is_explained_too_and_fits_the_document(endpoint: ExampleEndpoint) -> None:
    answer = predict(endpoint, {"keys": KEY, "explain": True}).json()
    assert "reasons" in answer["predictions"][0]
    assert_documented(endpoint, answer)


def test_more_rows_than_can_be_explained_in_time_are_refused(endpoint: ExampleEndpoint) -> None:
    assert_refused(predict(endpoint, {"features": VECTORS[:1] * 11, "explain": True}), 400, "explain")
    assert predict(endpoint, {"features": VECTORS[:1] * 11, "explain": False}).status_code == 200
    assert_refused(predict(endpoint, {"features": VECTORS[:1], "explain": "yes"}), 400, "explain")


def slow(numbers: Any) -> None:
    time.sleep(0.02 * len(numbers))


def broken(numbers: Any) -> None:
    raise ValueError("no reason")


def whose_reasons(folder: Path, does: Any, deadline_s: float, versions: int = 1) -> AbstractContextManager[Any]:
    """An endpoint whose models do something before they answer what only reasons ask."""

    def change(version: VersionRef, predictor: Predictor) -> Predictor:
        explained = predictor.sealed.explained
        assert explained is not None

        def answers(numbers: Any, categories: Any) -> Any:
            does(numbers)
            return explained.answers(numbers, categories)

        sealed = replace(predictor.sealed, explained=replace(explained, answers=answers))
        return Predictor(sealed, predictor.reader)

    return example_endpoint(folder, change=change, deadline_s=deadline_s, versions=versions, seal=sealed_as(BINARY))


def test_an_answer_whose_reasons_are_not_ready_before_the_deadline_is_given_and_recorded(tmp_path: Path) -> None:
    with whose_reasons(tmp_path, slow, deadline_s=1.0) as example:
        asked = predict(example, {"features": VECTORS, "explain": True})
        assert asked.status_code == 200
        for row in asked.json()["predictions"]:
            assert row["reasons"] is None
            assert "in time" in row["reasons_missing"]
        assert_documented(example, asked.json())
        answer = answer_of(asked.json())
        assert with_answers(pl.DataFrame({"x": [1, 2, 3]}), [answer])["reasons"].to_list() == [None] * 3
        assert recorded(example).height == len(VECTORS)


def test_reasons_that_cannot_be_found_fail_no_answer(tmp_path: Path) -> None:
    with whose_reasons(tmp_path, broken, deadline_s=10.0) as example:
        (row,) = predict(example, {"features": VECTORS[:1], "explain": True}).json()["predictions"]
        assert row["reasons"] is None
        assert "log" in row["reasons_missing"]
        counts = example.follower.counts["7", "champion"]
        assert (counts.requests, counts.errors) == (1, 0)
        assert recorded(example).height == 1


def test_a_model_sealed_without_rows_to_explain_against_says_so_beside_its_answer(tmp_path: Path) -> None:
    def bare(version: VersionRef, predictor: Predictor) -> Predictor:
        return Predictor(replace(predictor.sealed, explained=None), predictor.reader)

    with example_endpoint(tmp_path, change=bare) as example:
        (row,) = predict(example, {"features": VECTORS[:1], "explain": True}).json()["predictions"]
        assert row["reasons"] is None
        assert "No held-out rows" in row["reasons_missing"]


@pytest.mark.parametrize("does", [slow, broken])
def test_a_canary_is_judged_by_its_answer_and_not_by_its_reasons(tmp_path: Path, does: Any) -> None:
    with whose_reasons(tmp_path, does, deadline_s=2.5, versions=2) as example:
        plan = Plan((Step("canary", 1.0, 3600),), Rules(min_requests=10**9))
        start_rollout(example.store, SYSTEM, NAME, example.sealed[8], plan)
        for _ in range(3):
            example.follower.follow_once()
        for explain in (True, False):
            answer = predict(example, {"features": VECTORS, "explain": explain}).json()
            assert answer["version"] == "8"
        counts = example.follower.counts["8", "canary"]
        assert (counts.requests, counts.errors) == (2, 0)
        assert recorded(example)["latency_s"].max() < 1.0  # type: ignore[operator]


def test_who_asks_for_no_reasons_does_not_wait_behind_those_who_do(tmp_path: Path) -> None:
    took: dict[bool, float] = {}

    async def ask(client: httpx.AsyncClient, rows: int, explain: bool) -> None:
        started_s = time.perf_counter()
        answer = await client.post("/predict", json={"features": VECTORS[:1] * rows, "explain": explain})
        assert answer.status_code == 200
        took[explain] = time.perf_counter() - started_s

    async def ask_both(example: ExampleEndpoint) -> None:
        headers = {"authorization": f"Bearer {example.key}"}
        transport = httpx.ASGITransport(example.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            why = [asyncio.create_task(ask(client, 3, explain=True)) for _ in range(2)]
            await asyncio.sleep(0.1)
            await ask(client, 40, explain=False)  # more than are answered on the event loop
            assert not any(task.done() for task in why)
            await asyncio.gather(*why)

    with whose_reasons(tmp_path, slow, deadline_s=3.0) as example:
        asyncio.run(ask_both(example))
    assert took[False] < 2.0 < took[True] < 3.0
