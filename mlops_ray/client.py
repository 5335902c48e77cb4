"""Client: asks a served model over HTTP, with connections kept open and safe retries; in two forms, sync and async.

What both do is decided once, in `_exchange`, which says when to send and how long to pause; a client carries it out.
"""

import asyncio
import math
import os
import random
import re
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Literal, Self

import httpx
import numpy as np
import uuid6

from mlops_ray.client_deadline import DeadlineBackend
from mlops_ray.errors import (
    ConfigurationError,
    ConflictError,
    DataError,
    ForbiddenError,
    MlopsRayError,
    UnavailableError,
)

API_KEY_VARIABLE = "MLOPS_RAY_API_KEY"
LABELS_IN_A_REQUEST = 1_000

# A replica that crashes in the middle of a request is answered by Serve with 500. Asking again is safe: the ledger
# knows a request by its id, and a decision or a label that is repeated changes nothing. A 404 that is not the server's
# own is a front end's that has just come back and does not know its routes yet.
_RETRIED_STATUS = {408, 429, 500, 502, 503, 504}
_REFUSED = {400: DataError, 413: DataError, 409: ConflictError}
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0

Row = Mapping[str, Any]
Rows = Row | Sequence[Row]
Decision = Literal["request", "approve", "reject", "revoke", "break-glass", "retire"]


@dataclass(frozen=True)
class Prediction:
    """The answer for one row. `prediction` is whether `probability` reaches one half.

    missing_features: of which the online store knew no value at the moment `as_of` of the answer; expired_features:
    whose value was older than it may be. The model took both as missing. late: it was asked later than the model
    learned to, after the event time minus the lead time.
    """

    probability: float
    prediction: bool
    missing_features: tuple[str, ...] = ()
    expired_features: tuple[str, ...] = ()
    late: bool = False


@dataclass(frozen=True)
class Answer:
    """The answer to one request, with what is needed to find it again: request id and model version.

    degraded: the online store did not answer, and the model took all its features as missing.
    """

    model: str
    version: str
    request_id: str
    as_of: datetime
    predictions: tuple[Prediction, ...]
    degraded: bool = False


@dataclass(frozen=True)
class _Limits:
    timeout_s: float
    deadline_s: float
    attempts: int | None


@dataclass(frozen=True)
class _Send:
    timeout_s: float
    headers: Mapping[str, str]


@dataclass(frozen=True)
class _Pause:
    seconds: float


_Outcome = httpx.Response | httpx.RequestError
_Exchange = Generator[_Send | _Pause, _Outcome | None, Any]


