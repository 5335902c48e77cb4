"""The reference travels in the sealed model: from the use case's wishes to what its predictions are judged by."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import IntegrityError, UseCaseError
from mlops_ray.evaluation.importance import permutation_importance
from mlops_ray.governance.live import VersionRef
from mlops_ray.monitoring.drift_actor import find_reference
from mlops_ray.monitoring.drift_watch import DriftWatch
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.reference_rows import ROWS_FILE, ReferenceRows
from mlops_ray.monitoring.sealed_reference import read_reference, reference_files
from mlops_ray.monitoring.version_watch import Watched
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.registry.onnx_model import OnnxModel
from mlops_ray.registry.sealed_model import load, model_inputs, seal
from mlops_ray.tasks.binary import BINARY
from mlops_ray.testing.example_model import (
    FEATURES,
    WEIGHTS,
    example_answer,
    example_onnx,
    example_rows,
    example_schema,
    seal_example,
)
from mlops_ray.testing.example_stream import BY_COUNT, START, example_stream, write_example_segments
from mlops_ray.training.candidates import LogisticRegression
from mlops_ray.use_case import Column, Label, Monitoring, Source, UseCase

ROWS = example_stream(20, 1)
HELD_OUT = example_stream(8, 2)
COLUMNS = (
    Column("carrier", "text"),
    Column("origin", "text"),
    Column("hour", "number"),
    Column("departure", "timestamp"),
    Column("late", "boolean", outcome=True),
)


def use_case(**monitoring: Any) -> UseCase:
    return UseCase(
        name="departures",
        sources={"departures": Source("*.csv", COLUMNS)},
        entities=("carrier",),
        event_time="departure",
        label=Label("late", pl.col("late"), pl.col("departure")),
        candidates=(LogisticRegression(),),
        slices=("origin",),
        monitoring=Monitoring(**{"windows": (BY_COUNT,), "false_alarm_days": 5, **monitoring}),
    )


def files(case: UseCase, schema: ModelSchema | None = None) -> dict[str, bytes]:
    answers = HELD_OUT["probability"]
    return reference_files(case, schema or example_schema(), "time", ROWS, HELD_OUT, answers, "label")


def sealed(folder: Path, reference: dict[str, bytes] | None) -> str:
    rows = example_rows()
    answers = [example_answer(row) for row in rows.to_dicts()]
    evaluation = {"importance": {"features": {"hour": 0.5}}}
    return seal(folder, example_onnx(), example_schema(), rows, answers, evaluation, reference=reference)


def test_the_reference_is_sealed_verified_and_read_back(tmp_path: Path) -> None:
    digest = sealed(tmp_path, files(use_case()))
    assert load(tmp_path, digest).digest == digest
    found = read_reference(tmp_path, digest)
    assert found is not None
    assert (found.importance, found.monitoring) == ({"hour": 0.5}, replace(use_case().monitoring, slices=("origin",)))
    assert set(found.reference.columns) == {*(feature.name for feature in FEATURES), "prediction"}
    assert found.reference.windows[BY_COUNT.name].features[-1].days == 5
    damaged = tmp_path / "reference.bin"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    for read in (lambda: load(tmp_path, digest), lambda: read_reference(tmp_path, digest)):
        with pytest.raises(IntegrityError, match=r"reference\.bin"):
            read()


def test_the_same_rows_make_the_same_bytes() -> None:
    assert files(use_case()) == files(use_case())


def test_models_sealed_without_a_reference_load_and_say_so(tmp_path: Path) -> None:
    digest = seal_example(tmp_path)
    assert load(tmp_path, digest).digest == digest
    assert read_reference(tmp_path, digest) is None

    class Registry:
        def find(self, name: str, version: int) -> VersionRef:
            return VersionRef(version, digest if version == 7 else "0" * 64)

        def fetch(self, name: str, version: VersionRef, folder: Path) -> Path:
            return tmp_path

    assert "without a reference" in str(find_reference(Registry(), "departures", "7"))
    assert "was registered" in str(find_reference(Registry(), "departures", "8"))
    assert "no number" in str(find_reference(Registry(), "departures", "latest"))


@pytest.mark.parametrize("personal", ["hash", "omit"])
def test_of_personal_features_it_is_watched_alone_how_often_they_are_given(personal: Any, tmp_path: Path) -> None:
    schema = example_schema()
    columns = tuple(
        replace(column, personal=personal if column.name == "carrier" else column.personal)
        for column in schema.request_columns
    )
    found = files(use_case(), replace(schema, request_columns=columns))
    reference = Reference.from_files(found)
    assert "distance" in reference.columns
    assert ("carrier" in reference.columns) == (personal == "hash")
    assert reference.rates_only == ({"carrier"} if personal == "hash" else set())
    rows = ReferenceRows.from_bytes(found[ROWS_FILE])
    assert ("carrier" in rows.cells, rows.slices) == (personal == "hash", ("origin",))
    assert b"UA" not in found["reference.json"] + found["reference.bin"]
    with pytest.raises(UseCaseError, match="carrier tells of a person"):
        files(use_case(slices=("carrier",)), replace(schema, request_columns=columns))
    if personal == "omit":
        return
    artifacts = Artifacts(str(tmp_path))
    asked = example_stream(2, 5)
    half = asked.with_columns(carrier=pl.when(pl.int_range(len(asked)) % 2 == 0).then(pl.lit("hash-of-somebody")))
    write_example_segments(artifacts, "departures", half)
    watch = DriftWatch(artifacts, "departures", lambda version: Watched(version, reference), lambda change: None)
    watch.round(START + timedelta(days=3))
    record = watch.state.watches["7"].streams[BY_COUNT.name].records[0]
    (one,) = [finding for finding in record.data.findings if finding.column == "carrier"]
    assert (one.detector, one.value) == ("missing_rate", pytest.approx(0.5, abs=0.02))
    assert b"hash-of-somebody" not in watch.state.to_bytes()


def test_the_use_case_chooses_slices_seasons_and_windows() -> None:
    found = files(use_case(slices=("carrier",), seasonal={"hour": "weekday"}))["reference.json"].decode()
    assert "carrier=AA" in found
    assert "origin=JFK" not in found
    for wrong in ({"slices": ("dest",)}, {"seasonal": {"nothing": "hour"}}):
        with pytest.raises(UseCaseError, match=r"monitoring's (slice|seasonal)"):
            files(use_case(**wrong))
    options = {"number_detector": "wasserstein", "category_detector": "chi_squared", "error_detectors": ("adwin",)}
    chosen = Reference.from_files(files(use_case(**options)))
    named = {normal.detector for normal in chosen.windows[BY_COUNT.name].features[-1].normals}
    assert named == {"wasserstein", "chi_squared", "missing_rate", "new_categories"}
    assert 0 < chosen.errors.limits["adwin"] <= 0.002
    for wrong in ({"number_detector": "chi_squared"}, {"error_detectors": ("psi",)}):
        with pytest.raises(UseCaseError, match=r"chi_squared|psi"):
            Monitoring(**wrong)
    with pytest.raises(UseCaseError, match="at least one kind of window"):
        Monitoring(windows=())
    with pytest.raises(UseCaseError, match="each kind once"):
        Monitoring(windows=(BY_COUNT, BY_COUNT))


def test_importance_is_what_the_model_loses_without_a_feature() -> None:
    model = OnnxModel(example_onnx(), FEATURES)
    rows = example_stream(5, 3).with_columns(constant=pl.lit(1.0))
    names = [*(feature.name for feature in FEATURES), "constant"]

    def ask(asked: pl.DataFrame) -> Any:
        return model.answers(*model_inputs(asked, FEATURES))

    given = BINARY, ask, rows, rows["label"].to_numpy(), np.arange(rows.height) // 200, names
    estimates = permutation_importance(*given, seed=1)
    assert estimates == permutation_importance(*given, seed=1)
    found = {name: one.value for name, one in estimates.items()}
    assert found["constant"] == estimates["constant"].high == 0
    spread = {name: abs(weight) * float(np.std(rows[name].drop_nulls().to_numpy())) for name, weight in WEIGHTS.items()}
    first = max(found, key=lambda name: found[name])
    assert first == max(spread, key=lambda name: spread[name])
    low, high = estimates[first].low, estimates[first].high
    assert low is not None
    assert high is not None
    assert 0 < low < found[first] < high
