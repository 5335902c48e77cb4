"""Sealed models of each kind of label, fitted by a candidate that users have, on the columns of the example."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.pipeline.parity import TrainingRows, expect_request_parity
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.registry.onnx_model import OnnxModel
from mlops_ray.registry.sealed_model import SealedModel, golden_cases, seal
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.regression import Regression
from mlops_ray.tasks.task import Task
from mlops_ray.testing.example_endpoint import FIRST_VERSION
from mlops_ray.testing.example_model import FEATURES, RecentDelays, example_schema, seal_example
from mlops_ray.training.candidates import LogisticRegression
from mlops_ray.training.encoding import Encoder, fit_encoder
from mlops_ray.training.side_by_side import steps_of
from mlops_ray.use_case import FitData, FittedModel

DELAY = Regression("minutes")
OUTCOME = MultiClass(("on time", "late", "cancelled"))
VECTORS = [
    {"origin": "JFK", "distance": distance, "carrier": carrier, "hour": 15.0, "recent_delay": None}
    for distance, carrier in ((200.0, "AA"), (1900.0, "UA"), (900.0, "AA"))
]
_DEPARTURE = datetime(2013, 3, 1, 14, tzinfo=UTC)
_ROWS = 600


def sealed_as(task: Task) -> Callable[[Path, int], str]:
    """Seals a model of the task, with golden requests; the number makes another digest of the same model."""

    def seal_into(folder: Path, salt: int) -> str:
        schema, encoder, model, onnx, rows = _fitted(task)
        golden = golden_cases(rows.head(8), schema.features)
        answers = model.predict(encoder.encode(golden))
        unproven = SealedModel("", schema, OnnxModel(onnx, schema.features, task), {})
        asked = rows.head(8)
        given = TrainingRows(
            asked.select("carrier", "origin", "departure", "distance"),
            asked,
            asked["departure"] - timedelta(seconds=schema.lead_time_s),
            model.predict(encoder.encode(asked)),
        )
        parity = expect_request_parity(unproven, given, ["any"] * asked.height, RecentDelays({}))
        return seal(folder, onnx, schema, golden, answers, {"salt": salt}, golden_requests=parity.golden)

    return seal_into


@cache
def _fitted(task: Task) -> tuple[ModelSchema, Encoder, FittedModel, bytes, pl.DataFrame]:
    rows, labels = _rows(task)
    encoder = fit_encoder(rows, FEATURES)
    data = FitData(encoder.encode(rows), task.encoded(labels), encoder.features, task, seed=0, threads=1)
    linear = LogisticRegression()
    *_, (_, model) = steps_of(data, linear.name, lambda one: linear.fit(one, {"l2": 1e-4, "iterations": 40}))
    schema = _schema(task, encoder)
    return schema, encoder, model, encoder.wrap_onnx(model.to_onnx()), rows


def _schema(task: Task, encoder: Encoder) -> ModelSchema:
    value = example_schema()
    return ModelSchema(**{**vars(value), "task": task, "features": encoder.features})


def _rows(task: Task) -> tuple[pl.DataFrame, pl.Series]:
    random = np.random.default_rng(3)
    departure = [_DEPARTURE + timedelta(minutes=37 * row) for row in range(_ROWS)]
    rows = pl.DataFrame(
        {
            "carrier": random.choice(["AA", "UA"], _ROWS),
            "origin": random.choice(["JFK", "LGA", "EWR"], _ROWS),
            "departure": pl.Series(departure, dtype=pl.Datetime("us", "UTC")),
            "distance": random.integers(100, 2000, _ROWS).astype(float),
            "recent_delay": pl.Series([None] * _ROWS, dtype=pl.Float64),
        }
    ).with_columns(hour=pl.col("departure").dt.convert_time_zone("America/New_York").dt.hour())
    noise = random.normal(0, 5, _ROWS)
    minutes = rows["hour"] - 12 + rows["distance"] / 200 + 10 * (rows["carrier"] == "UA").cast(pl.Float64) + noise
    outcome = np.where(minutes > 20, "cancelled", np.where(minutes > 8, "late", "on time"))
    labels: dict[str, Any] = {"binary": minutes > 8, "regression": minutes, "multiclass": outcome}
    return rows, pl.Series(labels[task.kind])


def expected_answers(task: Task, vectors: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """What the fitted model answers to rows of features, before it is an ONNX file."""
    _, encoder, model, _, _ = _fitted(task)
    return model.predict(encoder.encode(pl.DataFrame(list(vectors), schema_overrides={"recent_delay": pl.Float64})))


def outcomes_then_late(folder: Path, version: int) -> str:
    """Seals version 7 as one of classes, and others as one of yes and no."""
    return sealed_as(OUTCOME)(folder, version) if version == FIRST_VERSION else seal_example(folder, salt=version)