class Client:
    """Asks the server at `url` (such as http://127.0.0.1:8000). Usable as a context manager; not across processes."""

    def __init__(
        self,
        url: str,
        timeout_s: float = 15.0,
        attempts: int | None = None,
        deadline_s: float = 30.0,
        api_key: str | None = None,
    ):
        """timeout_s: for one attempt, from connecting to the last byte of the answer. attempts: at most, with growing
        pauses between them; default: as many as there is time for.

        deadline_s: for all attempts and pauses of a request, however slowly an answer comes. api_key: sent as bearer
        token; default from MLOPS_RAY_API_KEY.
        """
        self._limits = _Limits(timeout_s, deadline_s, attempts)
        self._http = httpx.Client(
            base_url=url.rstrip("/"), headers=_authorization(api_key), trust_env=not on_this_machine(url)
        )
        self._network = DeadlineBackend()
        self._network.attach_to(self._http)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def predict(
        self, name: str, *, keys: Rows | None = None, features: Rows | None = None, as_of: datetime | None = None
    ) -> Answer:
        """Predict for one row or many, given by entity keys and event time, or by full feature vectors.

        as_of: the moment as of which features are read, at most the event time minus the lead time; default: when the
        server gets the request. Datetimes need a zone. Raises DataError if the server refuses the rows (it names the
        field), ForbiddenError if it does not accept the key, UnavailableError if it does not answer after all attempts
        or before the deadline. A retry keeps the request id, so that the server can tell it from a new request.
        """
        return _answer(self._carry_out(_path(name, "predict"), _body(keys, features, as_of)))

    def predict_many(
        self,
        name: str,
        *,
        keys: Sequence[Row] | None = None,
        features: Sequence[Row] | None = None,
        as_of: datetime | None = None,
        batch_size: int = 500,
        concurrency: int = 4,
    ) -> list[Answer]:
        """Predict for any number of rows: `batch_size` in a request, `concurrency` requests at a time.

        The answers, and the predictions in them, are in the order of the rows. Raises what `predict` raises, for the
        first batch that fails; batches that were not sent by then are not sent.
        """
        batches = list(_batches(keys, features, batch_size))
        with ThreadPoolExecutor(concurrency, thread_name_prefix="predict_many") as pool:
            futures = [pool.submit(self.predict, name, **batch, as_of=as_of) for batch in batches]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def send_labels(self, name: str, labels: Sequence[Row]) -> int:
        """Tell what turned out to be true; returns how many labels were kept.

        Each has `label` (True, False, or None to withdraw what was said) and either `request_id`, with `row` where the
        request had many, or `keys`: entities and event time. `known_at` says since when it is known; default: when the
        server gets it. Of several labels of a prediction the one known last holds, so sending again does no harm. Any
        number are sent, 1,000 in a request. Raises what `predict` raises.
        """
        return sum(self._carry_out(path, body)["accepted"] for path, body in _label_requests(name, labels))

    def decide(
        self, what: Decision, name: str, version: int, reason: str = "", digest: str | None = None
    ) -> dict[str, Any]:
        """Ask for, give, refuse or take back the approval of a version, do without it, or retire the version for good.

        Who does it is whose key this client has. digest: of the sealed model that was looked at, to refuse another
        one. Returns the approval, the retired version, or after breaking the glass what is live. Raises ForbiddenError
        for who may not do this (the author of a version cannot approve it), ConflictError if it cannot be done to what
        stands, and what `predict` raises.
        """
        return dict(self._carry_out(*_decision(what, name, version, reason, digest)))

    def lineage(self, of: str) -> dict[str, Any]:
        """Everything behind an endpoint (flights), a version (flights@7) or a request's id, back to the raw files."""
        return dict(self._carry_out("/v2/versions/lineage", {"of": of}))

    def _carry_out(self, path: str, body: Any) -> Any:
        exchange = _exchange(self._limits, str(self._http.base_url), path)
        step = next(exchange)
        try:
            while True:
                if isinstance(step, _Pause):
                    time.sleep(step.seconds)
                    step = exchange.send(None)
                    continue
                outcome: _Outcome
                try:
                    with self._network.within(step.timeout_s):
                        outcome = self._http.post(path, json=body, headers=step.headers, timeout=step.timeout_s)
                except httpx.RequestError as error:
                    outcome = error
                step = exchange.send(outcome)
        except StopIteration as done:
            return done.value


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
        self._limits = _Limits(timeout_s, deadline_s, attempts)
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"), headers=_authorization(api_key), trust_env=not on_this_machine(url)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def predict(
        self, name: str, *, keys: Rows | None = None, features: Rows | None = None, as_of: datetime | None = None
    ) -> Answer:
        """See `Client.predict`."""
        return _answer(await self._carry_out(_path(name, "predict"), _body(keys, features, as_of)))

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

        async def predict(batch: dict[str, Sequence[Row]]) -> Answer:
            async with turns:
                return await self.predict(name, **batch, as_of=as_of)

        tasks = [asyncio.create_task(predict(batch)) for batch in _batches(keys, features, batch_size)]
        try:
            return [await task for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def send_labels(self, name: str, labels: Sequence[Row]) -> int:
        """See `Client.send_labels`."""
        kept = 0
        for path, body in _label_requests(name, labels):
            kept += (await self._carry_out(path, body))["accepted"]
        return kept

    async def decide(
        self, what: Decision, name: str, version: int, reason: str = "", digest: str | None = None
    ) -> dict[str, Any]:
        """See `Client.decide`."""
        return dict(await self._carry_out(*_decision(what, name, version, reason, digest)))

    async def lineage(self, of: str) -> dict[str, Any]:
        """See `Client.lineage`."""
        return dict(await self._carry_out("/v2/versions/lineage", {"of": of}))

    async def _carry_out(self, path: str, body: Any) -> Any:
        exchange = _exchange(self._limits, str(self._http.base_url), path)
        step = next(exchange)
        try:
            while True:
                if isinstance(step, _Pause):
                    await asyncio.sleep(step.seconds)
                    step = exchange.send(None)
                    continue
                outcome: _Outcome
                try:
                    async with asyncio.timeout(step.timeout_s):
                        outcome = await self._http.post(path, json=body, headers=step.headers, timeout=step.timeout_s)
                except TimeoutError:
                    outcome = httpx.ReadTimeout("the time for the whole answer is over")
                except httpx.RequestError as error:
                    outcome = error
                step = exchange.send(outcome)
        except StopIteration as done:
            return done.value


def _exchange(limits: _Limits, url: str, path: str) -> _Exchange:
    """One request with its retries: yields what to do next, is sent the outcome, returns the answer's content."""
    headers = {"x-request-id": str(uuid6.uuid7())}
    deadline = time.monotonic() + limits.deadline_s
    problem, attempt, most = "", 0, limits.attempts or math.inf
    while attempt < most and (remaining_s := deadline - time.monotonic()) > 0:
        outcome = yield _Send(min(limits.timeout_s, remaining_s), headers)
        attempt += 1
        pause_s = min(_FIRST_PAUSE_S * 2 ** min(attempt - 1, 10), _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
        if isinstance(outcome, httpx.Response):
            if not _may_pass(outcome):
                return _content(outcome)
            problem = f"{outcome.status_code}: {_error_of(outcome)}"
            pause_s = max(pause_s, _retry_after_s(outcome))
        elif isinstance(outcome, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            raise ConfigurationError(f"{url}{path} cannot be asked: {outcome}. Check the URL and the API key.")
        else:
            problem = f"{type(outcome).__name__}: {outcome}"
        if attempt == most or pause_s >= deadline - time.monotonic():
            break
        yield _Pause(pause_s)
    raise UnavailableError(
        f"{url}{path} did not answer request {headers['x-request-id']} in {attempt} attempts within "
        f"{limits.deadline_s:g} s ({problem}). Is the server running?"
    )


def _authorization(api_key: str | None) -> dict[str, str]:
    """As read from a file or a variable: without the line feed at its end."""
    key = (api_key if api_key is not None else os.environ.get(API_KEY_VARIABLE, "")).strip()
    return {"authorization": f"Bearer {key}"} if key else {}


def _path(name: str, what: str) -> str:
    """Raises ConfigurationError for what cannot be the name of a model, and could lead elsewhere on the server."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        raise ConfigurationError(f"{name[:40]!a} is no name of a model: a-z, 0-9 and _, at most 63 characters.")
    return f"/v2/models/{name}/{what}"


def _body(keys: Rows | None, features: Rows | None, as_of: datetime | None) -> dict[str, Any]:
    given = {"keys": keys, "features": features, "as_of": as_of}
    return {name: _plain(value) for name, value in given.items() if value is not None}


def _batches(
    keys: Sequence[Row] | None, features: Sequence[Row] | None, size: int
) -> Iterator[dict[str, Sequence[Row]]]:
    """The rows in requests of `size`, as arguments of `predict`. Raises DataError unless one of both is given."""
    if (keys is None) == (features is None):
        raise DataError("Give either keys or features.")
    name, rows = ("keys", keys) if keys is not None else ("features", features or [])
    for start in range(0, len(rows), size):
        yield {name: rows[start : start + size]}


def _label_requests(name: str, labels: Sequence[Row]) -> Iterator[tuple[str, dict[str, Any]]]:
    for start in range(0, len(labels), LABELS_IN_A_REQUEST):
        yield _path(name, "labels"), {"labels": _plain(labels[start : start + LABELS_IN_A_REQUEST])}


def _decision(what: Decision, name: str, version: int, reason: str, digest: str | None) -> tuple[str, dict[str, Any]]:
    body = {"model": name, "version": version, "reason": reason, "digest": digest}
    return "/v2/versions/retire" if what == "retire" else f"/v2/approvals/{what}", body


def _answer(content: Any) -> Answer:
    return Answer(
        model=content["model"],
        version=content["version"],
        request_id=content["request_id"],
        as_of=datetime.fromisoformat(content["as_of"]),
        predictions=tuple(_prediction(row) for row in content["predictions"]),
        degraded=content.get("degraded", False),
    )


def _prediction(row: Mapping[str, Any]) -> Prediction:
    missing, expired = (tuple(row.get(name, ())) for name in ("missing_features", "expired_features"))
    return Prediction(row["probability"], row["prediction"], missing, expired, row.get("late", False))


def on_this_machine(url: str) -> bool:
    """Whether the URL names this machine itself: no proxy that the environment names can reach that."""
    host = httpx.URL(url).host
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _content(response: httpx.Response) -> Any:
    status = response.status_code
    text = f"{response.url} answered {status}: {_error_of(response)}"
    if status == 200:
        try:
            return response.json()
        except ValueError:
            raise UnavailableError(f"{text} This is no JSON; is there another server at this URL?") from None
    if status == 401 and "authorization" not in response.request.headers:
        raise ForbiddenError(f"{text} Give an API key: api_key=..., or set {API_KEY_VARIABLE}.")
    if status == 401:
        raise ForbiddenError(f"{text} The API key is wrong, expired or revoked. Ask the operator for a new one.")
    if status == 403:
        raise ForbiddenError(f"{text} The API key is valid, but its role or use cases do not allow this.")
    if status >= 500:
        raise UnavailableError(text)
    raise _REFUSED.get(status, MlopsRayError)(text)


def _may_pass(response: httpx.Response) -> bool:
    """Whether it is trouble that another attempt may not meet."""
    status = response.status_code
    return status in _RETRIED_STATUS or (status == 404 and not _is_our_error(response))


def _is_our_error(response: httpx.Response) -> bool:
    try:
        return "error" in response.json()
    except (ValueError, TypeError):
        return False


def _error_of(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.text[:500]


def _retry_after_s(response: httpx.Response) -> float:
    """How long the server asks to wait (RFC 9110: seconds, or a date); 0 if it does not say."""
    text = response.headers.get("retry-after", "")
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return 0.0


def _plain(value: Any) -> Any:
    """The value as JSON has it: datetimes as RFC 3339, NaN (how pandas writes missing numbers) as null.

    Raises DataError for a datetime without a zone.
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise DataError(f"Datetime {value.isoformat()} has no time zone. Add one, such as datetime.UTC.")
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value
