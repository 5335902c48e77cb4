"""What a caller is told when something fails: the status of its kind, and nothing of the machine it ran on."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    NodeDiedError,
    OutOfMemoryError,
    RaySystemError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from mlops_ray.errors import (
    ConfigurationError,
    ConflictError,
    DataError,
    ForbiddenError,
    IntegrityError,
    MlopsRayError,
    ModelError,
    UnavailableError,
    UseCaseError,
)
from mlops_ray.serving.failures import cause_of, status_of, told
from mlops_ray.serving.http import HttpError, Request, Response, Route, Routes

KINDS = {
    DataError: 400, ConfigurationError: 400, ForbiddenError: 403, ConflictError: 409, UnavailableError: 503,
    IntegrityError: 500, ModelError: 500, UseCaseError: 500, MlopsRayError: 500,
}  # fmt: skip
PLACES = [
    "/work/state/control_store.db", "sqlite:////srv/x.db", "postgresql://mlops:secret@db.internal:5432/mlops",
    "10.0.0.17:30001", "127.0.0.1", "fe80::1ff:fe23:4567:890a", "db.internal:5432", "localhost:6379", "pid=4711",
    "s3://bucket/lineage/flights", "~/state", "../other/file.json", "0x7f3a12cd",
]  # fmt: skip


class DeeperError(UnavailableError):
    """A kind of a kind."""


def answered(error: Exception) -> tuple[int, str]:
    """By a route whose handler fails so."""

    async def fail(request: Request) -> Response:
        raise error

    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    app = Routes({"/fail": {"GET": Route(fail, None, public=True)}}, None)  # type: ignore[arg-type]
    asyncio.run(app({"type": "http", "method": "GET", "path": "/fail", "headers": []}, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])["error"]


def from_a_handle(error: Exception) -> Exception:
    """As Ray brings it from another process."""
    text = f'Traceback (most recent call last):\n  File "/srv/app.py", line 5, in f\n{error!r}'
    wrapped = RayTaskError("probability", text, error, proctitle="ray::Replica", pid=4711, ip="10.0.0.17")
    return wrapped.as_instanceof_cause()  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [*KINDS, DeeperError])
def test_a_kind_of_error_has_its_status_wherever_it_was_raised(kind: type[MlopsRayError]) -> None:
    expected = KINDS.get(kind, 503)
    for error in (kind("It is so."), from_a_handle(kind("It is so."))):
        status, text = answered(error)
        assert status == expected
        assert text == "It is so." or status == 500
        assert not any(part in text for part in ("Traceback", "4711", "10.0.0.17", "app.py", "ray::"))


def test_what_a_handle_brings_of_another_kind_is_judged_as_if_it_were_raised_here() -> None:
    assert answered(from_a_handle(ZeroDivisionError("secret")))[0] == 500
    assert "secret" not in answered(from_a_handle(ZeroDivisionError("secret")))[1]
    assert answered(from_a_handle(TimeoutError()))[0] == 504
    assert answered(from_a_handle(HttpError(413, "Too much.")))[0] == 413
    error = DataError("It loops.")
    error.cause = error  # type: ignore[attr-defined]
    assert cause_of(error) is error


@pytest.mark.parametrize(
    "error",
    [
        ActorDiedError(), ActorUnavailableError("It died.", None), NodeDiedError("10.0.0.17 is gone"),
        WorkerCrashedError(), RaySystemError("no route"), OutOfMemoryError("10.0.0.17"),
        BackPressureError(num_queued_requests=9, max_queued_requests=9), DeploymentUnavailableError(DeploymentID("m")),
    ],
)  # fmt: skip
def test_what_is_lost_in_ray_can_be_asked_for_again(error: Exception) -> None:
    assert answered(error) == (503, "A part of the server does not answer.")
    assert type(error).__name__ in str(cause_of(error))


def test_a_call_that_ray_gives_up_in_time_is_late() -> None:
    assert answered(GetTimeoutError("10.0.0.17"))[0] == 504


@pytest.mark.parametrize("place", PLACES)
def test_no_place_of_this_machine_is_told(place: str) -> None:
    for kind in KINDS:
        for text in (f"File {place} is damaged.", f"At '{place}', it ends", f"{place}: no\n{place}", f"({place})"):
            for part in ("secret", "internal", "state", "17", "4711", "srv", "bucket", "7f3a", "4567", "6379", "127"):
                assert part not in told(kind(text)), (kind, text)


def test_what_is_down_is_told_without_what_a_library_said_of_it() -> None:
    error = UnavailableError('The online store does not answer: server at "db-7", user "mlops". Is it running?')
    assert told(error) == "The online store does not answer."


@given(st.sampled_from(list(KINDS)), st.text())
def test_whatever_an_error_says_there_is_one_line_for_the_caller(kind: type[MlopsRayError], text: str) -> None:
    assert len(told(kind(text)).splitlines()) <= 1
    assert status_of(kind(text)) == KINDS[kind]


@pytest.mark.parametrize(
    "text",
    [
        "Version 2 of flights was retired at 2026-03-01 12:30:59 UTC. Take another version, or register it again.",
        "keys.origin: 'JFK/LGA' is not one of the known values (origin:not_a_choice).",
        "as_of: 2013-10-01T10:00:00+00:00 is later than 2013-10-01T09:00:00.5Z, and/or before it (limit 0.1 %).",
        "Ask for it with `mlops-ray approvals request flights 2`; its digest is 3f2a0b (12/24 rows).",
    ],
)
def test_what_is_no_place_stays_as_it_is(text: str) -> None:
    assert told(DataError(text)) == text
