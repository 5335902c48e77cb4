"""Endpoint: the routes of one use case, from bytes to bytes."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping
from typing import Any

from mlops_ray.predictions.record import Route as LedgerRoute
from mlops_ray.predictions.writer import LedgerWriter
from mlops_ray.serving.follower import Follower, Traffic
from mlops_ray.serving.http import DEADLINE_S, Admission, HttpError, Request, Response, Route, Routes
from mlops_ray.serving.inference_protocol import HEADER_LENGTH, encode_answer, ledger_key
from mlops_ray.serving.inquiries import Given, Inquiry, RecentAnswers, inquiry_of
from mlops_ray.serving.model_routes import ASKED, ModelRoutes, asked_version
from mlops_ray.serving.predictor import DECISION_THRESHOLD
from mlops_ray.serving.served_version import InferQuestion, PredictQuestion, Question, Scored, ServedVersion
from mlops_ray.serving.shadow import Asked, Shadow
from mlops_ray.serving.slots import Slots

CANARY_SHARE_OF_DEADLINE = 0.5

_logger = logging.getLogger(__name__)


class Endpoint:
    """Answers for one use case. `app` is the ASGI application; paths are below `/v2/models/<name>`.

    slots: how many requests are at work and wait. busy_from: with so many at work, shadows are not asked. operations:
    further routes, which change what is live.
    """

    def __init__(
        self,
        name: str,
        follower: Follower,
        ledger: LedgerWriter,
        admission: Admission,
        operations: Mapping[str, Mapping[str, Route]] | None = None,
        deadline_s: float = DEADLINE_S,
        busy_from: int = 32,
        slots: Slots | None = None,
    ):
        self._name = name
        self._follower, self._ledger = follower, ledger
        self._canary_deadline_s = deadline_s * CANARY_SHARE_OF_DEADLINE
        self._busy_from, self._at_work = busy_from, 0
        self.shadow = Shadow(self._keep_shadow)
        self._recent = RecentAnswers()
        self.app = Routes(
            {
                **ModelRoutes(name, follower).routes(),
                "/openapi.json": {"GET": Route(self._document, None)},
                "/infer": {"POST": Route(self._infer, "predict")},
                "/versions/{version}/infer": {"POST": Route(self._infer, "predict")},
                "/predict": {"POST": Route(self._predict, "predict")},
                **(operations or {}),
            },
            admission,
            deadline_s,
            slots,
        )

    async def _document(self, request: Request) -> Response:
        return Response(self._follower.traffic.champion.openapi)

    async def _predict(self, request: Request) -> Response:
        request.expect_content_type("application/json")
        version, scored = await self._answer(request, PredictQuestion(await request.body()))
        answer: dict[str, Any] = {
            "model": self._name,
            "version": version,
            "request_id": request.request_id,
            "as_of": scored.as_of.isoformat().replace("+00:00", "Z"),
            "predictions": _predictions(scored),
        }
        if scored.vectors.degraded:
            answer["degraded"] = True
        return Response(answer)

    async def _infer(self, request: Request) -> Response:
        request.expect_content_type()  # clients of the protocol declare none: a header says how much is JSON
        question = InferQuestion(await request.body(), request.headers.get(HEADER_LENGTH))
        named = ledger_key(question.content, question.header_length)
        request.request_id = named or request.request_id
        version, scored = await self._answer(request, question, named is not None)
        assert scored.tensors is not None
        model = {"model_name": self._name, "model_version": version}
        body, head_length = encode_answer(scored.tensors, model, request.request_id, scored.probability)
        if head_length is None:
            return Response(body)
        headers = {"content-type": "application/octet-stream", HEADER_LENGTH.decode(): str(head_length)}
        return Response(body, headers=headers)

    async def _answer(self, request: Request, question: Question, named: bool = False) -> tuple[str, Scored]:
        """The answer of the version that this request falls to, once it is in the ledger; again if it is there.

        named: the request's id stands in its body.

        A canary that fails costs the caller nothing: the champion answers. It counts as the canary's failure only if
        the champion can answer, so that a wrong request blames nobody.
        """
        traffic = self._follower.traffic
        inquiry = inquiry_of(request, question.content, named)
        asked = asked_version(request, traffic, self._name)
        if asked is not None and asked is not traffic.champion:
            return asked.version, await self._ask_for(asked, inquiry, request, question)
        if asked is None and (given := self._recent.find(inquiry)):
            return given.version, given.scored
        self._at_work += 1
        try:
            canary = None if asked else self._canary_for(request, traffic, question)
            scored = await self._try(canary, request, question) if canary else None
            route: LedgerRoute
            if canary and scored:
                served, route = canary, "canary"
            else:
                served, route = traffic.champion, "champion"
                scored = await self._ask_champion(served, question)
                if canary:
                    self._follower.counts[canary.version, "canary"].failed()
            latency_s = self._keep(inquiry, served, route, scored, request.started_s)
            self._recent.keep(inquiry, Given(served.version, scored))
            self._follower.counts[served.version, route].answered(latency_s)
            self._offer_shadow(inquiry, traffic, scored)
            return served.version, scored
        finally:
            self._at_work -= 1

    async def _ask_for(self, asked: ServedVersion, inquiry: Inquiry, request: Request, question: Question) -> Scored:
        """The answer of a candidate that somebody who operates chose. If it fails, so does the request."""
        self._at_work += 1
        counts = self._follower.counts[asked.version, ASKED]
        try:
            scored = await question.ask(asked)
            counts.answered(self._keep(inquiry, asked, "canary", scored, request.started_s))
            return scored
        except HttpError:
            raise  # the caller's mistake
        except Exception:
            counts.failed()
            raise
        finally:
            self._at_work -= 1

    def _canary_for(self, request: Request, traffic: Traffic, question: Question) -> ServedVersion | None:
        step = traffic.step
        if step is None or step.route != "canary" or traffic.candidate is None:
            return None
        key = request.request_id
        if traffic.sticky is not None:
            key = question.value_of(traffic.champion, traffic.sticky) or key
        return traffic.candidate if share_of(key) < step.share else None

    async def _try(self, canary: ServedVersion, request: Request, question: Question) -> Scored | None:
        try:
            async with asyncio.timeout(self._canary_deadline_s):
                return await question.ask(canary)
        except Exception as error:
            _logger.warning(
                "Canary %s failed on request %s (%s: %s); the champion is asked",
                canary.version, request.request_id, type(error).__name__, error,
            )  # fmt: skip
            return None

    async def _ask_champion(self, champion: ServedVersion, question: Question) -> Scored:
        try:
            return await question.ask(champion)
        except HttpError:
            raise  # the caller's mistake
        except Exception:
            self._follower.counts[champion.version, "champion"].failed()
            raise

    def _keep(
        self, inquiry: Inquiry, served: ServedVersion, route: LedgerRoute, scored: Scored, started_s: float
    ) -> float:
        latency_s = time.perf_counter() - started_s
        self._ledger.append(
            served.version,
            request_id=inquiry.request_id,
            route=route,
            keys=scored.keys,
            numbers=scored.vectors.numbers,
            categories=scored.vectors.categories,
            probability=scored.probability,
            latency_s=latency_s,
            as_of=scored.as_of,
            question=inquiry.question,
            caller=inquiry.caller,
        )
        return latency_s

    def _offer_shadow(self, inquiry: Inquiry, traffic: Traffic, scored: Scored) -> None:
        step, candidate = traffic.step, traffic.candidate
        if step is None or candidate is None or step.route != "shadow" or share_of(inquiry.request_id) >= step.share:
            return
        if self._at_work > self._busy_from:
            self.shadow.dropped += 1
            return
        counts = self._follower.counts[candidate.version, "shadow"]
        self.shadow.offer(Asked(inquiry, traffic.champion, candidate, scored, counts))

    def _keep_shadow(self, asked: Asked, scored: Scored, latency_s: float) -> None:
        started_s = time.perf_counter() - latency_s
        self._keep(asked.inquiry, asked.candidate, "shadow", scored, started_s)


def _predictions(scored: Scored) -> list[dict[str, Any]]:
    """One for each row. What is unusual about a row stands with it, and nothing where all is as it should be."""
    answers: list[dict[str, Any]] = [
        {"probability": value, "prediction": value >= DECISION_THRESHOLD} for value in scored.probability.tolist()
    ]
    for answer, found in zip(answers, scored.vectors.online, strict=False):  # none without an online store
        if found.missing:
            answer["missing_features"] = found.missing
        if found.expired:
            answer["expired_features"] = found.expired
    for answer, late in zip(answers, scored.late, strict=False):  # none where features were sent
        if late:
            answer["late"] = True
    return answers


def share_of(key: str) -> float:
    """Where a key falls between 0 and 1: the same everywhere and always, so that a caller sticks to a version."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) / 2**64
