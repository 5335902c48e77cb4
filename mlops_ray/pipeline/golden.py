"""Golden requests: some of the questions that were asked for parity, to be sealed with the model."""

import json
import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from mlops_ray.registry.golden_requests import GoldenRequest, Value
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.registry.sealed_model import SealedModel
from mlops_ray.serving.golden import RecordedReader, features_of
from mlops_ray.serving.http import HttpError
from mlops_ray.serving.predictor import Predictor
from mlops_ray.serving.served_version import Scored, ServedVersion
from mlops_ray.use_case import Column

GOLDEN_REQUESTS = 32

Question = tuple[str, Scored]


def golden_requests(sealed: SealedModel, asked: Sequence[Question], cases: Sequence[str]) -> tuple[GoldenRequest, ...]:
    """At most `GOLDEN_REQUESTS` of the questions with what came of them, of as many cases as possible.

    They go wherever the model goes. So the values of columns marked as personal are replaced by one that tells nothing
    (see `anonymous`) and the questions asked again; none are kept if such a column admits no value for all.
    """
    first: dict[str, int] = {}
    for number, case in enumerate(cases):
        first.setdefault(case, number)
    numbers = list(dict.fromkeys([*first.values(), *range(len(asked))]))[:GOLDEN_REQUESTS]
    golden = [_golden(sealed.schema, *asked[number]) for number in sorted(numbers)]
    personal = {column.name: anonymous(column) for column in sealed.schema.request_columns if column.personal}
    if not personal:
        return tuple(golden)
    try:
        return _asked_again(sealed, golden, personal)
    except HttpError:  # a pattern, say, that the value does not fit
        return ()


def anonymous(column: Column) -> Value:
    """A value that `column` admits unless its pattern forbids it, and that says nothing of anybody."""
    if column.nullable:
        return None
    match column.type:
        case "text":
            return column.choices[0] if column.choices else "x"
        case "boolean":
            return False
        case "timestamp":
            return "2000-01-01T00:00:00+00:00"
    low, high = (0 if limit is None else limit for limit in (column.minimum, column.maximum))
    return max(min(0, high), low) if column.type == "number" else max(math.floor(min(0, high)), math.ceil(low))


def _golden(schema: ModelSchema, body: str, scored: Scored) -> GoldenRequest:
    online = {name: _plain(value) for found in scored.vectors.online for name, value in found.values.items()}
    return GoldenRequest(body, online, features_of(schema, scored.vectors), tuple(scored.answer[0:1].ravel().tolist()))


def _plain(value: Any) -> Value:
    """As JSON has it; what is no finite number the model takes as missing."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _asked_again(
    sealed: SealedModel, golden: Sequence[GoldenRequest], personal: dict[str, Value]
) -> tuple[GoldenRequest, ...]:
    reader, lead_time = RecordedReader(), timedelta(seconds=sealed.schema.lead_time_s)
    served = ServedVersion(sealed.schema.use_case, "anonymous", Predictor(sealed, reader))
    found = []
    try:
        for one in golden:
            question = json.loads(one.body)
            question["keys"] |= personal
            event = datetime.fromisoformat(question["keys"][sealed.schema.event_time])
            question["as_of"] = min(datetime.fromisoformat(question["as_of"]), event - lead_time).isoformat()
            body, reader.answer = json.dumps(question, ensure_ascii=False), one.online
            found.append(_golden(sealed.schema, body, served.predict_at_once(body.encode())))
    finally:
        served.close()
    return tuple(found)
