"""What a sealed model promises: it cannot change unnoticed, runs nothing foreign, and answers as it was trained to."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import TensorProto, helper

from mlops_ray.artifacts import digest_json
from mlops_ray.errors import DataError, IntegrityError, UseCaseError
from mlops_ray.registry.model_schema import ModelSchema, expression_from_json, schema_of
from mlops_ray.registry.sealed_model import _explained, load, seal
from mlops_ray.testing.example_model import (
    FEATURES,
    example_answer,
    example_onnx,
    example_rows,
    example_schema,
    seal_example,
)
from mlops_ray.training.candidates import LogisticRegression
from mlops_ray.use_case import Column, Feature, Label, Source, UseCase


@pytest.fixture
def sealed(tmp_path: Path) -> tuple[Path, str]:
    return tmp_path, seal_example(tmp_path)


def answers() -> list[float]:
    return [example_answer(row) for row in example_rows().to_dicts()]


def reseal(folder: Path, file: str, content: bytes) -> str:
    """Replace a file and its digest, as somebody who may register a model could."""
    import hashlib

    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][file] = hashlib.sha256(content).hexdigest()
    (folder / file).write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return digest_json(manifest)


def test_a_sealed_model_comes_back_as_it_was(sealed: tuple[Path, str]) -> None:
    model = load(*sealed)
    assert model.schema == example_schema()
    assert model.evaluation == {"roc_auc": 0.75}
    numbers, categories = np.array([[500, 8, np.nan]], np.float32), np.array([["JFK", "??"]], object)
    row = {"origin": "JFK", "carrier": "??", "distance": 500.0, "hour": 8.0, "recent_delay": None}
    assert model.model.answers(numbers, categories)[0] == pytest.approx(example_answer(row), abs=1e-6)


def test_golden_rows_hold_unknown_missing_and_empty_values(sealed: tuple[Path, str]) -> None:
    golden = json.loads((sealed[0] / "golden.json").read_text())
    assert golden["features"] == [feature.name for feature in FEATURES]
    assert {row[0] for row in golden["rows"]} >= {"never seen in training", None, ""}
    assert None in {row[1] for row in golden["rows"]}


def test_sealing_twice_gives_the_same_digest(tmp_path: Path) -> None:
    assert seal_example(tmp_path / "a") == seal_example(tmp_path / "b")


@pytest.mark.parametrize("file", ["model.onnx", "schema.json", "golden.json", "evaluation.json"])
def test_a_changed_byte_is_refused_by_file_name(sealed: tuple[Path, str], file: str) -> None:
    folder, digest = sealed
    content = bytearray((folder / file).read_bytes())
    content[-2] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(IntegrityError, match=file):
        load(folder, digest)


def test_another_version_than_the_registered_one_is_refused(sealed: tuple[Path, str]) -> None:
    folder, digest = sealed
    reseal(folder, "evaluation.json", b'{"roc_auc": 0.99}')
    with pytest.raises(IntegrityError, match=r"manifest\.json.*was registered"):
        load(folder, digest)


def test_a_missing_file_is_named(sealed: tuple[Path, str]) -> None:
    (sealed[0] / "model.onnx").unlink()
    with pytest.raises(IntegrityError, match=r"model\.onnx.*cannot be read"):
        load(*sealed)


def test_a_manifest_cannot_reach_outside_its_folder(sealed: tuple[Path, str]) -> None:
    folder = sealed[0]
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../secret"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match=r"\.\./secret"):
        load(folder, digest_json(manifest))


def test_a_model_that_no_longer_gives_its_answers_is_refused(sealed: tuple[Path, str]) -> None:
    golden = json.loads((sealed[0] / "golden.json").read_text())
    golden["answers"][1] += 0.01
    digest = reseal(sealed[0], "golden.json", json.dumps(golden).encode())
    with pytest.raises(IntegrityError, match="row 1 of"):
        load(sealed[0], digest)


@pytest.mark.parametrize("wrong", [0.001, float("nan")])
def test_an_export_that_differs_from_the_trained_model_is_not_sealed(tmp_path: Path, wrong: float) -> None:
    trained = answers()
    trained[0] += wrong
    with pytest.raises(DataError, match="row 0 of"):
        seal(tmp_path, example_onnx(), example_schema(), example_rows(), trained, {})
    assert not list(tmp_path.iterdir())


def test_golden_rows_without_hard_cases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'origin' is missing or empty or unknown"):
        seal(tmp_path, example_onnx(), example_schema(), example_rows().head(2), answers()[:2], {})


@pytest.mark.parametrize(
    ("expression", "what"),
    [
        (pl.col("a").map_elements(lambda value: value, return_dtype=pl.Int64), "AnonymousFunction"),
        ((pl.col("a") + pl.col("b").map_batches(lambda series: series)).abs(), "AnonymousFunction"),
        (pl.col("a").sum(), "Agg"),
        (pl.all(), "Selector"),
    ],
)
def test_expressions_that_hold_code_are_never_read(expression: pl.Expr, what: str) -> None:
    with pytest.raises(IntegrityError, match=f"'f' uses {what}"):
        expression_from_json("f", expression.meta.serialize(format="json"))


def test_an_expression_that_loads_a_library_is_never_read() -> None:
    plugin = {"Function": {"input": [{"Column": "a"}], "function": {"FfiPlugin": {"lib": "evil.so", "symbol": "f"}}}}
    with pytest.raises(IntegrityError, match="FfiPlugin"):
        expression_from_json("f", json.dumps({"Alias": [plugin, "f"]}))


@pytest.mark.parametrize("text", ["", "3", "[]", "{}", '{"Column": ', '{"Column": {"a": 1}}', '"Column"'])
def test_nonsense_in_place_of_an_expression_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match="'f'"):
        expression_from_json("f", text)


def test_a_schema_with_code_in_it_is_refused_when_loading(sealed: tuple[Path, str]) -> None:
    schema = example_schema().to_json()
    schema["request_features"] = {"hour": pl.col("departure").map_batches(lambda s: s).meta.serialize(format="json")}
    digest = reseal(sealed[0], "schema.json", json.dumps(schema).encode())
    with pytest.raises(IntegrityError, match="AnonymousFunction"):
        load(sealed[0], digest)


def changed_onnx(change: Any) -> bytes:
    model = onnx.load_model_from_string(example_onnx())
    change(model)
    content: bytes = model.SerializeToString()
    return content


def foreign_domain(model: Any) -> None:
    model.graph.node[0].domain = "com.example"


def foreign_domain_in_a_branch(model: Any) -> None:
    output = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    branch = helper.make_graph([helper.make_node("Evil", [], ["x"], domain="com.example")], "branch", [], [output])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch))


def external_data(model: Any) -> None:
    tensor = model.graph.initializer[1]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def other_output(model: Any) -> None:
    model.graph.output[0].name = model.graph.node[-1].output[0] = "score"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (foreign_domain, r"com\.example\.IsNaN"),
        (foreign_domain_in_a_branch, r"com\.example\.Evil"),
        (external_data, "outside the file"),
        (other_output, "Export it again"),
    ],
)
def test_onnx_that_reaches_beyond_the_contract_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        seal(tmp_path, changed_onnx(change), example_schema(), example_rows(), answers(), {})


@pytest.mark.parametrize(
    ("features", "trees", "rows"),
    [(2, 0, 64), (16, 100, 64), (45, 0, 22), (45, 100, 22), (1000, 1, 6), (16, 500, 18), (45, 10**9, 6)],
)
def test_reasons_of_many_features_or_trees_ask_about_fewer_rows(features: int, trees: int, rows: int) -> None:
    schema = replace(example_schema(), features=tuple(Feature(f"x{at}", "number") for at in range(features)))
    answers = np.random.default_rng(1).permutation(np.arange(64.0))
    golden = {"rows": [[at] * features for at in (*answers, *range(features))]}  # as many hard cases as features
    model: Any = SimpleNamespace(explained_trees=trees, explained=lambda numbers, _: numbers[:, 0])
    found = _explained(schema, model, golden)
    assert found is not None
    background = found.background[0][:, 0]
    assert len(background) == rows
    assert background.mean() == pytest.approx(answers.mean(), abs=0.6)
    assert background.tolist() == [one for one in answers if one in background], "In their order, and none twice."
    assert _explained(schema, model, {"rows": golden["rows"][64:]}) is None


def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        seal(tmp_path, b"no onnx at all", example_schema(), example_rows(), answers(), {})


def use_case(**changes: Any) -> UseCase:
    columns = (
        Column("origin", "text", closed=True),
        Column("scheduled", "timestamp"),
        Column("late", "boolean", outcome=True),
    )
    given: dict[str, Any] = {
        "name": "departures",
        "sources": {"flights": Source("*.csv", columns, derived={"route": pl.col("origin") + "-X"})},
        "entities": ("origin",),
        "event_time": "scheduled",
        "label": Label("late", pl.col("late"), pl.col("scheduled")),
        "candidates": (LogisticRegression(),),
        "request_features": {"hour": pl.col("scheduled").dt.hour()},
    }
    return UseCase(**{**given, **changes})


SEEN = pl.DataFrame({"origin": ["JFK", "EWR", "JFK"], "scheduled": [datetime(2013, 1, 1, tzinfo=UTC)] * 3})


def test_a_closed_column_knows_what_was_seen_in_training() -> None:
    schema = schema_of(use_case(), (Feature("hour", "number"),), SEEN)
    assert [column.name for column in schema.request_columns] == ["origin", "scheduled"]
    assert schema.request_columns[0].choices == ("EWR", "JFK")
    assert ModelSchema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


def test_python_in_a_request_feature_is_refused_at_training() -> None:
    expression = pl.col("scheduled").map_batches(lambda moments: moments.dt.hour(), return_dtype=pl.Int8)
    with pytest.raises(UseCaseError, match="polars' own functions"):
        schema_of(use_case(request_features={"hour": expression}), (Feature("hour", "number"),), SEEN)


def test_a_derived_request_column_must_be_in_the_training_set() -> None:
    case = use_case(request_features={"route": pl.col("route")})
    with pytest.raises(UseCaseError, match="'route' is derived"):
        schema_of(case, (Feature("route", "category"),), SEEN)
    seen = SEEN.with_columns(route=pl.lit("JFK-X"))
    assert schema_of(case, (Feature("route", "category"),), seen).request_columns[-1] == Column("route", "text")
