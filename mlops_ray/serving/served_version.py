"""One version of one model as a replica holds it: from the bytes of a question to probabilities."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.serving.batching import Batcher, Probability
from mlops_ray.serving.http import HttpError
from mlops_ray.serving.inference_protocol import InferBody, Tensors, metadata
from mlops_ray.serving.openapi import openapi_of_model
from mlops_ray.serving.predictor import Predictor, Vectors
from mlops_ray.serving.validation import PredictBody

INLINE_ROWS, INLINE_KEYS = 32, 8
WAITING_LOOKUPS = 8  # what one replica's CPU can make of answers that come from another machine


@dataclass(frozen=True)
class Scored:
    """What a version made of a question. keys: request columns of each row, None where features were sent.

    late: of each row given by keys, whether it was asked about later than the model learned to: after the event time
    minus the lead time. tensors: what the Open Inference Protocol wants back.
    """

    keys: Sequence[Mapping[str, Any]] | None
    vectors: Vectors
    probability: Probability
    as_of: datetime
    late: Sequence[bool] = ()
    tensors: Tensors | None = None


class Question(Protocol):
    """What a caller sent, before any version has read it: versions may differ in what they accept."""

    @property
    def content(self) -> bytes: ...

    async def ask(self, version: "ServedVersion") -> Scored:
        """The answer of `version`. Raises HttpError if it refuses."""
        ...

    def value_of(self, version: "ServedVersion", column: str) -> str | None:
        """A request column's value as `version` reads it; None if this kind of question has none."""
        ...


@dataclass(frozen=True)
class PredictQuestion:
    """Plain JSON."""

    content: bytes

    async def ask(self, version: "ServedVersion") -> Scored:
        return await version.predict(self.content)

    def value_of(self, version: "ServedVersion", column: str) -> str | None:
        return version.key_of(self.content, column)


@dataclass(frozen=True)
class InferQuestion:
    """The Open Inference Protocol; it sends features, never keys."""

    content: bytes
    header_length: bytes | None

    async def ask(self, version: "ServedVersion") -> Scored:
        return await version.infer(self.content, self.header_length)

    def value_of(self, version: "ServedVersion", column: str) -> None:
        return None


