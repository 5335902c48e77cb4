"""Endpoint: the routes of one use case, from bytes to bytes."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlops_ray.errors import MlopsRayError, UnavailableError
from mlops_ray.predictions.record import Route as LedgerRoute
from mlops_ray.predictions.writer import LedgerWriter
from mlops_ray.serving.counters import Counts
from mlops_ray.serving.failures import FAILED, FAILURES, told
from mlops_ray.serving.follower import Follower
from mlops_ray.serving.http import DEADLINE_S, Admission, HttpError, Request, Response, Route, Routes
from mlops_ray.serving.inference_protocol import HEADER_LENGTH, encode_answer, ledger_key
from mlops_ray.serving.inquiries import Given, Inquiry, RecentAnswers, inquiry_of
from mlops_ray.serving.model_routes import ASKED, ModelRoutes, asked_name, asked_version
from mlops_ray.serving.served_version import InferQuestion, PredictQuestion, Question, Scored, ServedVersion
from mlops_ray.serving.shadow import Asked, Shadow
from mlops_ray.serving.slots import Slots
from mlops_ray.serving.tracing import part, tell
from mlops_ray.serving.traffic import Traffic

CANARY_SHARE_OF_DEADLINE = 0.5  # at most; see `Traffic.patience_s`
REASONS_SHARE_OF_DEADLINE = 0.9  # with the answer; the rest is for its record and the way back

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
        self._reasons_deadline_s = deadline_s * REASONS_SHARE_OF_DEADLINE
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
        given = await self._answer(request, PredictQuestion(await request.body()))
        answer: dict[str, Any] = {
            "model": self._name,
            "version": given.version,
            "request_id": request.request_id,
            "as_of": given.scored.as_of.isoformat().replace("+00:00", "Z"),
            "predictions": _predictions(given),
        }
        if given.scored.vectors.degraded:
            answer["degraded"] = True
        return Response(answer)

    async def _infer(self, request: Request) -> Response:
        request.expect_content_type()  # clients of the protocol declare none: a header says how much is JSON
        question = InferQuestion(await request.body(), request.headers.get(HEADER_LENGTH))
        if named := ledger_key(question.content, question.header_length):
            request.request_id, request.named = named, True
        given = await self._answer(request, question)
        tensors = given.scored.tensors
        assert tensors is not None
        model = {"model_name": self._name, "model_version": given.version}
        body, head_length = encode_answer(tensors, model, request.request_id, given.task, given.scored.answer)
        if head_length is None:
            return Response(body)
        headers = {"content-type": "application/octet-stream", HEADER_LENGTH.decode(): str(head_length)}
        return Response(body, headers=headers)

    async def _answer(self, request: Request, question: Question) -> Given:
        """The answer of the version that this request falls to, once it is in the ledger; again if it is there."""
        inquiry = inquiry_of(request, question.content, asked_name(request))
        return await self._recent.once(inquiry, lambda: self._ask_anew(request, question, inquiry))

    async def _ask_anew(self, request: Request, question: Question, inquiry: Inquiry) -> Given:
        """A new answer, and its record.

        A canary that fails costs the caller nothing: the champion answers. It counts as the canary's failure only if
        the champion can answer, so that a wrong request blames nobody.
        """
        traffic = self._follower.traffic
        asked = asked_version(request, traffic, self._name)
        if asked is not None and asked is not traffic.champion:
            return await self._ask_for(asked, request, question, inquiry)
        self._at_work += 1
        try:
            canary = None if asked else self._canary_for(request, traffic, question)
            scored = await self._try(canary, request, question, traffic.patience_s) if canary else None
            route: LedgerRoute
            if canary and scored:
                served, route = canary, "canary"
            else:
                served, route = traffic.champion, "champion"
                scored = await self._ask(served, question, self._follower.counts[served.version, "champion"])
                if canary:
                    self._follower.counts[canary.version, "canary"].failed()
            latency_s = time.perf_counter() - request.started_s  # no version is judged by its reasons
            scored = await self._explained(served, request, scored)
            with part("ledger"):
                self._keep(inquiry, served, route, scored, latency_s)
            tell(model=self._name, version=served.version, route=route)
            counts = self._follower.counts[served.version, route]
            counts.answered(latency_s)
            if scored.model_s is not None:
                counts.worked(scored.lookup_s + scored.model_s)
            self._offer_shadow(inquiry, traffic, scored)
            return Given(served.version, served.schema.task, scored)
        finally:
            self._at_work -= 1

    async def _ask_for(self, asked: ServedVersion, request: Request, question: Question, inquiry: Inquiry) -> Given:
        """The answer of a candidate that somebody who operates chose. If it fails, so does the request."""
        self._at_work += 1
        counts = self._follower.counts[asked.version, ASKED]
        try:
            scored = await self._ask(asked, question, counts, aside=True)
            latency_s = time.perf_counter() - request.started_s
            scored = await self._explained(asked, request, scored)
            self._keep(inquiry, asked, ASKED, scored, latency_s)
            counts.answered(latency_s)
            return Given(asked.version, asked.schema.task, scored)
        finally:
            self._at_work -= 1

    def _canary_for(self, request: Request, traffic: Traffic, question: Question) -> ServedVersion | None:
        """The canary, if this request falls to it. Where a column decides, each row has its own say, and a question
        without it falls to the champion.

        Raises HttpError if the rows of a request do not agree: it is answered by one version.
        """
        if traffic.step is None or traffic.step.route != "canary" or traffic.candidate is None:
            return None
        if traffic.sticky is None:
            return traffic.candidate if traffic.takes(request.request_id) else None
        values = question.values_of(traffic.champion, traffic.sticky)
        sides = [value is not None and traffic.takes(value) for value in values]
        if any(sides) and not all(sides):
            raise HttpError(
                400,
                f"While version {traffic.candidate.version} comes in by {traffic.sticky}, rows {sides.index(True)} and "
                f"{sides.index(False)} are answered by different versions. Send rows of one {traffic.sticky} in a "
                f"request.",
                "keys",
            )
        return traffic.candidate if any(sides) else None

    async def _try(
        self, canary: ServedVersion, request: Request, question: Question, patience_s: float
    ) -> Scored | None:
        """The canary's answer, or None if it fails: whatever happens in it, but for the end of the request itself."""
        try:
            if canary.is_stuck:
                raise TimeoutError("it has not come back from an earlier request")
            async with asyncio.timeout(min(patience_s, self._canary_deadline_s)):
                return await question.ask(canary, aside=True)
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            problem: BaseException = error
        except FAILURES as error:
            problem = error
        _logger.warning(
            "Canary %s failed on request %s (%s: %s); the champion is asked",
            canary.version, request.request_id, type(problem).__name__, problem,
        )  # fmt: skip
        return None

    async def _ask(self, version: ServedVersion, question: Question, counts: Counts, aside: bool = False) -> Scored:
        """The answer of a version that is alone to give one."""
        try:
            return await question.ask(version, aside)
        except HttpError:
            raise  # the caller's mistake
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            counts.failed()
            raise UnavailableError(f"Version {version.version} was closed while it answered. Ask again.") from None
        except FAILURES:
            counts.failed()
            raise

    async def _explained(self, served: ServedVersion, request: Request, scored: Scored) -> Scored:
        """The answer with its reasons, where they were asked for, as far as there is time for them."""
        if not scored.explain:
            return scored
        left_s = self._reasons_deadline_s - (time.perf_counter() - request.started_s)
        ends_at = time.monotonic() + left_s
        with part("reasons"):
            rows = range(len(scored.answer))
            return replace(scored, reasons=[await self._reasons(served, request, scored, row, ends_at) for row in rows])

    async def _reasons(
        self, served: ServedVersion, request: Request, scored: Scored, row: int, ends_at: float
    ) -> Mapping[str, Any]:
        """What the answer to a row says of its reasons; whatever happens to them, the answer is given."""
        try:
            return {"reasons": await served.reasons(scored, row, ends_at)}
        except TimeoutError:
            why = "They were not ready in time. Ask again, or for fewer rows at a time."
        except FAILURES as error:
            why = told(error) if isinstance(error, MlopsRayError) else FAILED
            _logger.warning(
                "Version %s gives no reasons of row %d of request %s: %s: %s",
                served.version, row, request.request_id, type(error).__name__, error,
            )  # fmt: skip
        return {"reasons": None, "reasons_missing": why}

    def _keep(
        self, inquiry: Inquiry, served: ServedVersion, route: LedgerRoute, scored: Scored, latency_s: float
    ) -> None:
        self._ledger.append(
            served.version,
            request_id=inquiry.request_id,
            route=route,
            keys=scored.keys,
            numbers=scored.vectors.numbers,
            categories=scored.vectors.categories,
            answer=scored.answer,
            latency_s=latency_s,
            as_of=scored.as_of,
            question=inquiry.question,
            caller=inquiry.caller,
            reasons=[said["reasons"] for said in scored.reasons],
        )

    def _offer_shadow(self, inquiry: Inquiry, traffic: Traffic, scored: Scored) -> None:
        step, candidate = traffic.step, traffic.candidate
        if step is None or candidate is None or step.route != "shadow" or not traffic.takes(inquiry.request_id):
            return
        if self._at_work > self._busy_from:
            self.shadow.dropped += 1
            return
        counts = self._follower.counts[candidate.version, "shadow"]
        self.shadow.offer(Asked(inquiry, traffic.champion, candidate, scored, counts))

    def _keep_shadow(self, asked: Asked, scored: Scored, latency_s: float) -> None:
        self._keep(asked.inquiry, asked.candidate, "shadow", scored, latency_s)


def _predictions(given: Given) -> list[dict[str, Any]]:
    """One for each row. What is unusual about a row stands with it, and nothing where all is as it should be."""
    scored, answers = given.scored, given.task.rows(given.scored.answer)
    for answer, found in zip(answers, scored.vectors.online, strict=False):  # none without an online store
        if found.missing:
            answer["missing_features"] = found.missing
        if found.expired:
            answer["expired_features"] = found.expired
    for answer, late in zip(answers, scored.late, strict=False):  # none where features were sent
        if late:
            answer["late"] = True
    for answer, reasons in zip(answers, scored.reasons, strict=False):  # none where they were not asked for
        answer.update(reasons)
    return answers


def _is_cancelled() -> bool:
    """Whether the request itself is to end, by its deadline or because the caller is gone."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
