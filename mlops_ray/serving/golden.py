"""Replaying golden requests: from JSON through validation, expressions and vectors to the model, as callers do it."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np
from numpy.typing import ArrayLike

from mlops_ray.errors import IntegrityError
from mlops_ray.features.online.row import OnlineRow
from mlops_ray.registry.golden_requests import GoldenRequest, Value
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.registry.sealed_model import SealedModel, shown_answer
from mlops_ray.serving.http import HttpError
from mlops_ray.serving.predictor import Predictor, Vectors
from mlops_ray.serving.served_version import Scored, ServedVersion
from mlops_ray.tasks.task import Task

TOLERANCE = 1e-5


class RecordedReader:
    """An online store that answers each question with what is put into `answer` beforehand."""

    waits = False

    def __init__(self) -> None:
        self.answer: Mapping[str, Value] = {}
        self.seconds, self.reads = 0.0, 0
        self.missing, self.stale = dict[str, int](), dict[str, int]()

    def find(self, rows: Sequence[Mapping[str, object]], moments: Sequence[datetime]) -> list[OnlineRow]:
        return [OnlineRow(dict(self.answer)) for _ in rows]

    def close(self) -> None:
        """It has no connection."""


def replay_golden_requests(sealed: SealedModel) -> None:
    """Ask a sealed model its golden requests again; one that was sealed before there were any has none.

    Raises IntegrityError naming the request, the feature and both values where something else comes out than when it
    was sealed: with other libraries than then, the same model may be another.
    """
    reader = RecordedReader()
    served = ServedVersion(sealed.schema.use_case, "golden", Predictor(sealed, reader))
    try:
        for number, golden in enumerate(sealed.golden_requests):
            reader.answer = golden.online
            if problem := _problem(served, golden):
                raise IntegrityError(
                    f"Golden request {number} of {len(sealed.golden_requests)} of model {sealed.schema.use_case} "
                    f"{golden.body}: {problem} The libraries here may read it otherwise than those it was sealed with "
                    f"(polars {sealed.schema.polars or 'unknown'}); use those, or train and seal the model again."
                )
    finally:
        served.close()


def _problem(served: ServedVersion, golden: GoldenRequest) -> str | None:
    try:
        scored = served.predict_at_once(golden.body.encode())
    except HttpError as error:
        return f"it is refused now ({error.error})"
    except Exception as error:
        return f"it fails now ({type(error).__name__}: {error})."
    found = features_of(served.schema, scored.vectors)
    for name, value in golden.features.items():
        if found.get(name) != value:
            return f"feature {name!r} is {found.get(name)!r} instead of {value!r}."
    if not apart(served.schema.task, scored, golden.answer) <= TOLERANCE:  # NaN, too, is a difference
        return f"the answer is {shown_answer(scored.answer[0])} instead of {shown_answer(golden.answer)}."
    return None


def apart(task: Task, scored: Scored, expected: ArrayLike) -> float:
    """How far the answer to the first row is from the numbers that are expected; infinite if these are more or fewer.
    See `Task.apart`."""
    answer = scored.answer[0:1]
    theirs = np.atleast_1d(np.asarray(expected, dtype=np.float64))
    return float(task.apart(answer, theirs.reshape(answer.shape))[0]) if theirs.size == answer.size else math.inf


def features_of(schema: ModelSchema, vectors: Vectors, row: int = 0) -> dict[str, Value]:
    """The model's inputs of one row by name. None where missing: "" or no finite number, which it takes alike."""
    numbers = zip(schema.named("number"), vectors.numbers[row].tolist(), strict=True)
    texts = zip(schema.named("category"), vectors.categories[row], strict=True)
    found: dict[str, Value] = {name: value if np.isfinite(value) else None for name, value in numbers}
    return found | {name: text or None for name, text in texts}
