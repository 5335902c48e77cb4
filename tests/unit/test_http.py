"""What every route has in common: answers are counted, time counts from the first byte, floods leave few lines."""

import asyncio
import json
import logging
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from polars.exceptions import PanicException
from ray.serve._private.metrics_utils import InMemoryMetricsStore
from ray.serve._private.replica import ReplicaMetricsManager

from mlops_ray.governance.principals import Principal, Role
from mlops_ray.serving.endpoint_replica import EndpointReplica
from mlops_ray.serving.http import HUNG_UP, LOG_LINES_PER_S, STARTED, Request, Response, Route, Routes
from mlops_ray.serving.middleware import WAITED, Edge
from mlops_ray.serving.slots import Slots
from mlops_ray.testing.example_endpoint import ExampleEndpoint, example_endpoint
from tests.unit.test_endpoint import tensors

VECTOR = {"origin": "JFK", "distance": 500.0, "carrier": "AA", "hour": 8.0, "recent_delay": 30.0}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleEndpoint]:
    with example_endpoint(tmp_path_factory.mktemp("state")) as example:
        yield example


def post(endpoint: ExampleEndpoint, app: Any, path: str = "/predict", key: str = "", **request: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key or endpoint.key}", **request.pop("headers", {})}

    async def once() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.post(path, headers=headers, **request)

    return asyncio.run(once())


def counted(endpoint: ExampleEndpoint) -> dict[int, int]:
    return {status: counts.requests for status, counts in endpoint.endpoint.app.answers.items()}


def test_answers_of_every_status_are_counted(endpoint: ExampleEndpoint) -> None:
    before = counted(endpoint)
    for status, request in {
        200: {"json": {"features": VECTOR}},
        400: {"json": {}},
        401: {"json": {}, "key": "mlr_no"},
        404: {"path": "/nowhere"},
        405: {"path": "/ready"},
        413: {"content": b" " * 10_000_001, "headers": {"content-type": "application/json"}},
        415: {"content": b"{}"},
    }.items():
        given: dict[str, Any] = dict(request)
        assert post(endpoint, endpoint.app, **given).status_code == status
        assert counted(endpoint)[status] == before.get(status, 0) + 1


