"""Parity: rows of the training set, sent as requests through the request path, must give what training computed.

Training computes features over tables, serving computes them from a request: two ways to the same values, which a
changed rule for nulls, another zone, or a type that JSON has not, let differ without a word. Here both are compared,
feature by feature, before a version exists.
"""

import json
import math
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import IntegrityError, UnavailableError, UseCaseError
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import expect_definitions
from mlops_ray.features.labelled import is_labelled
from mlops_ray.features.spans import read_between
from mlops_ray.features.training_parts import Labelled
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.ingestion.snapshot import expect_kept, load_snapshot
from mlops_ray.pipeline.golden import golden_requests
from mlops_ray.pipeline.hard_rows import hard_rows
from mlops_ray.pipeline.periods import Stretch
from mlops_ray.registry.golden_requests import GoldenRequest, Value
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.registry.sealed_model import SealedModel, model_inputs, shown_answer
from mlops_ray.serving.golden import TOLERANCE, apart, features_of
from mlops_ray.serving.http import HttpError
from mlops_ray.serving.predictor import OnlineReader, Predictor, Vectors
from mlops_ray.serving.served_version import Scored, ServedVersion
from mlops_ray.training.fit import Fitted
from mlops_ray.use_case import UseCase


@dataclass(frozen=True)
class TrainingRows:
    """Rows of a training set in three tables of the same order. requests: the raw values of the request columns;
    features: what training computed from them; moments: when each prediction is made; answers: of the fitted model."""

    requests: pl.DataFrame
    features: pl.DataFrame
    moments: pl.Series
    answers: ArrayLike


@dataclass(frozen=True)
class RequestParity:
    """What was compared and found equal. cases: how many rows stand for each hard case; the online features of `rows`
    that were missing or expired are counted in `missing` and `expired`. largest_difference: of the probabilities."""

    rows: int
    cases: Mapping[str, int]
    missing: int
    expired: int
    largest_difference: float
    limit: float
    golden: tuple[GoldenRequest, ...]

    def to_json(self) -> dict[str, Any]:
        """For the evaluation, without the golden requests, which have a file of their own."""
        return {name: value for name, value in vars(self).items() if name != "golden"}


def prove_request_parity(
    use_case: UseCase,
    settings: Settings,
    training_set: TrainingSet,
    stretches: Sequence[Stretch],
    fitted: Fitted,
    sealed: SealedModel,
) -> RequestParity:
    """Choose hard rows of these stretches of the training set, and send them through the request path of the model.

    The online features that they meet are what an online store would have held at each row's moment. Raises
    UseCaseError as `expect_request_parity` does.
    """
    artifacts = Artifacts(settings.artifacts)
    snapshot = load_snapshot(artifacts, use_case.name, training_set.snapshot)
    expect_kept(artifacts, use_case.name, snapshot.digest)
    labelled = Labelled(use_case, artifacts, snapshot, training_set.as_of)
    raw, frame = map(pl.concat, zip(*(_rows_of(labelled, training_set, one) for one in stretches), strict=True))
    expect_sendable(sealed.schema, raw)
    chosen = hard_rows(raw, frame, frame[PREDICTION_TIME], sealed.schema)
    raw, frame = raw[list(chosen)], frame[list(chosen)]
    answers = fitted.model.predict(fitted.encoder.encode(frame))
    asked = TrainingRows(raw, frame, frame[PREDICTION_TIME], answers)
    with tempfile.TemporaryDirectory() as folder:
        reader = None
        if training_set.feature_project is not None:
            from mlops_ray.features.online.history import OnlineHistory

            moments = raw.with_columns(frame[PREDICTION_TIME])
            definitions = expect_definitions(artifacts, training_set.feature_project)
            reader = OnlineHistory(definitions, training_set.feature_rows, Path(folder), moments)
        return expect_request_parity(sealed, asked, list(chosen.values()), reader)


def _rows_of(labelled: Labelled, training_set: TrainingSet, one: Stretch) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The request columns of a stretch's rows, and the rows themselves."""
    use_case, rows = labelled.use_case, labelled.raw(one.since, one.before)
    rows = training_set.in_its_order(rows, pl.col(use_case.event_time) - use_case.lead_time)
    frame = read_between([one.url], PREDICTION_TIME, one.since, one.before, None)
    return trained_on(use_case, rows, frame, training_set.as_of).select(use_case.request_columns()), frame


