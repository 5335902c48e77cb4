"""The client for asyncio."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import httpx

from mlops_ray.client.approvers import AsyncApprovers
from mlops_ray.client.audit import AsyncAudit
from mlops_ray.client.data import AsyncData
from mlops_ray.client.decisions import Decision, decided
from mlops_ray.client.exchange import Call, Limits, Outcome, Pause, authorization, exchange, on_this_machine
from mlops_ray.client.features import values_pushed
from mlops_ray.client.keys import AsyncKeys
from mlops_ray.client.labels import labels_sent
from mlops_ray.client.predictions import Answer, answer_of, batches, columns_asked, question
from mlops_ray.client.records import AsyncRecords
from mlops_ray.client.rollouts import AsyncRollouts
from mlops_ray.client.steps import Steps, T, only
from mlops_ray.client.subscriptions import AsyncSubscriptions
from mlops_ray.client.values import Row, Rows
from mlops_ray.errors import MlopsRayError


class AsyncClient:
    """`Client` for asyncio: the same methods as coroutines, the same limits and errors. Use it with `async with`."""

    def __init__(
        self,
        url: str,
        timeout_s: float = 15.0,
        attempts: int | None = None,
        deadline_s: float = 30.0,
        api_key: str | None = None,
    ):
        """See `Client`."""
        self._limits = Limits(timeout_s, deadline_s, attempts)
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"), headers=authorization(api_key), trust_env=not on_this_machine(url)
        )
        self.rollouts = AsyncRollouts(self._do)
        self.keys = AsyncKeys(self._do)
        self.subscriptions = AsyncSubscriptions(self._do)
        self.audit = AsyncAudit(self._do)
        self.approvers = AsyncApprovers(self._do)
        self.data = AsyncData(self._do)
        self.records = AsyncRecords(self._do)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def columns(self, name: str) -> tuple[str, ...]:
        """See `Client.columns`."""
        return await self._do(columns_asked(name))

    async def predict(
        self,
        name: str,
        *,
        keys: Rows | None = None,
        features: Rows | None = None,
        as_of: datetime | None = None,
        explain: bool = False,
    ) -> Answer:
        """See `Client.predict`."""
        return answer_of(await self._carry_out(question(name, keys, features, as_of, explain)))

    async def predict_many(
        self,
        name: str,
        *,
        keys: Sequence[Row] | None = None,
        features: Sequence[Row] | None = None,
        as_of: datetime | None = None,
        batch_size: int = 500,
        concurrency: int = 4,
    ) -> list[Answer]:
        """See `Client.predict_many`."""
        turns = asyncio.Semaphore(concurrency)

        async def predict(batch: dict[str, Any]) -> Answer:
            async with turns:
                return await self.predict(name, **batch, as_of=as_of)

        tasks = [asyncio.create_task(predict(batch)) for batch in batches(keys, features, batch_size)]
        try:
            return [await task for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def send_labels(self, name: str, labels: Sequence[Row]) -> int:
        """See `Client.send_labels`."""
        return await self._do(labels_sent(name, labels))

    async def push(self, name: str, view: str, rows: Sequence[Row]) -> int:
        """See `Client.push`."""
        return await self._do(values_pushed(name, view, rows))

    async def decide(
        self,
        what: Decision,
        name: str,
        version: int,
        reason: str = "",
        digest: str | None = None,
        revision: int | None = None,
        condition: str = "",
        approval: str | None = None,
    ) -> dict[str, Any]:
        """See `Client.decide`."""
        return await self._do(decided(what, name, version, reason, digest, revision, condition, approval))

    async def approvals(self) -> list[dict[str, Any]]:
        """See `Client.approvals`."""
        return list((await self._carry_out(Call("/v2/approvals", method="GET")))["approvals"])

    async def inventory(self) -> list[dict[str, Any]]:
        """See `Client.inventory`."""
        return list((await self._carry_out(Call("/v2/inventory", method="GET")))["use_cases"])

    async def review(self, name: str, reason: str) -> dict[str, Any]:
        """See `Client.review`."""
        return await self._do(only(Call("/v2/inventory/review", {"use_case": name, "reason": reason})))

    async def lineage(self, of: str) -> dict[str, Any]:
        """See `Client.lineage`."""
        return await self._do(only(Call("/v2/versions/lineage", {"of": of})))

    async def _do(self, steps: Steps[T]) -> T:
        try:
            call = next(steps)
            while True:
                try:
                    content = await self._carry_out(call)
                except MlopsRayError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(content)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _carry_out(self, call: Call) -> Any:
        going = exchange(self._limits, str(self._http.base_url), call.path)
        step = next(going)
        try:
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = going.send(None)
                    continue
                outcome: Outcome
                try:
                    async with asyncio.timeout(step.timeout_s):
                        outcome = await self._http.request(
                            call.method, call.path, json=call.body, headers=step.headers, timeout=step.timeout_s
                        )
                except TimeoutError:
                    outcome = httpx.ReadTimeout("the time for the whole answer is over")
                except httpx.RequestError as error:
                    outcome = error
                step = going.send(outcome)
        except StopIteration as done:
            return done.value