def test_what_a_request_waited_before_it_came_here_is_part_of_its_time(tmp_path: Path) -> None:
    with example_endpoint(tmp_path, deadline_s=0.5) as example:

        async def queued(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(0.3)
            await example.endpoint.app(scope, receive, send)

        assert post(example, Edge(queued), json={"features": VECTOR}).status_code == 200
        counts = example.endpoint.app.answers[200]
        assert (counts.median_s() or 0) >= 0.3
        late = post(example, Edge(example.endpoint.app), json={"features": VECTOR}, headers={WAITED.decode(): "60000"})
        assert late.status_code == 504
        assert "0.5 s" in late.json()["error"]


def test_a_caller_cannot_lengthen_its_time(endpoint: ExampleEndpoint) -> None:
    seen: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(time.perf_counter() - scope[STARTED])
        assert WAITED not in dict(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    for waited in ("-5000", "5e3", "99999999999", "", "x"):
        assert post(endpoint, Edge(app), headers={WAITED.decode(): waited}).status_code == 200
    assert max(seen) < 1


def test_who_hangs_up_before_the_body_is_complete_is_counted_and_no_error(endpoint: ExampleEndpoint) -> None:
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {endpoint.key}".encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers}
    asyncio.run(endpoint.endpoint.app(scope, receive, send))
    assert sent == []
    assert counted(endpoint)[HUNG_UP] == 1


def test_a_flood_of_bad_credentials_leaves_few_lines_and_says_how_many_there_were(
    endpoint: ExampleEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    time.sleep(1.01 - time.monotonic() % 1)  # the beginning of a second
    with caplog.at_level(logging.WARNING, "mlops_ray.serving.http"):
        for _ in range(50):
            assert post(endpoint, endpoint.app, key="mlr_stranger", json={}).status_code == 401
        few = len(caplog.records)
        time.sleep(1)
        post(endpoint, endpoint.app, key="mlr_stranger", json={})
    seconds = 1 + few // (LOG_LINES_PER_S + 1)
    assert few <= LOG_LINES_PER_S * (seconds + 1)
    assert any("were not logged" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("number", ["1" * 5_000, "1e5000", "NaN", "-Infinity"])
def test_a_number_that_is_none_is_refused_wherever_it_stands(endpoint: ExampleEndpoint, number: str) -> None:
    headers = {"content-type": "application/json"}
    for path, text in {
        "/predict": f'{{"keys": {number}, "z": {number}}}',
        "/infer": f'{{"inputs": {number}, "z": {number}}}',
        "/labels": f'{{"labels": [{{"label": {number}}}]}}',
        "/rollout": f'{{"version": {number}}}',
    }.items():
        answer = post(endpoint, endpoint.app, path, content=text, headers=headers)
        assert answer.status_code == 400, (path, answer.text)


def test_a_text_that_no_key_or_category_has_is_refused(endpoint: ExampleEndpoint) -> None:
    long = {**VECTOR, "origin": "x" * 10_001}
    for body in ({"features": long}, {"features": {**long, "distance": "500"}}):
        answer = post(endpoint, endpoint.app, json=body)
        assert (answer.status_code, answer.json()["field"]) == (400, "features.origin")
        assert "the limit is 10,000" in answer.json()["error"]


@pytest.mark.parametrize("what", ["json", "binary", "base64", "name", "id"])
def test_no_tensor_holds_more_text_than_a_key(endpoint: ExampleEndpoint, what: str) -> None:
    """However it is written; and what is said of it is short."""
    inputs: list[dict[str, Any]] = tensors()
    text, tail, more = "x" * 9_000_000, b"", {}
    at = next(number for number, tensor in enumerate(inputs) if tensor["name"] == "carrier")
    expected = f"inputs[{at}].data[0]"
    if what == "binary":
        tail = struct.pack("<I", len(text)) + text.encode()
        inputs[at] |= {"parameters": {"binary_data_size": len(tail)}}
        del inputs[at]["data"]
    elif what == "name":
        inputs[at]["name"], expected = text, f"inputs[{at}].name"
    elif what == "id":
        more, expected = {"id": text}, "id"
    else:
        inputs[at] |= {"data": [text], "parameters": {"content_type": "base64" if what == "base64" else "str"}}
    head = json.dumps({"inputs": inputs, **more}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    answer = post(endpoint, endpoint.app, "/infer", content=head + tail, headers=headers)
    assert (answer.status_code, answer.json()["field"]) == (400, expected)
    assert len(answer.content) < 3_000
    assert what == "name" or "10,000" in answer.json()["error"] or "10000" in answer.json()["error"]


@pytest.mark.parametrize("kind", ["FP32", "INT64", "BOOL"])
def test_a_refusal_quotes_no_more_than_somebody_reads(endpoint: ExampleEndpoint, kind: str) -> None:
    wrong = {"name": "distance", "shape": [1], "datatype": kind, "data": ["x" * 9_000_000]}
    inputs = [wrong if tensor["name"] == "distance" else tensor for tensor in tensors()]
    for path, body in (("/infer", {"inputs": inputs}), ("/predict", {"features": {"x" * 9_000_000: 1}})):
        answer = post(endpoint, endpoint.app, path, json=body)
        assert answer.status_code == 400
        assert len(answer.content) < 6_000


@pytest.mark.parametrize(("digits", "status"), [("0" * 5_000, 404), ("9" * 5_000, 413)])
def test_a_length_of_more_digits_than_python_reads_is_no_failure_of_ours(
    endpoint: ExampleEndpoint, digits: str, status: int
) -> None:
    headers = {"content-length": digits, "content-type": "application/json"}
    answer = post(endpoint, endpoint.app, "/versions/99/infer", content=b"{}", headers=headers)
    assert answer.status_code == status


def test_a_reason_that_no_log_should_keep_is_refused(endpoint: ExampleEndpoint) -> None:
    answer = post(endpoint, endpoint.app, "/rollout/rollback", json={"to": 1, "revision": 0, "reason": "x" * 2_001})
    assert answer.status_code == 400
    assert "length <= 2000 - at `$.reason`" in answer.json()["error"]
    answer = post(endpoint, endpoint.app, "/rollout/rollback", json={"reason": "x" * 100_000})
    assert (answer.status_code, answer.json()["field"]) == (413, "body")
    assert "the limit is 64,000" in answer.json()["error"]


def test_who_changes_what_is_live_waits_for_no_slot(tmp_path: Path) -> None:
    with example_endpoint(tmp_path) as example:
        example.endpoint.app._slots = Slots(1, 0)
        asyncio.run(example.endpoint.app._slots.take("somebody"))
        assert post(example, example.app, json={"features": VECTOR}).status_code == 429
        assert post(example, example.app, "/rollout/rollback", json={"to": 6, "revision": 1}).status_code == 409


class EveryOne:
    """Lets all in, as one caller."""

    def admit(self, headers: Any, role: Role | None) -> Principal:
        return Principal("id", "everyone", (), ())


def asked(routes: Routes, path: str, receive: Any = None, method: str = "GET", headers: Any = ()) -> Any:
    """A request, and its answer once it is there: head and body."""
    sent: list[Any] = []

    async def nothing() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async def answer() -> list[Any]:
        scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
        await routes(scope, receive or nothing, send)
        return sent

    return answer()


def test_one_callers_bodies_that_never_come_keep_nobody_else_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops_ray.serving.http.MAX_AT_WORK", 16)

    class ByName:
        def admit(self, headers: Any, role: Role | None) -> Principal:
            return Principal(headers[b"authorization"].decode(), "", (), ())

    async def never() -> Any:
        await asyncio.Event().wait()

    async def reads(request: Request) -> Response:
        return Response({"read": len(await request.body())})

    async def work() -> None:
        posted = {"/predict": {"POST": Route(reads, "predict")}, "/rollout": {"POST": Route(reads, "operate")}}
        routes = Routes(posted, ByName(), 0.5)

        async def status(caller: bytes, path: str, receive: Any = None) -> int:
            head, _ = await asked(routes, path, receive, "POST", [(b"authorization", caller)])
            return int(head["status"])

        slow = [asyncio.create_task(status(b"slow", "/predict", never)) for _ in range(40)]
        await asyncio.sleep(0.05)
        assert routes.at_work == 14  # of 16 all but an eighth
        assert await status(b"other", "/predict") == 200
        assert await status(b"slow", "/predict") == 429
        assert await status(b"slow", "/rollout") == 200
        assert sorted([await one for one in slow]) == [408] * 14 + [429] * 26
        assert await status(b"slow", "/predict") == 200

    asyncio.run(work())


def test_what_is_at_work_is_known() -> None:
    async def work() -> None:
        free = asyncio.Event()

        async def held(request: Request) -> Response:
            await free.wait()
            return Response({})

        async def late(request: Request) -> Response:
            await asyncio.sleep(60)
            return Response({})

        async def gone() -> Any:
            return {"type": "http.disconnect"}

        async def reads(request: Request) -> Response:
            return Response(await request.body())

        handlers = {"/held": held, "/late": late, "/reads": reads}
        routes = Routes({path: {"GET": Route(one, None)} for path, one in handlers.items()}, EveryOne(), 0.2)
        waiting = [asyncio.create_task(asked(routes, path)) for path in ("/held", "/held", "/late")]
        await asyncio.sleep(0.05)
        assert routes.at_work == 3
        free.set()
        statuses = [(await one)[0]["status"] for one in waiting]
        assert statuses == [200, 200, 504]
        assert await asked(routes, "/reads", gone) == []
        assert routes.at_work == 0

    asyncio.run(work())


def test_an_answer_that_is_no_json_is_a_500_that_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(request: Request) -> Response:
        return Response({"x": object()})

    routes = Routes({"/broken": {"GET": Route(broken, None)}}, EveryOne())
    head, body = asyncio.run(asked(routes, "/broken"))
    assert (head["status"], {status: counts.requests for status, counts in routes.answers.items()}) == (500, {500: 1})
    assert json.loads(body["body"])["request_id"] == dict(head["headers"])[b"x-request-id"].decode()
    assert "failed" in caplog.text


def test_serve_starts_replicas_by_what_a_replica_says_that_it_has_at_work() -> None:
    """Serve's own count, which `Edge` passes by, is 0; what is recorded by Serve's own method is ours."""
    replica: Any = SimpleNamespace(_endpoint=SimpleNamespace(app=SimpleNamespace(at_work=17)))
    says: Any = EndpointReplica.func_or_class.record_autoscaling_stats
    manager: Any = SimpleNamespace(
        should_collect_ongoing_requests=lambda: True, _num_ongoing_requests=0, _custom_metrics_enabled=True,
        _fetch_custom_autoscaling_metrics=lambda: says(replica), _metrics_store=InMemoryMetricsStore(),
    )  # fmt: skip
    asyncio.run(ReplicaMetricsManager._add_autoscaling_metrics_point_async(manager))
    (found,) = manager._metrics_store.data.values()
    assert [point.value for point in found] == [17]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ('application/json; x=y; charset="UTF-8"', 200),
        ("application/json; charset=utf8; x=y", 200),
        ("application/json ; charset = utf-16", 415),
        ("application/json; charset=utf-8; charset=latin-1", 415),
        ("text/json", 415),
    ],
)
def test_a_content_type_is_read_parameter_by_parameter(endpoint: ExampleEndpoint, kind: str, status: int) -> None:
    content = json.dumps({"features": VECTOR}).encode()
    assert post(endpoint, endpoint.app, content=content, headers={"content-type": kind}).status_code == status


def test_a_panic_of_polars_is_an_answer_and_counted() -> None:
    async def panics(request: Request) -> Response:
        raise PanicException("out of range")

    routes = Routes({"/panics": {"GET": Route(panics, None)}}, EveryOne())
    head, _ = asyncio.run(asked(routes, "/panics"))
    assert head["status"] == 500
    assert routes.answers[500].requests == 1
