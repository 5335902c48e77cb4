"""Predictions: the question for some rows, and its answer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlops_ray.client.exchange import Call
from mlops_ray.client.steps import Steps
from mlops_ray.client.values import Row, Rows, model_path, plain
from mlops_ray.errors import DataError


@dataclass(frozen=True)
class Prediction:
    """The answer for one row.

    prediction: of a label that is yes or no, whether `probability` reaches the model's threshold; of one of several
    classes, the class with the highest of `probabilities`, which are by class; of a number, that number, with the
    interval from `low` to `high` and the `quantiles`, by level, where such were declared. The parts that a kind of
    label has not are None.
    missing_features: of which the online store knew no value at the moment `as_of` of the answer; expired_features:
    whose value was older than it may be. The model took both as missing. late: it was asked later than the model
    learned to, after the event time minus the lead time. reasons: where they were asked for, the contribution of each
    feature to the answer, on a scale where together with the base they are the answer; reasons_missing: why there are
    none although they were asked for.
    """

    probability: float | None
    prediction: bool | str | float
    missing_features: tuple[str, ...] = ()
    expired_features: tuple[str, ...] = ()
    late: bool = False
    probabilities: Mapping[str, float] | None = None
    low: float | None = None
    high: float | None = None
    quantiles: Mapping[str, float] | None = None
    reasons: Mapping[str, Any] | None = None
    reasons_missing: str | None = None


@dataclass(frozen=True)
class Answer:
    """The answer to one request, with what is needed to find it again: request id and model version.

    degraded: the online store did not answer, and the model took all its features as missing.
    """

    model: str
    version: str
    request_id: str
    as_of: datetime
    predictions: tuple[Prediction, ...]
    degraded: bool = False

    def to_json(self) -> dict[str, Any]:
        """As the endpoint gave it: without the parts that its kind of label has not."""
        rows = [{name: part for name, part in vars(row).items() if part is not None} for row in self.predictions]
        return {**vars(self), "as_of": self.as_of.isoformat(), "predictions": rows}


def question(
    name: str, keys: Rows | None, features: Rows | None, as_of: datetime | None, explain: bool = False
) -> Call:
    given = {"keys": keys, "features": features, "as_of": as_of, "explain": explain or None}
    body = {part: plain(value) for part, value in given.items() if value is not None}
    return Call(model_path(name, "predict"), body)


def columns_asked(name: str) -> Steps[tuple[str, ...]]:
    """The columns of a row of `keys`, as the endpoint's document has them."""
    document = yield Call(model_path(name, "openapi.json"), method="GET")
    return tuple(document["components"]["schemas"]["Keys"]["properties"])


def batches(keys: Sequence[Row] | None, features: Sequence[Row] | None, size: int) -> Iterator[dict[str, Any]]:
    """The rows in requests of `size`, as arguments of `predict`. Raises DataError unless one of both is given."""
    if (keys is None) == (features is None):
        raise DataError("Give either keys or features.")
    name, rows = ("keys", keys) if keys is not None else ("features", features or [])
    for start in range(0, len(rows), size):
        yield {name: rows[start : start + size]}


def answer_of(content: Any) -> Answer:
    return Answer(
        model=content["model"],
        version=content["version"],
        request_id=content["request_id"],
        as_of=datetime.fromisoformat(content["as_of"]),
        predictions=tuple(_prediction(row) for row in content["predictions"]),
        degraded=content.get("degraded", False),
    )


def _prediction(row: Mapping[str, Any]) -> Prediction:
    missing, expired = (tuple(row.get(name, ())) for name in ("missing_features", "expired_features"))
    return Prediction(
        row.get("probability"),
        row["prediction"],
        missing,
        expired,
        row.get("late", False),
        row.get("probabilities"),
        row.get("low"),
        row.get("high"),
        row.get("quantiles"),
        row.get("reasons"),
        row.get("reasons_missing"),
    )
