"""A model that answers what is no probability fails, and is seen to fail: never a 200 with null in it."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlops_ray.errors import DataError, IntegrityError, ModelError
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.live import Plan, Step, VersionRef, live
from mlops_ray.governance.rollouts import start_rollout
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.registry.onnx_model import OnnxModel
from mlops_ray.registry.sealed_model import golden_cases, load, seal
from mlops_ray.serving.batching import Batcher
from mlops_ray.serving.predictor import Predictor, Vectors
from mlops_ray.testing.example_endpoint import NAME, example_endpoint
from mlops_ray.testing.example_model import FEATURES, example_onnx, example_reader
from mlops_ray.use_case import Feature
from tests.unit.test_endpoint import KEY, VECTOR, infer, predict, tensors
from tests.unit.test_sealed_model import example_schema, reseal, seal_example
from tests.unit.test_versions import follow

X = (Feature("x", "number"),)


def echo_onnx() -> bytes:
    """A model whose answer is its only feature."""
    nodes = [helper.make_node("Reshape", ["numbers", "flat"], ["probability"])]
    graph = helper.make_graph(
        nodes,
        "echo",
        [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None])],
        [numpy_helper.from_array(np.array([-1], np.int64), "flat")],
    )
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
    return content


FAR, NEAR = {**VECTOR, "distance": 9_500.0}, VECTOR


def nan_when_far(farther_than: float = 9_000) -> bytes:
    """The example, which now answers NaN for a distance of the first row beyond so many miles."""
    model = onnx.load_model_from_string(example_onnx(fails_above=farther_than))
    added = next(tensor for tensor in model.graph.initializer if tensor.name == "one_zero")
    added.CopyFrom(numpy_helper.from_array(np.array([0, np.nan], np.float32), "one_zero"))
    content: bytes = model.SerializeToString()
    return content


def broken(predictor: Predictor) -> Predictor:
    return Predictor(replace(predictor.sealed, model=OnnxModel(nan_when_far(), FEATURES)), example_reader())


def ask(*values: float) -> list[float]:
    answer = OnnxModel(echo_onnx(), X).probability(
        np.array(values, np.float32).reshape(-1, 1), np.empty((0, 0), object)
    )
    return answer.tolist()


def test_probabilities_come_as_they_are_and_rounding_is_taken_away() -> None:
    assert ask(0.0, 0.25, 1.0) == [0.0, 0.25, 1.0]
    assert ask(np.nextafter(np.float32(1), np.float32(2)), -1e-8) == [1.0, 0.0]
    assert ask() == []


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf"), 1.001, -0.001])
def test_what_is_no_probability_is_an_error_that_says_how_many_rows(wrong: float) -> None:
    with pytest.raises(ModelError, match=r"for row 1, and what is no probability for 2 of 3 rows\. .*repair"):
        ask(0.5, wrong, wrong)


@pytest.mark.parametrize("ask_by", ["keys", "features", "infer"])
def test_the_endpoint_answers_500_and_counts_the_failure(tmp_path: Path, ask_by: str) -> None:
    with example_endpoint(tmp_path, change=lambda version, predictor: broken(predictor)) as endpoint:
        counts = endpoint.follower.counts["7", "champion"]
        if ask_by == "infer":
            response = infer(endpoint, {"inputs": tensors(distance={"data": [FAR["distance"]]})})
        else:
            row = KEY if ask_by == "keys" else VECTOR
            response = predict(endpoint, {ask_by: {**row, "distance": FAR["distance"]}})
        assert (response.status_code, response.json()["field"]) == (500, None)
        assert "nan" not in response.text.lower()
        assert (counts.errors, counts.requests) == (1, 1)
        assert predict(endpoint, {"features": NEAR}).status_code == 200


def test_a_canary_that_answers_nan_falls_back_and_is_counted_as_failed(tmp_path: Path) -> None:
    def change(version: VersionRef, predictor: Predictor) -> Predictor:
        return broken(predictor) if version.version == 8 else predictor

    with example_endpoint(tmp_path, change=change, versions=2) as example:
        start_rollout(example.store, SYSTEM, NAME, example.sealed[8], Plan((Step("canary", 1.0, 3600),)))
        follow(example, 2)
        assert predict(example, {"features": NEAR}).json()["version"] == "8"
        for _ in range(10):
            answer = predict(example, {"features": FAR})
            assert (answer.status_code, answer.json()["version"]) == (200, "7")
        assert example.follower.counts["8", "canary"].errors == 10
        follow(example)
        assert live(example.store, NAME).rollout is None


def test_in_a_batch_only_those_pay_whose_rows_the_model_cannot_answer() -> None:
    model = OnnxModel(echo_onnx(), X)

    async def ask_model(vectors: Vectors) -> Any:
        return model.probability(vectors.numbers, vectors.categories)

    def row(value: float) -> Vectors:
        return Vectors(np.array([[value]], np.float32), np.empty((1, 0), object))

    async def at_once() -> list[Any]:
        batcher = Batcher(ask_model, max_rows=3, wait_s=1)
        questions = (batcher.probability(row(value)) for value in (0.25, float("nan"), 0.75))
        return await asyncio.gather(*questions, return_exceptions=True)

    first, second, third = asyncio.run(at_once())
    assert (first.tolist(), third.tolist()) == ([0.25], [0.75])
    assert isinstance(second, ModelError)


def test_a_model_that_answers_nan_is_neither_sealed_nor_loaded(tmp_path: Path) -> None:
    columns = example_schema().request_columns
    schema = ModelSchema("echo", "late", (), "departure", 0, columns, {}, X)
    rows = golden_cases(pl.DataFrame({"x": [0.5]}), X)
    with pytest.raises(DataError, match="what is no probability"):
        seal(tmp_path, echo_onnx(), schema, rows, [0.5, float("nan")], {})
    seal_example(tmp_path / "example")
    digest = reseal(tmp_path / "example", "model.onnx", nan_when_far(farther_than=600))
    with pytest.raises(IntegrityError, match="what is no probability"):
        load(tmp_path / "example", digest)
