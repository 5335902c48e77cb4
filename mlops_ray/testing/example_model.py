"""A small sealed model with every kind of column and feature, made by hand in milliseconds."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mlops_ray.features.online.row import OnlineRow
from mlops_ray.registry.golden_requests import GoldenRequest
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.registry.sealed_model import golden_cases, seal
from mlops_ray.use_case import Column, Feature

WEIGHTS = {"distance": -0.001, "hour": 0.05, "recent_delay": 0.04}
EFFECTS = {"JFK": 0.5, "LGA": 0.25, "EWR": -0.25, "AA": 0.125, "UA": -0.125, "": 0.75}
UNKNOWN_EFFECT = -0.5

FEATURES = (
    Feature("origin", "category", ("EWR", "JFK", "LGA")),
    Feature("distance", "number"),
    Feature("carrier", "category", ("AA", "UA")),
    Feature("hour", "number"),
    Feature("recent_delay", "number"),
)


class RecentDelays:
    """An online reader over a dictionary: delay in minutes by (origin, carrier), with the moment it became known."""

    waits = False

    def __init__(self, values: Mapping[tuple[str, str], tuple[float, datetime]]):
        self.values = values
        self.seconds, self.reads = 0.0, 0
        self.missing, self.stale = dict[str, int](), dict[str, int]()
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True

    def find(self, rows: Sequence[Mapping[str, object]], moments: Sequence[datetime]) -> list[OnlineRow]:
        started_s = time.perf_counter()
        delays = [self._known(row, moment) for row, moment in zip(rows, moments, strict=True)]
        self.missing["delays"] = self.missing.get("delays", 0) + delays.count(None)
        self.reads += 1
        self.seconds += time.perf_counter() - started_s
        return [OnlineRow({"recent_delay": delay}, ["recent_delay"] if delay is None else []) for delay in delays]

    def _known(self, row: Mapping[str, object], moment: datetime) -> float | None:
        value, known_at = self.values.get((str(row["origin"]), str(row["carrier"])), (None, moment))
        return value if known_at <= moment else None


def example_reader(settings: object = None, feature_service: str = "") -> RecentDelays:
    """Delays known since 2013; takes what an application's `reader` setting is called with."""
    return RecentDelays({("JFK", "AA"): (30.0, datetime(2013, 1, 1, tzinfo=UTC))})


def example_schema() -> ModelSchema:
    """Departures by carrier, origin and time, with a distance the caller may leave out."""
    columns = (
        Column("carrier", "text", pattern="[A-Z0-9]{2}"),
        Column("origin", "text", closed=True, choices=("EWR", "JFK", "LGA")),
        Column("departure", "timestamp"),
        Column("distance", "number", nullable=True, minimum=0, maximum=10_000),
    )
    hour = pl.col("departure").dt.convert_time_zone("America/New_York").dt.hour()
    expressions = {name: pl.col(name) for name in ("carrier", "origin", "distance")} | {"hour": hour}
    return ModelSchema(
        use_case="departures",
        label="late",
        entities=("carrier", "origin"),
        event_time="departure",
        lead_time_s=7200.0,
        request_columns=columns,
        request_features={name: e.meta.serialize(format="json") for name, e in expressions.items()},
        features=FEATURES,
        feature_service="departures",
        feature_project="departures",
        polars=pl.__version__,
    )


def example_rows() -> pl.DataFrame:
    """Golden rows of the example, hard cases among them."""
    rows = {"origin": ["JFK", "EWR"], "distance": [500.0, 1000.0], "carrier": ["AA", "UA"], "hour": [8.0, 20.0]}
    return golden_cases(pl.DataFrame({**rows, "recent_delay": [12.5, -3.0]}), FEATURES)


