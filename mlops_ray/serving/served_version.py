"""One version of one model as a replica holds it: from the bytes of a question to answers."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

from mlops_ray.errors import ConfigurationError
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.registry.reasons import reasons
from mlops_ray.serving.batching import Answers, Batcher, TurnBatcher
from mlops_ray.serving.counters import Judged
from mlops_ray.serving.http import HttpError
from mlops_ray.serving.inference_protocol import InferBody, Tensors, metadata
from mlops_ray.serving.openapi import openapi_of_model
from mlops_ray.serving.predictor import Predictor, Vectors
from mlops_ray.serving.tracing import part
from mlops_ray.serving.validation import Asked, PredictBody

INLINE_ROWS, INLINE_KEYS = 32, 8
WAITING_LOOKUPS = 8  # what one replica's CPU can make of answers that come from another machine
T = TypeVar("T")


@dataclass(frozen=True)
class Scored:
    """What a version made of a question. keys: request columns of each row, None where features were sent.

    answer: to each row, as the task of the version's schema has it. late: of each row given by keys, whether it was
    asked about later than the model learned to: after the event time minus the lead time. tensors: what the Open
    Inference Protocol wants back. explain: the reasons of each answer are asked for, too. reasons: what each answer
    says of them: `reasons`, or None as that and why as `reasons_missing`; empty where they were not asked for.
    lookup_s, model_s: how long reading the online store and asking the model took, without any waiting; model_s is None
    where requests are asked together.
    """

    keys: Sequence[Mapping[str, Any]] | None
    vectors: Vectors
    answer: Answers
    as_of: datetime
    late: Sequence[bool] = ()
    tensors: Tensors | None = None
    explain: bool = False
    reasons: Sequence[Mapping[str, Any]] = ()
    lookup_s: float = 0.0
    model_s: float | None = None


class Question(Protocol):
    """What a caller sent, before any version has read it: versions may differ in what they accept."""

    @property
    def content(self) -> bytes: ...

    async def ask(self, version: "ServedVersion", aside: bool = False) -> Scored:
        """The answer of `version`; see `ServedVersion.predict`. Raises HttpError if it refuses."""
        ...

    def values_of(self, version: "ServedVersion", column: str) -> Sequence[str | None]:
        """A request column's value in each row, as `version` reads it; empty if this kind of question has none."""
        ...


@dataclass(frozen=True)
class PredictQuestion:
    """Plain JSON."""

    content: bytes

    async def ask(self, version: "ServedVersion", aside: bool = False) -> Scored:
        return await version.predict(self.content, aside)

    def values_of(self, version: "ServedVersion", column: str) -> Sequence[str | None]:
        return version.keys_of(self.content, column)