class ServedVersion:
    """A verified version, ready to answer. Everything that depends on it alone is worked out once, here."""

    def __init__(self, name: str, version: str, predictor: Predictor, remote_calls: int = 0):
        """remote_calls: how many questions a model that runs elsewhere may be asked at a time; 0: it runs here."""
        self.version, self.predictor = version, predictor
        self._remote = remote_calls > 0
        self.schema: ModelSchema = predictor.sealed.schema
        self.digest = predictor.sealed.digest
        self.takes = [(feature.name, feature.kind) for feature in self.schema.features]
        self.metadata = metadata(self.schema, name, version)
        self.openapi = openapi_of_model(self.schema, name, version)
        self._predict_body, self._infer_body = PredictBody(self.schema), InferBody(self.schema)
        self._positions = [
            [position for position, feature in enumerate(self.schema.features) if feature.kind == kind]
            for kind in ("number", "category")
        ]
        # Threads for what waits or is long, so that the event loop stays free to answer health checks and to keep the
        # deadline. One is enough for work that holds Python's lock; those that wait for another machine wait together.
        # Each version has its own, so that a slow canary does not hold up the champion. What is short stays on the
        # loop: handing a lookup of one row over and back costs about as much as the lookup.
        threads = remote_calls or (WAITING_LOOKUPS if predictor.waits else 1)
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=f"version-{version}")
        serving = self.schema.serving
        self._event_time, self._lead_time = self.schema.event_time, timedelta(seconds=self.schema.lead_time_s)
        self._batcher = (
            Batcher(self._ask_aside, serving.batch_rows, serving.batch_wait_ms / 1000)
            if serving.batch_wait_ms
            else None
        )
        self.warm_up()

    def warm_up(self) -> None:
        """Predict once with everything missing, so that the first caller does not pay for lazy set-up.

        A model that runs elsewhere is not asked: its deployment has a health of its own.
        """
        if self._remote:
            return
        nothing = [[None] * len(self.schema.named("number"))], [[None] * len(self.schema.named("category"))]
        self.predictor.probability(self.predictor.vectors_of_features(*nothing))

    def waits(self, looks_up: bool) -> bool:
        """Whether an answer may have to wait for another machine; looks_up: features are read from the store."""
        return self._remote or (looks_up and self.predictor.waits)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def predict(self, content: bytes) -> Scored:
        """Answer the plain JSON question in `content`. Raises HttpError if it is refused."""
        asked = self._predict_body.decode(content)
        as_of = (asked.as_of or datetime.now(UTC)).astimezone(UTC)
        if asked.keys is not None:
            late = self._late(asked.keys, as_of, given=asked.as_of is not None)
            vectors, probability = await self._from_keys(asked.keys, as_of)
            return Scored(asked.keys, vectors, probability, as_of, late)
        numbers, categories = (
            [[row[position] for position in positions] for row in asked.features or []] for positions in self._positions
        )
        vectors = self.predictor.vectors_of_features(numbers, categories)
        return Scored(None, vectors, await self._probability(vectors), as_of)

    async def infer(self, content: bytes, header_length: bytes | None) -> Scored:
        """Answer a question of the Open Inference Protocol. Raises HttpError if it is refused."""
        tensors = self._infer_body.decode(content, header_length)
        vectors = self._infer_body.vectors(tensors.columns)
        return Scored(None, vectors, await self._probability(vectors), datetime.now(UTC), tensors=tensors)

    def predict_at_once(self, content: bytes) -> Scored:
        """What `predict` answers to a question by keys that gives `as_of`, in this thread: sealing and golden requests
        ask so. Raises what `predict` raises."""
        asked = self._predict_body.decode(content)
        if asked.keys is None or asked.as_of is None:
            raise ValueError("Give keys and as_of.")
        as_of = asked.as_of.astimezone(UTC)
        late = self._late(asked.keys, as_of, given=True)
        return Scored(asked.keys, *self._look_up_and_ask(asked.keys, as_of), as_of, late)

    def _late(self, keys: Sequence[Mapping[str, Any]], as_of: datetime, given: bool) -> list[bool]:
        """Which rows are asked about later than the model learned to. Raises HttpError if the caller chose so: what is
        known then may tell the outcome."""
        late = [as_of > row[self._event_time] - self._lead_time for row in keys]
        if given and any(late):
            row = late.index(True)
            event: datetime = keys[row][self._event_time].astimezone(UTC)
            raise HttpError(
                400,
                f"as_of: {as_of.isoformat()} is later than {(event - self._lead_time).isoformat()}, which is "
                f"{self._event_time} of row {row} ({event.isoformat()}) minus the lead time ({self._lead_time}): what "
                f"is known then may tell the outcome. Send that moment or one before, or leave as_of out to ask as of "
                f"now.",
                "as_of",
            )
        return late

    def key_of(self, content: bytes, column: str) -> str | None:
        """The first row's value of a request column, as text; None where it is not sent. Raises HttpError."""
        asked = self._predict_body.decode(content)
        value = asked.keys[0].get(column) if asked.keys else None
        return None if value is None else str(value)

    async def _from_keys(self, keys: list[dict[str, Any]], moment: datetime) -> tuple[Vectors, Probability]:
        if self._batcher is None:
            if len(keys) <= INLINE_KEYS and not self.waits(looks_up=True):
                return self._look_up_and_ask(keys, moment)
            found: tuple[Vectors, Probability] = await self._aside(self._look_up_and_ask, keys, moment)
            return found
        vectors = await self._aside(self.predictor.vectors_of_keys, keys, moment)
        return vectors, await self._batcher.probability(vectors)

    def _look_up_and_ask(self, keys: list[dict[str, Any]], moment: datetime) -> tuple[Vectors, Probability]:
        vectors = self.predictor.vectors_of_keys(keys, moment)
        return vectors, self.predictor.probability(vectors)

    async def _probability(self, vectors: Vectors) -> Probability:
        if self._batcher is not None:
            return await self._batcher.probability(vectors)
        if len(vectors) <= INLINE_ROWS and not self.waits(looks_up=False):
            return self.predictor.probability(vectors)
        return await self._ask_aside(vectors)

    async def _ask_aside(self, vectors: Vectors) -> Probability:
        answer: Probability = await self._aside(self.predictor.probability, vectors)
        return answer

    async def _aside(self, work: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *given)