def example_requests() -> list[GoldenRequest]:
    """Questions about the example, with the features and answers that plain Python gives: New York's winter and
    summer, a missing distance, an unknown carrier and delay."""
    rows = (
        ("AA", "JFK", "2013-01-15T13:30:00Z", "2013-01-15T11:30:00Z", 500.0, 12.5, 8.0),
        ("UA", "EWR", "2013-07-15T12:30:00+00:00", "2013-07-15T10:00:00Z", None, -3.0, 8.0),
        ("ZZ", "LGA", "2013-11-03T06:30:00Z", "2013-11-03T04:30:00Z", 0.0, None, 1.0),
    )
    requests = []
    for carrier, origin, departure, as_of, distance, delay, hour in rows:
        keys = {"carrier": carrier, "origin": origin, "departure": departure, "distance": distance}
        features = {"origin": origin, "distance": distance, "carrier": carrier, "hour": hour, "recent_delay": delay}
        body = json.dumps({"keys": keys, "as_of": as_of})
        requests.append(GoldenRequest(body, {"recent_delay": delay}, features, (example_answer(features),)))
    return requests


def example_answer(row: Mapping[str, Any]) -> float:
    """The model in plain Python: what its ONNX must answer for a row of features."""
    score = sum(weight * (row[name] if row[name] is not None else 0.0) for name, weight in WEIGHTS.items())
    score += sum(EFFECTS.get(row[name] or "", UNKNOWN_EFFECT) for name in ("origin", "carrier"))
    return 1.0 / (1.0 + math.exp(-score))


def example_onnx(fails_above: float = math.inf) -> bytes:
    """The model as ONNX: a weighted sum of numbers (0 where missing) and of the categories' effects, as a logit.

    For a distance above `fails_above`, the first row's, ONNX Runtime raises: a bug that no golden row shows.
    """
    weights = np.array([[value] for value in WEIGHTS.values()] + [[1.0], [1.0]], dtype=np.float32)
    nodes = [
        helper.make_node("IsNaN", ["numbers"], ["absent"]),
        helper.make_node("Where", ["absent", "zero", "numbers"], ["present"]),
        helper.make_node(
            "LabelEncoder",
            ["categories"],
            ["effects"],
            domain="ai.onnx.ml",
            keys_strings=list(EFFECTS),
            values_floats=list(EFFECTS.values()),
            default_float=UNKNOWN_EFFECT,
        ),
        helper.make_node("Concat", ["present", "effects"], ["all"], axis=1),
        helper.make_node("Slice", ["numbers", "first", "second", "axes"], ["distance"]),
        helper.make_node("Greater", ["distance", "fails_above"], ["too_far"]),
        helper.make_node("Cast", ["too_far"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["one_zero", "index"], ["nothing"]),
        helper.make_node("MatMul", ["all", "weights"], ["sum"]),
        helper.make_node("Add", ["sum", "nothing"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["column"]),
        helper.make_node("Reshape", ["column", "flat"], ["probability"]),
    ]
    constants: dict[str, NDArray[Any]] = {
        "zero": np.zeros((), np.float32),
        "fails_above": np.array(fails_above, np.float32),
        "first": np.array([0, 0], np.int64),
        "second": np.array([2**31, 1], np.int64),
        "axes": np.array([0, 1], np.int64),
        "one_zero": np.zeros(1, np.float32),
        "weights": weights,
        "flat": np.array([-1], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "example",
        [
            helper.make_tensor_value_info("numbers", TensorProto.FLOAT, [None, 3]),
            helper.make_tensor_value_info("categories", TensorProto.STRING, [None, 2]),
        ],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return content


def seal_example(folder: Path, salt: int = 0, fails_above: float = math.inf) -> str:
    """Seal the example into `folder` and return its digest; `salt` makes another digest of the same model."""
    rows = example_rows()
    answers = [example_answer(row) for row in rows.to_dicts()]
    return seal(
        folder,
        example_onnx(fails_above),
        example_schema(),
        rows,
        answers,
        {"roc_auc": 0.75} | ({"salt": salt} if salt else {}),
        golden_requests=example_requests(),
    )
