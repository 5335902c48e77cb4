"""Endpoint: the routes of one model, from bytes to bytes."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.serving.http import DEADLINE_S, Request, Response, Routes
from mlops_ray.serving.inference_protocol import HEADER_LENGTH, InferBody, encode_answer, metadata
from mlops_ray.serving.openapi import openapi_of_model
from mlops_ray.serving.predictor import DECISION_THRESHOLD, Predictor, Vectors
from mlops_ray.serving.validation import PredictBody

INLINE_ROWS = 32


class Endpoint:
    """Answers for one version of one model. `app` is the ASGI application; paths are below `/v2/models/<name>`."""

    def __init__(self, name: str, version: str, predictor: Predictor, deadline_s: float = DEADLINE_S):
        schema = predictor.sealed.schema
        self._predictor = predictor
        self._identity = {"model": name, "version": version}
        self._metadata = metadata(schema, name, version)
        self._openapi = openapi_of_model(schema, name, version)
        self._predict_body, self._infer_body = PredictBody(schema), InferBody(schema)
        self._columns_of = {kind: _positions(schema, kind) for kind in ("number", "category")}
        # One thread for what waits or is long: its work holds Python's lock, so more would not be faster, and the
        # event loop stays free to answer health checks and to keep the deadline.
        self._aside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="predict")
        self.app = Routes(
            {
                "": {"GET": self._describe},
                "/ready": {"GET": self._ready},
                "/openapi.json": {"GET": self._document},
                "/infer": {"POST": self._infer},
                "/predict": {"POST": self._predict},
            },
            deadline_s,
        )

    def warm_up(self) -> None:
        """Predict once with everything missing, so that the first caller does not pay for lazy set-up."""
        schema = self._predictor.sealed.schema
        nothing = [[None] * len(schema.named("number"))], [[None] * len(schema.named("category"))]
        self._predictor.probability(self._predictor.vectors_of_features(*nothing))

    async def _describe(self, request: Request) -> Response:
        return Response(self._metadata)

    async def _ready(self, request: Request) -> Response:
        return Response({"name": self._identity["model"], "ready": True})

    async def _document(self, request: Request) -> Response:
        return Response(self._openapi)

    async def _predict(self, request: Request) -> Response:
        request.expect_content_type("application/json")
        asked = self._predict_body.decode(await request.body())
        as_of = (asked.as_of or datetime.now(UTC)).astimezone(UTC)
        if asked.keys is not None:
            probability = await self._run_aside(self._from_keys, asked.keys, as_of)
        else:
            probability = await self._from_features(asked.features or [])
        predictions = [
            {"probability": value, "prediction": value >= DECISION_THRESHOLD} for value in probability.tolist()
        ]
        return Response(
            {
                **self._identity,
                "request_id": request.request_id,
                "as_of": as_of.isoformat().replace("+00:00", "Z"),
                "predictions": predictions,
            }
        )

    async def _infer(self, request: Request) -> Response:
        request.expect_content_type("application/json", "application/octet-stream")
        question = self._infer_body.decode(await request.body(), request.headers.get(HEADER_LENGTH))
        probability = await self._probability(self._infer_body.vectors(question.columns))
        model = {"model_name": self._identity["model"], "model_version": self._identity["version"]}
        body, head_length = encode_answer(question, model, request.request_id, probability)
        if head_length is None:
            return Response(body)
        headers = {"content-type": "application/octet-stream", HEADER_LENGTH.decode(): str(head_length)}
        return Response(body, headers=headers)

    def _from_keys(self, keys: list[dict[str, Any]], moment: datetime) -> NDArray[np.float32]:
        return self._predictor.probability(self._predictor.vectors_of_keys(keys, moment))

    async def _from_features(self, rows: list[tuple[Any, ...]]) -> NDArray[np.float32]:
        numbers, categories = (
            [[row[position] for position in self._columns_of[kind]] for row in rows] for kind in ("number", "category")
        )
        return await self._probability(self._predictor.vectors_of_features(numbers, categories))

    async def _probability(self, vectors: Vectors) -> NDArray[np.float32]:
        if len(vectors) <= INLINE_ROWS:
            return self._predictor.probability(vectors)
        return await self._run_aside(self._predictor.probability, vectors)

    async def _run_aside(self, work: Any, *given: Any) -> NDArray[np.float32]:
        answer: NDArray[np.float32] = await asyncio.get_running_loop().run_in_executor(self._aside, work, *given)
        return answer


def _positions(schema: ModelSchema, kind: str) -> list[int]:
    return [position for position, feature in enumerate(schema.features) if feature.kind == kind]
