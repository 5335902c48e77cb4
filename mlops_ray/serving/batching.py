"""Dynamic batching: rows of requests that come at nearly the same time become one question to a large model."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
from numpy.typing import NDArray

from mlops_ray.errors import ModelError, UnavailableError
from mlops_ray.serving.predictor import Vectors

Probability = NDArray[np.float32]


class Batcher:
    """Waits up to `wait_s` for `max_rows` rows, then asks once. For one event loop.

    ask_model: answers the rows of many requests, aside from the event loop.
    """

    def __init__(self, ask_model: Callable[[Vectors], Awaitable[Probability]], max_rows: int, wait_s: float):
        self._ask_model, self._max_rows, self._wait_s = ask_model, max_rows, wait_s
        self._waiting: list[tuple[Vectors, asyncio.Future[Probability]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._asking: set[asyncio.Task[None]] = set()

    async def probability(self, vectors: Vectors) -> Probability:
        """The model's answer for these rows. Raises what the model raises for them, and if it fails altogether what it
        raises for their batch."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Probability] = loop.create_future()
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

    async def _answer(self, batch: list[tuple[Vectors, asyncio.Future[Probability]]]) -> None:
        parts = [vectors for vectors, _ in batch]
        together = Vectors(np.concatenate([p.numbers for p in parts]), np.concatenate([p.categories for p in parts]))
        try:
            probability = await self._ask_model(together)
        except asyncio.CancelledError:
            _fail(batch, UnavailableError("The model was closed while it was asked. Ask again."))
            raise
        except Exception as error:
            if isinstance(error, ModelError) and len(batch) > 1:  # only those pay whose rows it cannot answer
                await asyncio.gather(*(self._answer([one]) for one in batch))
            else:
                _fail(batch, error)
            return
        ends = np.cumsum([len(part) for part in parts])[:-1]
        for (_, answer), own in zip(batch, np.split(probability, ends), strict=True):
            if not answer.done():  # its caller may have gone
                answer.set_result(own)


def _fail(batch: list[tuple[Vectors, asyncio.Future[Probability]]], error: Exception) -> None:
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(error)
