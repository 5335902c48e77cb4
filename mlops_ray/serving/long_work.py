"""Long work: what takes longer than a request may, begun by one request and asked after by others."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mlops_ray.serving.http import HttpError, Request, Response
from mlops_ray.serving.operations import read_query

WAIT_S = 5.0  # how long an answer waits for the end; who wants more asks again
KEPT = 100

Outcome = dict[str, Any] | Exception


class WorkQuery(msgspec.Struct, forbid_unknown_fields=True):
    """id: of the request that began it."""

    id: Annotated[str, Meta(max_length=64)]


@dataclass(frozen=True)
class _Work:
    """question: a digest of what was asked, which may name a person."""

    question: bytes
    done: Future[Outcome]


class LongWork:
    """One piece at a time, in a thread of its own, which goes on whoever hangs up.

    The last `KEPT` pieces are known, by who began them and the id of that request: who repeats the request, as after an
    answer that did not arrive, joins what it began.
    """

    def __init__(self, name: str):
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._begun: OrderedDict[tuple[str, str], _Work] = OrderedDict()

    async def begin(self, request: Request, do: Callable[[], dict[str, Any]]) -> Response:
        """Begin, or join what this request began. Raises HttpError 409 if another order was given under its id."""
        key, question = _named(request, request.request_id), _question(request)
        work = self._begun.get(key)
        if work is None:
            work = self._begun[key] = _Work(question, self._thread.submit(_outcome, do))
            self._forget()
        elif work.question != question:
            raise HttpError(409, f"Request {request.request_id} asked for something else before. Take another id.")
        return await _answer(request.request_id, work)

    async def look(self, request: Request) -> Response:
        """How the work that one of the caller's requests began went, or goes. Raises what the work has raised."""
        query = read_query(request, WorkQuery)
        work = self._begun.get(_named(request, query.id))
        if work is None:
            text = "No work of yours is known under this id, or the server has started since. Ask for it again."
            raise HttpError(404, text, "id")
        return await _answer(query.id, work)

    def _forget(self) -> None:
        for key in list(self._begun)[: max(0, len(self._begun) - KEPT)]:
            if self._begun[key].done.done():
                del self._begun[key]


def _named(request: Request, id: str) -> tuple[str, str]:
    assert request.principal is not None
    return request.principal.id, id


def _question(request: Request) -> bytes:
    return hashlib.blake2b(request.path.encode() + b"\0" + (request.content or b"")).digest()


def _outcome(do: Callable[[], dict[str, Any]]) -> Outcome:
    try:
        return do()
    except Exception as error:  # whoever asks is told
        return error


async def _answer(id: str, work: _Work) -> Response:
    await asyncio.wait([asyncio.wrap_future(work.done)], timeout=WAIT_S)
    if not work.done.done():
        return Response({"id": id, "state": "running", "result": None})
    found = work.done.result()
    if isinstance(found, Exception):
        raise found
    return Response({"id": id, "state": "done", "result": found})
