"""One request with its retries: when to send and how long to pause is decided here, and a client carries it out."""

import math
import os
import random
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any, Literal

import httpx
import uuid6

from mlops_ray.errors import (
    ConfigurationError,
    ConflictError,
    DataError,
    ForbiddenError,
    MlopsRayError,
    UnavailableError,
)

API_KEY_VARIABLE = "MLOPS_RAY_API_KEY"

# A replica that crashes in the middle of a request is answered by Serve with 500. Asking again is safe: the ledger
# knows a request by its id, and a decision or a label that is repeated changes nothing. A 404 that is not the server's
# own is a front end's that has just come back and does not know its routes yet.
_RETRIED_STATUS = {408, 429, 500, 502, 503, 504}
_REFUSED = {400: DataError, 404: ConfigurationError, 409: ConflictError, 413: DataError}
_PARQUET = "application/vnd.apache.parquet"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0


@dataclass(frozen=True)
class Call:
    """What a server is asked. body: sent as JSON."""

    path: str
    body: Any = None
    method: Literal["GET", "POST"] = "POST"


@dataclass(frozen=True)
class Limits:
    timeout_s: float
    deadline_s: float
    attempts: int | None


@dataclass(frozen=True)
class Send:
    timeout_s: float
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Pause:
    seconds: float


Outcome = httpx.Response | httpx.RequestError
Exchange = Generator[Send | Pause, Outcome | None, Any]


def exchange(limits: Limits, url: str, path: str) -> Exchange:
    """One request with its retries: yields what to do next, is sent the outcome, returns the answer's content."""
    headers = {"x-request-id": str(uuid6.uuid7())}
    deadline = time.monotonic() + limits.deadline_s
    problem, attempt, most = "", 0, limits.attempts or math.inf
    while attempt < most and (remaining_s := deadline - time.monotonic()) > 0:
        outcome = yield Send(min(limits.timeout_s, remaining_s), headers)
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
        yield Pause(pause_s)
    raise UnavailableError(
        f"{url}{path} did not answer request {headers['x-request-id']} in {attempt} attempts within "
        f"{limits.deadline_s:g} s ({problem}). Is the server running?"
    )


def authorization(api_key: str | None) -> dict[str, str]:
    """As read from a file or a variable: without the line feed at its end."""
    key = (api_key if api_key is not None else os.environ.get(API_KEY_VARIABLE, "")).strip()
    return {"authorization": f"Bearer {key}"} if key else {}


def on_this_machine(url: str) -> bool:
    """Whether the URL names this machine itself: no proxy that the environment names can reach that."""
    host = httpx.URL(url).host
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _content(response: httpx.Response) -> Any:
    status = response.status_code
    if status == 200 and response.headers.get("content-type") == _PARQUET:
        return response.content
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
