"""Dynamic batching: rows of requests that come at nearly the same time become one question, to a large model or to the
online store."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.errors import ModelError, UnavailableError
from mlops_ray.serving.failures import FAILURES
from mlops_ray.serving.predictor import Vectors

Answers = NDArray[np.float32]


class Batcher:
    """Waits up to `wait_s` for `max_rows` rows, then asks once. For one event loop.

    ask_model: answers the rows of many requests, aside from the event loop.
    """

    def __init__(self, ask_model: Callable[[Vectors], Awaitable[Answers]], max_rows: int, wait_s: float):
        self._ask_model, self._max_rows, self._wait_s = ask_model, max_rows, wait_s
        self._waiting: list[tuple[Vectors, asyncio.Future[Answers]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._asking: set[asyncio.Task[None]] = set()

    async def answers(self, vectors: Vectors) -> Answers:
        """The model's answer for these rows. Raises what the model raises for them, and if it fails altogether what it
        raises for their batch."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answers] = loop.create_future()
        self._waiting.append((vectors, answer))
        if sum(len(waiting) for waiting, _ in self._waiting) >= self._max_rows:
            self._send()
        elif self._timer is None:
            self._timer = loop.call_later(self._wait_s, self._send)
        return await answer

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._waiting = self._waiting, []
        task = asyncio.ensure_future(self._answer(batch))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _answer(self, batch: list[tuple[Vectors, asyncio.Future[Answers]]]) -> None:
        parts = [vectors for vectors, _ in batch]
        together = Vectors(np.concatenate([p.numbers for p in parts]), np.concatenate([p.categories for p in parts]))
        try:
            answers = await self._ask_model(together)
        except asyncio.CancelledError:
            _fail(
                [answer for _, answer in batch], UnavailableError("The model was closed while it was asked. Ask again.")
            )
            raise
        except FAILURES as error:
            if isinstance(error, ModelError) and len(batch) > 1:  # only those pay whose rows it cannot answer
                await asyncio.gather(*(self._answer([one]) for one in batch))
            else:
                _fail([answer for _, answer in batch], error)
            return
        ends = np.cumsum([len(part) for part in parts])[:-1]
        for (_, answer), own in zip(batch, np.split(answers, ends), strict=True):
            if not answer.done():  # its caller may have gone
                answer.set_result(own)


Rows = Sequence[Mapping[str, Any]]


class TurnBatcher:
    """Looks up at once what requests ask for in one turn of the event loop; nobody waits for a later one.

    Of a lookup of one row most is the same for eight: evaluating expressions, a statement, arrays. The busier the
    replica, the more comes in a turn; what comes alone is looked up alone. For one event loop.
    """

    def __init__(self, look_up: Callable[[Rows, Sequence[datetime]], Vectors]):
        """look_up: the vectors of rows of entity keys, each as of its moment; too short to hold up the loop."""
        self._look_up = look_up
        self._asked: list[tuple[Rows, datetime, asyncio.Future[tuple[Vectors, float]]]] = []

    async def vectors(self, rows: Rows, moment: datetime) -> tuple[Vectors, float]:
        """The vectors of some rows and their share of the seconds that the turn's lookup took.

        Raises what `look_up` raises for them.
        """
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._answer)
        answer: asyncio.Future[tuple[Vectors, float]] = loop.create_future()
        self._asked.append((rows, moment, answer))
        return await answer

    def _answer(self) -> None:
        asked, self._asked = self._asked, []
        waiting = [one for one in asked if not one[2].done()]  # a caller may have gone
        try:
            self._answer_together(waiting)
        except UnavailableError as error:  # it is the same for all, and was waited for once
            _fail([answer for *_, answer in waiting], error)
        except FAILURES:
            for one in waiting:  # only those pay whose rows cannot be looked up
                try:
                    self._answer_together([one])
                except FAILURES as error:
                    one[2].set_exception(error)

    def _answer_together(self, asked: Sequence[tuple[Rows, datetime, asyncio.Future[tuple[Vectors, float]]]]) -> None:
        if not asked:
            return
        started_s = time.perf_counter()
        found = self._look_up(
            [row for rows, _, _ in asked for row in rows], [moment for rows, moment, _ in asked for _ in rows]
        )
        share_s, end = (time.perf_counter() - started_s) / max(1, len(found)), 0
        for rows, _, answer in asked:
            first, end = end, end + len(rows)
            answer.set_result((found.part(first, end), share_s * len(rows)))


def _fail(answers: Sequence[asyncio.Future[Any]], error: BaseException) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(error)