@dataclass(frozen=True)
class InferQuestion:
    """The Open Inference Protocol; it sends features, never keys."""

    content: bytes
    header_length: bytes | None

    async def ask(self, version: "ServedVersion", aside: bool = False) -> Scored:
        return await version.infer(self.content, self.header_length, aside)

    def values_of(self, version: "ServedVersion", column: str) -> Sequence[str | None]:
        return ()


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
        self.judged = Judged()
        self._predict_body = PredictBody(self.schema, self.judged.values)
        self._uncounted_body = PredictBody(self.schema)
        self._infer_body = InferBody(self.schema, self.judged.values)
        self._positions = [
            [position for position, feature in enumerate(self.schema.features) if feature.kind == kind]
            for kind in ("number", "category")
        ]
        # Threads for what waits or is long, so that the event loop stays free to answer health checks and to keep the
        # deadline. One is enough for work that holds Python's lock; those that wait for another machine wait together.
        # Each version has its own, so that a slow canary does not hold up the champion. What is short stays on the
        # loop, together with what else has come in the same turn: handing a lookup of one row over and back costs about
        # as much as the lookup.
        threads = remote_calls or (WAITING_LOOKUPS if predictor.waits else 1)
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=f"version-{version}")
        # Reasons take as long as some thousand answers, so answers do not wait in one row with them.
        self._reasons_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"reasons-{version}")
        serving = self.schema.serving
        self._event_time, self._lead_time = self.schema.event_time, timedelta(seconds=self.schema.lead_time_s)
        self._batcher = (
            Batcher(self._ask_aside, serving.batch_rows, serving.batch_wait_ms / 1000)
            if serving.batch_wait_ms
            else None
        )
        self._lookups = TurnBatcher(predictor.vectors_of_keys)
        self._given_up: set[Future[Any]] = set()
        self.warm_up()

    def warm_up(self) -> None:
        """Predict once with everything missing, so that the first caller does not pay for lazy set-up.

        A model that runs elsewhere is not asked: its deployment has a health of its own.
        """
        if self._remote:
            return
        nothing = [[None] * len(self.schema.named("number"))], [[None] * len(self.schema.named("category"))]
        self.predictor.answers(self.predictor.vectors_of_features(*nothing))

    def waits(self, looks_up: bool) -> bool:
        """Whether an answer may have to wait for another machine; looks_up: features are read from the store."""
        return self._remote or (looks_up and self.predictor.waits)

    @property
    def is_stuck(self) -> bool:
        """Whether its threads are still at work for somebody who does not wait any more."""
        return bool(self._given_up)

    def close(self) -> None:
        """Let go of threads and connections once what was asked is answered. Nobody may ask any more."""
        threading.Thread(target=self._close, name=f"close-{self.version}", daemon=True).start()

    def _close(self) -> None:
        for threads in (self._threads, self._reasons_thread):
            threads.shutdown(wait=True)
        self.predictor.close()

    async def predict(self, content: bytes, aside: bool = False) -> Scored:
        """Answer the plain JSON question in `content`. Raises HttpError if it is refused.

        aside: look up and ask in this version's own thread, however short that is: one that nobody knows yet may hang,
        and the event loop belongs to the callers of the others.
        """
        asked, as_of, late = self._counted(self._asked, content)
        scored = await self._scored(asked, as_of, late, aside)
        return replace(scored, explain=True) if asked.explain else scored

    async def _scored(self, asked: Asked, as_of: datetime, late: Sequence[bool], aside: bool) -> Scored:
        if asked.keys is not None:
            return await self._from_keys(asked.keys, as_of, late, aside)
        numbers, categories = (
            [[row[position] for position in positions] for row in asked.features or []] for positions in self._positions
        )
        return await self._from_vectors(self.predictor.vectors_of_features(numbers, categories), aside, as_of)

    async def infer(self, content: bytes, header_length: bytes | None, aside: bool = False) -> Scored:
        """Answer a question of the Open Inference Protocol. Raises HttpError if it is refused. aside: see `predict`."""
        tensors = self._counted(self._infer_body.decode, content, header_length)
        vectors = self._infer_body.vectors(tensors.columns)
        return await self._from_vectors(vectors, aside, datetime.now(UTC), tensors)

    async def reasons(self, scored: Scored, row: int, ends_at: float) -> Mapping[str, Any]:
        """The reasons of an answer that this version gave, in a thread that answers nothing.

        A row at a time, so that those who wait for it take turns. Raises TimeoutError if they are not there at
        `ends_at`, by the clock of `time.monotonic`, and ConfigurationError if this model can give none.
        """
        if self._remote:
            raise ConfigurationError("This model runs in a deployment of its own, where reasons cannot be asked for.")
        some = slice(row, row + 1)
        given = scored.vectors.numbers[some], scored.vectors.categories[some], scored.answer[some]
        work = partial(reasons, self.predictor.sealed, *given, ends_at=ends_at)
        pending = self._reasons_thread.submit(copy_context().run, work)
        async with asyncio.timeout(ends_at - time.monotonic()):  # the thread ends by itself, after a piece of its work
            return (await asyncio.wrap_future(pending))[0]

    def _asked(self, content: bytes) -> tuple[Asked, datetime, Sequence[bool]]:
        """What is asked, as of when, and which rows are late. Raises HttpError if it is refused."""
        asked = self._predict_body.decode(content)
        as_of = (asked.as_of or datetime.now(UTC)).astimezone(UTC)
        late = self._late(asked.keys, as_of, given=asked.as_of is not None) if asked.keys is not None else ()
        return asked, as_of, late

    def _counted(self, read: Callable[..., T], *given: Any) -> T:
        """What `read` makes of a request, which counts as refused if it raises HttpError, and as repaired if the
        contract repaired a value. It waits for nothing, so no other request is read meanwhile."""
        values = self.judged.values.total()
        try:
            found = read(*given)
        except HttpError:
            self.judged.refused += 1
            raise
        self.judged.repaired += self.judged.values.total() > values
        return found

    def predict_at_once(self, content: bytes) -> Scored:
        """What `predict` answers to a question by keys that gives `as_of`, in this thread: sealing and golden requests
        ask so. Raises what `predict` raises."""
        asked = self._predict_body.decode(content)
        if asked.keys is None or asked.as_of is None:
            raise ValueError("Give keys and as_of.")
        as_of = asked.as_of.astimezone(UTC)
        late = self._late(asked.keys, as_of, given=True)
        return self._look_up_and_ask(asked.keys, as_of, late)

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

    def keys_of(self, content: bytes, column: str) -> Sequence[str | None]:
        """A request column's value in each row, as text, None where it is missing; empty where features were sent, and
        for a question that will be refused. Nothing is counted: whoever answers reads it once more."""
        try:
            values = [row.get(column) for row in self._uncounted_body.decode(content).keys or ()]
        except HttpError:
            return ()
        return [None if value is None else str(value) for value in values]

    async def in_its_thread(self, work: Callable[..., Any], *given: Any) -> Any:
        """The result of `work`, done in this version's thread. Where nobody waits for it any more, it `is_stuck` until
        the work ends."""
        pending = self._threads.submit(copy_context().run, work, *given)  # with the span that it is part of
        try:
            return await asyncio.wrap_future(pending)
        except asyncio.CancelledError:
            if pending.running():
                self._given_up.add(pending)
                pending.add_done_callback(self._given_up.discard)
            raise

    async def _from_keys(
        self, keys: list[dict[str, Any]], moment: datetime, late: Sequence[bool], aside: bool
    ) -> Scored:
        if self._batcher is not None:
            started_s = time.perf_counter()
            with part("online store"):
                vectors: Vectors = await self.in_its_thread(self.predictor.vectors_of_keys, keys, [moment] * len(keys))
            lookup_s = time.perf_counter() - started_s
            with part("model"):
                answer = await self._batcher.answers(vectors)
            return Scored(keys, vectors, answer, moment, late, lookup_s=lookup_s)
        if not aside and len(keys) <= INLINE_KEYS and not self.waits(looks_up=True):
            with part("online store"):
                vectors, lookup_s = await self._lookups.vectors(keys, moment)
            answer, model_s = self._timed(vectors)
            return Scored(keys, vectors, answer, moment, late, lookup_s=lookup_s, model_s=model_s)
        scored: Scored = await self.in_its_thread(self._look_up_and_ask, keys, moment, late)
        return scored

    def _look_up_and_ask(self, keys: list[dict[str, Any]], moment: datetime, late: Sequence[bool]) -> Scored:
        started_s = time.perf_counter()
        with part("online store"):
            vectors = self.predictor.vectors_of_keys(keys, [moment] * len(keys))
        lookup_s = time.perf_counter() - started_s
        answer, model_s = self._timed(vectors)
        return Scored(keys, vectors, answer, moment, late, lookup_s=lookup_s, model_s=model_s)

    async def _from_vectors(
        self, vectors: Vectors, aside: bool, as_of: datetime, tensors: Tensors | None = None
    ) -> Scored:
        model_s: float | None = None
        if self._batcher is not None:
            with part("model"):
                answer = await self._batcher.answers(vectors)
        elif not aside and len(vectors) <= INLINE_ROWS and not self.waits(looks_up=False):
            answer, model_s = self._timed(vectors)
        else:
            answer, model_s = await self.in_its_thread(self._timed, vectors)
        return Scored(None, vectors, answer, as_of, tensors=tensors, model_s=model_s)

    def _timed(self, vectors: Vectors) -> tuple[Answers, float]:
        with part("model"):
            started_s = time.perf_counter()
            return self.predictor.answers(vectors), time.perf_counter() - started_s

    async def _ask_aside(self, vectors: Vectors) -> Answers:
        answer: Answers = await self.in_its_thread(self.predictor.answers, vectors)
        return answer
