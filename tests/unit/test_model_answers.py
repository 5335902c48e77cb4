"""A model that answers what is no probability fails, and is seen to fail: never a 200 with null in it."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlops_ray.errors import DataError, IntegrityError, ModelError
from mlops_ray.features.online.row import OnlineRow
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.live import Plan, Step, VersionRef, live
from mlops_ray.governance.rollouts import start_rollout
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.registry.onnx_model import OnnxModel
from mlops_ray.registry.sealed_model import golden_cases, load, seal
from mlops_ray.serving.batching import Batcher, TurnBatcher
from mlops_ray.serving.predictor import Predictor, Vectors
from mlops_ray.testing.example_endpoint import NAME, example_endpoint
from mlops_ray.testing.example_model import FEATURES, example_onnx, example_reader
from mlops_ray.use_case import Feature
from tests.unit.test_endpoint import KEY, VECTOR, infer, predict, tensors
from tests.unit.test_sealed_model import example_schema, reseal, seal_example
from tests.unit.test_versions import follow

X = (Feature("x", "number"),)
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


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
    answer = OnnxModel(echo_onnx(), X).answers(np.array(values, np.float32).reshape(-1, 1), np.empty((0, 0), object))
    return answer.tolist()


def test_probabilities_come_as_they_are_and_rounding_is_taken_away() -> None:
    assert ask(0.0, 0.25, 1.0) == [0.0, 0.25, 1.0]
    assert ask(np.nextafter(np.float32(1), np.float32(2)), -1e-8) == [1.0, 0.0]
    assert ask() == []


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf"), 1.001, -0.001])
def test_what_is_no_probability_is_an_error_that_says_how_many_rows(wrong: float) -> None:
    with pytest.raises(ModelError, match=r"for row 1, and what is no probability for 2 of 3 rows\. .*(?i:repair)"):
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
        return model.answers(vectors.numbers, vectors.categories)

    def row(value: float) -> Vectors:
        return Vectors(np.array([[value]], np.float32), np.empty((1, 0), object))

    async def at_once() -> list[Any]:
        batcher = Batcher(ask_model, max_rows=3, wait_s=1)
        questions = (batcher.answers(row(value)) for value in (0.25, float("nan"), 0.75))
        return await asyncio.gather(*questions, return_exceptions=True)

    first, second, third = asyncio.run(at_once())
    assert (first.tolist(), third.tolist()) == ([0.25], [0.75])
    assert isinstance(second, ModelError)


def test_what_comes_in_one_turn_is_looked_up_together_and_each_gets_its_own() -> None:
    asked: list[list[Any]] = []

    def look_up(rows: Any, moments: Any) -> Vectors:
        asked.append([*zip((row["x"] for row in rows), moments, strict=True)])
        if any(row["x"] < 0 for row in rows):
            raise ModelError(f"{len(rows)} rows with one that cannot be")
        texts = np.array([[row["t"]] for row in rows], object)
        known = [OnlineRow({"y": row["x"]}) for row in rows]
        return Vectors(np.array([[row["x"]] for row in rows], np.float32), texts, known, degraded=True)

    def question(*values: float) -> Any:
        return batcher.vectors([{"x": value, "t": str(value)} for value in values], NOON + timedelta(hours=values[0]))

    async def turns() -> list[Any]:
        gone = asyncio.ensure_future(question(9.0))
        first = asyncio.gather(question(1.0, 2.0), question(3.0))
        await asyncio.sleep(0)
        gone.cancel()
        found = await first
        second = await asyncio.gather(question(4.0), question(-1.0), question(5.0, 6.0), return_exceptions=True)
        return [*found, *second]

    batcher = TurnBatcher(look_up)
    one, two, three, wrong, four = asyncio.run(turns())
    at = [NOON + timedelta(hours=hour) for hour in range(7)]
    assert asked[0] == [(1.0, at[1]), (2.0, at[1]), (3.0, at[3])]
    assert [len(rows) for rows in asked[1:]] == [4, 1, 1, 2]
    assert str(wrong) == "1 rows with one that cannot be"
    for (vectors, seconds), values in ((one, [1.0, 2.0]), (two, [3.0]), (three, [4.0]), (four, [5.0, 6.0])):
        assert vectors.numbers[:, 0].tolist() == values
        assert vectors.categories[:, 0].tolist() == [str(value) for value in values]
        assert [row.values["y"] for row in vectors.online] == values
        assert vectors.degraded
        assert 0 < seconds < 1


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