def trained_on(use_case: UseCase, rows: pl.DataFrame, frame: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    """Of the rows of the main source those that the training set in `frame` is made of, in its order.

    Raises IntegrityError if the training set was made of other rows.
    """
    labelled = rows.filter(is_labelled(use_case, rows.columns, as_of))
    names = [*use_case.entities, use_case.event_time]
    made_of = frame.select(pl.col(name).cast(labelled.schema[name], strict=False) for name in names)
    if not labelled.select(names).equals(made_of):
        raise IntegrityError(
            f"The training set of {use_case.name} ({frame.height} rows) is not made of the {labelled.height} labelled "
            f"rows of its snapshot, so its features cannot be compared with those of requests. Run the pipeline again."
        )
    return labelled


def expect_request_parity(
    sealed: SealedModel, rows: TrainingRows, cases: Sequence[str], reader: OnlineReader | None
) -> RequestParity:
    """Send every row as a request and compare what comes of it: features exactly (as float32), answers to 1e-5.

    cases: why each row was chosen. reader: the online store as it stood at each row's moment. Raises UseCaseError
    naming the feature, the row and both values if one differs, or if a row that was trained on is refused or fails.
    """
    schema = sealed.schema
    expect_sendable(schema, rows.requests)
    expected = Vectors(*model_inputs(rows.features, schema.features))
    answers = np.asarray(rows.answers, dtype=np.float64)
    served = ServedVersion(schema.use_case, "to be sealed", Predictor(sealed, reader))
    asked, largest = [], 0.0
    try:
        for number, (row, moment) in enumerate(zip(rows.requests.to_dicts(), rows.moments, strict=True)):
            body = body_of(schema, row, moment)
            scored = _ask(served, body, cases[number])
            _expect_features(schema, features_of(schema, expected, number), scored, body, cases[number])
            largest = max(largest, _difference(schema, answers[number], scored, body))
            asked.append((body, scored))
    finally:
        served.close()
    found = [online for _, scored in asked for online in scored.vectors.online]
    return RequestParity(
        rows=len(asked),
        cases=dict(sorted(Counter(cases).items())),
        missing=sum(len(online.missing) for online in found),
        expired=sum(len(online.expired) for online in found),
        largest_difference=largest,
        limit=TOLERANCE,
        golden=golden_requests(sealed, asked, cases),
    )


def expect_sendable(schema: ModelSchema, requests: pl.DataFrame) -> None:
    """Raise UseCaseError naming the request feature whose values are no number, boolean or text: over a table polars
    can make a number of a duration, a date or a list, from one request nobody can."""
    for name, expression in schema.expressions().items():
        dtype = requests.lazy().select(expression).collect_schema()[name]
        if not (dtype.is_numeric() or dtype in (pl.Boolean, pl.String)):
            raise UseCaseError(
                f"Request feature {name!r} of use case {schema.use_case} is of type {dtype}, which no model takes. "
                f"Make a number of it, such as .dt.total_seconds() of a duration or .dt.epoch('s') of a moment, or a "
                f"text with .cast(pl.String)."
            )


def body_of(schema: ModelSchema, row: Mapping[str, Any], moment: datetime) -> str:
    """The question about a row as a caller sends it. Raises UseCaseError for a value that JSON cannot hold."""
    keys = {column.name: _json_value(column.name, row[column.name]) for column in schema.request_columns}
    return json.dumps({"keys": keys, "as_of": moment.astimezone(UTC).isoformat()}, ensure_ascii=False)


def _json_value(name: str, value: Any) -> Value:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        value = float(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool | int | float | str):
        return value
    raise UseCaseError(
        f"Request column {name!r} holds {value!r} ({type(value).__name__}), which no caller can send as JSON. Derive a "
        f"number, text, boolean or timestamp from it."
    )


def _ask(served: ServedVersion, body: str, case: str) -> Scored:
    try:
        return served.predict_at_once(body.encode())
    except UnavailableError:
        raise
    except HttpError as error:
        what = f"The endpoint would refuse a row that the model was trained on: {error.error}"
        advice = "Let the column's declaration admit it, or have it quarantined before training."
    except Exception as error:
        what = f"The request path fails on a row that the model was trained on: {type(error).__name__}: {error}."
        advice = "Change the request feature or view that this comes from."
    row = shown(served.schema, body)
    raise UseCaseError(f"{what} The row ({case}): {row}. The version is not registered. {advice}")


def _expect_features(schema: ModelSchema, expected: Mapping[str, Value], scored: Scored, body: str, case: str) -> None:
    found = features_of(schema, scored.vectors)
    different = [name for name in expected if found[name] != expected[name]]
    if not different:
        return
    name = different[0]
    origin = "its feature view"
    for declared in ("request_features", "on_demand_features"):
        origin = f"its expression in {declared}" if name in getattr(schema, declared) else origin
    others = f" So do {', '.join(different[1:6])} ({len(different)} in all)." if different[1:] else ""
    raise UseCaseError(
        f"Training and serving differ in feature {name!r}: training computed {expected[name]!r}, a request gives "
        f"{found[name]!r}.{others} The row ({case}): {shown(schema, body)}. The version is not registered. Look at "
        f"{origin}: it must give the same over a table and from one request."
    )


def _difference(schema: ModelSchema, expected: ArrayLike, scored: Scored, body: str) -> float:
    difference = apart(schema.task, scored, expected)
    if not difference <= TOLERANCE:  # NaN, too, is a difference
        raise UseCaseError(
            f"The fitted model of {schema.use_case} answers {shown_answer(expected)}, a request gives "
            f"{shown_answer(scored.answer[0])} from the same features (limit {TOLERANCE:g}). The row: "
            f"{shown(schema, body)}. The version is not registered. Choose another candidate, or report this."
        )
    return difference


def shown(schema: ModelSchema, body: str) -> str:
    """The question for a message, which may end in a log: without what tells of a person."""
    question = json.loads(body)
    hidden = {column.name: "(personal)" for column in schema.request_columns if column.personal is not None}
    return json.dumps(question | {"keys": question["keys"] | hidden}, ensure_ascii=False)
