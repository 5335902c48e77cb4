"""A model that was trained elsewhere is watched by an ONNX file and a table of rows."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.linear_model import LogisticRegression as Fitted

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import load_settings
from mlops_ray.errors import ConfigurationError, DataError, ModelError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor, read_events
from mlops_ray.monitoring.definition import find_sealed
from mlops_ray.monitoring.drift_actor import open_watch
from mlops_ray.monitoring.foreign_model import WithForeign, record_foreign
from mlops_ray.monitoring.sealed_reference import SealedReference
from mlops_ray.monitoring.watch_state import read_state
from mlops_ray.registry.foreign_model import adapted
from mlops_ray.registry.onnx_model import OnnxModel
from mlops_ray.testing.example_stream import BY_COUNT, START, example_stream, write_example_segments
from mlops_ray.training.candidates import LogisticRegression
from mlops_ray.use_case import Column, Feature, Label, Monitoring, Source, UseCase

ANN = Actor("ann", ("operate",))
COLUMNS = (
    Column("carrier", "text"),
    Column("departure", "timestamp"),
    Column("distance", "number"),
    Column("hour", "number"),
    Column("late", "boolean", outcome=True),
)
CASE = UseCase(
    name="departures",
    sources={"departures": Source("*.csv", COLUMNS)},
    entities=("carrier",),
    event_time="departure",
    label=Label("late", pl.col("late"), pl.col("departure")),
    candidates=(LogisticRegression(),),
    request_features={"distance": pl.col("distance"), "hour": pl.col("hour")},
    monitoring=Monitoring(windows=(BY_COUNT,), false_alarm_days=30, slices=()),
)
FEATURES = (Feature("distance", "number"), Feature("hour", "number"))


def table(days: int, seed: int) -> pl.DataFrame:
    return example_stream(days, seed, START - timedelta(days=60)).rename({"time": "departure", "label": "late"})


@pytest.fixture(scope="module")
def foreign() -> bytes:
    """As somebody's notebook exports it: one input `X`, a label and two probabilities."""
    rows = table(20, 1)
    numbers = rows.select("distance", "hour").to_numpy().astype(np.float32)
    fitted = Fitted().fit(numbers / [1000, 10], rows["late"].to_numpy())
    fitted.coef_ /= [1000, 10]
    made = to_onnx(fitted, initial_types=[("X", FloatTensorType([None, 2]))], options={"zipmap": False})
    content: bytes = made.SerializeToString()
    return content


class Nothing:
    """A model registry that does not have it."""

    def find(self, name: str, version: int) -> Any:
        raise ConfigurationError(f"{name} has no version {version}.")

    def fetch(self, name: str, version: Any, folder: Path) -> Path:
        raise ConfigurationError("There is none.")


def test_an_onnx_file_and_a_table_make_a_version_that_is_watched(
    foreign: bytes, store: ControlStore, tmp_path: Path
) -> None:
    settings = load_settings(state=str(tmp_path), data=str(tmp_path), control_store=store.url)
    made = record_foreign(settings, store, ANN, CASE, foreign, table(30, 2))
    assert made.version == 1
    (event,) = read_events(store, types=["version.registered"])
    assert (event.actor, event.payload["foreign"]) == ("ann", True)
    artifacts = Artifacts(settings.artifacts)
    found = find_sealed(WithForeign(Nothing(), store, artifacts), CASE.name, "1")
    assert isinstance(found, SealedReference)
    assert set(found.reference.columns) == {"distance", "hour", "prediction"}
    numbers = table(2, 5).select("distance", "hour").to_numpy().astype(np.float32)
    model = OnnxModel(adapted(foreign, FEATURES), FEATURES)

    def answered(rows: pl.DataFrame) -> pl.DataFrame:
        given = rows.select("distance", "hour").to_numpy().astype(np.float32)
        return rows.with_columns(probability=pl.Series(model.answers(given, np.empty((len(rows), 0), object))))

    assert len(numbers)
    calm = example_stream(2, 5)
    moved = example_stream(3, 6, START + timedelta(days=2)).with_columns(pl.col("distance") + 900)
    write_example_segments(artifacts, CASE.name, answered(pl.concat([calm, moved])), version="1")
    open_watch(settings, Nothing(), CASE.name, store).round(START + timedelta(days=6))
    records = read_state(artifacts, CASE.name).watches["1"].streams[BY_COUNT.name].records
    assert [record.data.answer for record in records] == ["no drift"] * 2 + ["drift"] * 3
    assert records[-1].prediction.answer == "drift"


def test_rows_without_labels_are_a_reference_too(foreign: bytes, store: ControlStore, tmp_path: Path) -> None:
    settings = load_settings(state=str(tmp_path), data=str(tmp_path), control_store=store.url)
    made = record_foreign(settings, store, ANN, CASE, foreign, table(20, 2).drop("late"))
    found = find_sealed(WithForeign(Nothing(), store, Artifacts(settings.artifacts)), CASE.name, str(made.version))
    assert isinstance(found, SealedReference)
    assert found.reference.estimator is None


def test_what_does_not_fit_is_refused_with_what_is_wanted(foreign: bytes, store: ControlStore, tmp_path: Path) -> None:
    settings = load_settings(state=str(tmp_path), data=str(tmp_path), control_store=store.url)
    with pytest.raises(DataError, match="lacks hour"):
        record_foreign(settings, store, ANN, CASE, foreign, table(2, 2).drop("hour"))
    with pytest.raises(ModelError, match=r"takes \['X'\].*one of texts"):
        adapted(foreign, (*FEATURES, Feature("carrier", "category")))
    with pytest.raises(ModelError, match="no ONNX model"):
        adapted(b"nonsense", FEATURES)
    assert read_events(store) == []
