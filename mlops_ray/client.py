"""Client: asks a served model over HTTP, with one connection kept open and safe retries."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
import uuid6

from mlops_ray.errors import DataError, MlopsRayError, UnavailableError

_RETRIED_STATUS = {429, 503}
_MAX_WAIT_S = 2.0

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Prediction:
    """The answer for one row. `prediction` is whether `probability` reaches one half."""

    probability: float
    prediction: bool


@dataclass(frozen=True)
class Answer:
    """The answer to one request, with what is needed to find it again: request id and model version."""

    model: str
    version: str
    request_id: str
    as_of: datetime
    predictions: tuple[Prediction, ...]


class Client:
    """Asks the server at `url` (such as http://127.0.0.1:8000). Usable as a context manager; not across processes."""

    def __init__(self, url: str, timeout_s: float = 15.0, attempts: int = 4):
        """timeout_s: for one attempt, connecting included. attempts: in all, with growing pauses between them."""
        self._attempts = attempts
        self._http = httpx.Client(base_url=url.rstrip("/"), timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def predict(
        self,
        name: str,
        *,
        keys: Row | Sequence[Row] | None = None,
        features: Row | Sequence[Row] | None = None,
        as_of: datetime | None = None,
    ) -> Answer:
        """Predict for one row or many, given by entity keys and event time, or by full feature vectors.

        as_of: the moment as of which features are read; default: when the server gets the request. Datetimes need a
        zone. Raises DataError if the server refuses the rows (it names the field), UnavailableError if it does not
        answer after all attempts. A retry keeps the request id, so that the server can tell it from a new request.
        """
        given = {"keys": keys, "features": features, "as_of": as_of}
        body = {key: _plain(value) for key, value in given.items() if value is not None}
        answer = self._post(f"/v2/models/{name}/predict", body)
        return Answer(
            model=answer["model"],
            version=answer["version"],
            request_id=answer["request_id"],
            as_of=datetime.fromisoformat(answer["as_of"]),
            predictions=tuple(Prediction(**row) for row in answer["predictions"]),
        )

    def _post(self, path: str, body: Any) -> Any:
        request_id = str(uuid6.uuid7())
        problem = ""
        for attempt in range(self._attempts):
            wait_s = min(0.1 * 2**attempt, _MAX_WAIT_S)
            try:
                response = self._http.post(path, json=body, headers={"x-request-id": request_id})
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if response.status_code not in _RETRIED_STATUS:
                    return _content(response)
                problem = f"{response.status_code}: {_error_of(response)}"
                wait_s = min(_retry_after_s(response, wait_s), _MAX_WAIT_S)
            if attempt + 1 < self._attempts:
                time.sleep(wait_s)
        raise UnavailableError(
            f"{self._http.base_url}{path} did not answer request {request_id} in {self._attempts} attempts "
            f"({problem}). Is the server running?"
        )


def _content(response: httpx.Response) -> Any:
    if response.status_code == 200:
        return response.json()
    text = f"{response.url} answered {response.status_code}: {_error_of(response)}"
    if response.status_code >= 500:
        raise UnavailableError(text)
    raise (DataError if response.status_code in (400, 413) else MlopsRayError)(text)


def _error_of(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.text[:500]


def _retry_after_s(response: httpx.Response, default_s: float) -> float:
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return default_s


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
