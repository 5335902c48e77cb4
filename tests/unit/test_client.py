"""The client retries only what is safe, with the same request id, and says what went wrong."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_ray.client import Answer, AsyncClient, Client, Prediction
from mlops_ray.client.predictions import answer_of
from mlops_ray.client.values import plain
from mlops_ray.errors import ConfigurationError, DataError, ForbiddenError, MlopsRayError, UnavailableError

ANSWER = {
    "model": "flights",
    "version": "3",
    "request_id": "0190f5a0-7d5e-7c3a-8000-0123456789ab",
    "as_of": "2013-10-01T10:00:00Z",
    "predictions": [{"probability": 0.25, "prediction": False}],
}
REFUSAL = {"error": "keys.origin: unknown.", "field": "keys.origin"}


class Scripted(ThreadingHTTPServer):
    """Answers the statuses it was given, one a request, then 200 with one prediction for each row.

    0 hangs up; below 0 it is a front end that answers, in plain text; -200 claims to be compressed.
    """

    allow_reuse_address = True

    def __init__(self, statuses: list[int], port: int = 0):
        super().__init__(("127.0.0.1", port), Handler)
        self.statuses, self.retry_after = statuses, "0"
        self.asked: list[Any] = []
        self.ids: list[str] = []
        self.keys: list[str | None] = []
        self.lock, self.busy, self.most_busy, self.answer_takes_s = Lock(), 0, 0, 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Scripted
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server, asked = self.server, json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            server.asked.append(asked)
            server.ids.append(self.headers["x-request-id"])
            server.keys.append(self.headers["authorization"])
            status = server.statuses.pop(0) if server.statuses else 200
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
        time.sleep(server.answer_takes_s)
        with server.lock:
            server.busy -= 1
        if status == 0:
            self.close_connection = True
            return
        rows = asked.get("features")
        predictions = [{"probability": row["x"], "prediction": False} for row in rows] if isinstance(rows, list) else []
        answer = ANSWER | {"predictions": predictions or ANSWER["predictions"]}
        body = json.dumps(answer if status == 200 else REFUSAL).encode()
        if status < 0:
            body = b"Path '/v2/models/flights/predict' not found. Ping http://.../-/routes for available routes."
        self.send_response(abs(status))
        if status == -200:
            self.send_header("content-encoding", "gzip")
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after", server.retry_after)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Scripted]:
    with Scripted(list(getattr(request, "param", []))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


Ask = Callable[..., Any]


def ask_sync(url: str, method: str = "predict", limits: dict[str, Any] | None = None, **rows: Any) -> Any:
    with Client(url, **(limits or {})) as client:
        return getattr(client, method)("flights", **rows)


def ask_async(url: str, method: str = "predict", limits: dict[str, Any] | None = None, **rows: Any) -> Any:
    async def ask() -> Any:
        async with AsyncClient(url, **(limits or {})) as client:
            return await getattr(client, method)("flights", **rows)

    return asyncio.run(ask())


@pytest.fixture(params=[ask_sync, ask_async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ask:
    monkeypatch.delenv("MLOPS_RAY_API_KEY", raising=False)
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("server", [[], [503], [429, 500], [0], [502, 504]], indirect=True)
def test_passing_trouble_is_retried_with_the_same_request_id(server: Scripted, ask: Ask) -> None:
    tries = 1 + len(server.statuses)
    answer: Answer = ask(server.url, keys={"origin": "JFK"})
    assert answer.predictions[0].probability == 0.25
    assert answer.as_of == datetime(2013, 10, 1, 10, tzinfo=UTC)
    assert len(server.ids) == tries
    assert len(set(server.ids)) == 1


@pytest.mark.parametrize("server", [[503] * 9], indirect=True)
def test_lasting_trouble_is_reported_after_all_attempts(server: Scripted, ask: Ask) -> None:
    with pytest.raises(UnavailableError, match=r"3 attempts.*unknown"):
        ask(server.url, limits={"attempts": 3}, keys={})
    assert len(server.ids) == 3


def test_nobody_there_is_reported_after_all_attempts(ask: Ask) -> None:
    with pytest.raises(UnavailableError, match=r"2 attempts.*Is the server running"):
        ask("http://127.0.0.1:9", limits={"attempts": 2}, keys={})


@pytest.mark.parametrize(
    ("server", "error"),
    [([400], DataError), ([413], DataError), ([404], MlopsRayError), ([403], ForbiddenError), ([501], MlopsRayError)],
    indirect=["server"],
)
def test_an_answer_that_is_final_is_not_asked_for_again(server: Scripted, error: type[Exception], ask: Ask) -> None:
    with pytest.raises(error, match=r"keys\.origin: unknown"):
        ask(server.url, keys={})
    assert len(server.ids) == 1


@pytest.mark.parametrize("server", [[429] * 9], indirect=True)
def test_the_wait_a_server_asks_for_is_kept_or_not_begun(server: Scripted, ask: Ask) -> None:
    server.retry_after = "0.4"
    started = time.monotonic()
    with pytest.raises(UnavailableError, match=r"[2-5] attempts within 1\.8 s"):
        ask(server.url, limits={"deadline_s": 1.8}, keys={})
    assert 0.4 <= time.monotonic() - started < 5
    server.retry_after = "Fri, 01 Jan 2100 00:00:00 GMT"
    with pytest.raises(UnavailableError, match="1 attempts"):
        ask(server.url, keys={})


def test_the_deadline_ends_an_attempt_that_hangs(server: Scripted, ask: Ask) -> None:
    server.answer_takes_s = 4.0
    started = time.monotonic()
    with pytest.raises(UnavailableError, match="Timeout"):
        ask(server.url, limits={"deadline_s": 0.3}, keys={})
    assert time.monotonic() - started < 3


class Trickle(threading.Thread):
    """Answers with a byte each 50 ms, for ever: of its head, its body, or what it reads."""

    def __init__(self, what: str):
        super().__init__(daemon=True)
        self.what, self.accepted = what, 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                if self.what == "body":
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
                if self.what == "head":
                    connection.sendall(b"HTTP/1.1 200 OK\r\nx-long: ")
                while True:
                    time.sleep(0.05)
                    connection.recv(1) if self.what == "reads" else connection.sendall(b"x")
            except OSError:
                return

    def close(self) -> None:
        self._listening.close()


@pytest.mark.parametrize("what", ["head", "body", "reads"])
def test_a_deadline_is_a_deadline_however_slowly_a_server_goes_on(what: str, ask: Ask) -> None:
    rows = [{"x": "y" * 8_000_000 if what == "reads" else ""}]  # more than any buffer
    with closing(Trickle(what)) as server:
        started = time.monotonic()
        with pytest.raises(UnavailableError, match=r"1 attempts within 1 s .*Timeout"):
            ask(server.url, limits={"deadline_s": 1}, features=rows)
        assert 0.9 < time.monotonic() - started < 5
        with pytest.raises(UnavailableError, match="2 attempts"):
            ask(server.url, limits={"timeout_s": 0.5, "attempts": 2}, features=rows)
        assert server.accepted == 3


def test_an_answer_that_comes_slowly_but_in_time_is_an_answer(server: Scripted, ask: Ask) -> None:
    server.answer_takes_s = 0.4
    assert ask(server.url, limits={"timeout_s": 2.0}, keys={}).version == "3"


@pytest.mark.parametrize("server", [[-404, -404, -502, 408, 503]], indirect=True)
def test_a_front_end_that_has_just_come_back_is_asked_again(server: Scripted, ask: Ask) -> None:
    """It knows no routes yet, and says so in words that are not the server's."""
    assert ask(server.url, keys={}).version == "3"
    assert len(server.ids) == 6
    assert len(set(server.ids)) == 1


def test_a_server_that_was_away_for_seconds_is_found_again_within_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    back = threading.Timer(6.0, lambda: started.append(Scripted([-404], port)) or started[0].serve_forever(0.01))
    started: list[Scripted] = []
    back.start()
    try:
        assert ask_sync(f"http://127.0.0.1:{port}", keys={}).version == "3"
    finally:
        back.join(0.1)
        started[0].shutdown()
        started[0].server_close()


@pytest.mark.parametrize("server", [[-200]], indirect=True)
def test_an_answer_that_cannot_be_decoded_is_asked_for_again(server: Scripted, ask: Ask) -> None:
    assert ask(server.url, keys={}).version == "3"
    assert len(server.ids) == 2


def test_the_key_goes_along_and_the_environment_has_the_default(
    server: Scripted, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(server.url, keys={})
    monkeypatch.setenv("MLOPS_RAY_API_KEY", "from-environment")
    ask(server.url, keys={})
    ask(server.url, limits={"api_key": "given"}, keys={})
    assert server.keys == [None, "Bearer from-environment", "Bearer given"]


@pytest.mark.parametrize("server", [[401, 401, 403]], indirect=True)
def test_a_refused_key_says_what_to_do(server: Scripted, ask: Ask) -> None:
    with pytest.raises(ForbiddenError, match="set MLOPS_RAY_API_KEY"):
        ask(server.url, keys={})
    with pytest.raises(ForbiddenError, match="wrong, expired or revoked"):
        ask(server.url, limits={"api_key": "old"}, keys={})
    with pytest.raises(ForbiddenError, match="its role or use cases"):
        ask(server.url, limits={"api_key": "other"}, keys={})


def test_what_is_no_url_is_not_tried_twice(ask: Ask) -> None:
    with pytest.raises(ConfigurationError, match="cannot be asked"):
        ask("ftp://127.0.0.1", keys={})


@pytest.mark.parametrize("server", [[503, 200, 500]], indirect=True)
def test_many_rows_keep_their_order_and_only_some_requests_are_open(server: Scripted, ask: Ask) -> None:
    server.answer_takes_s = 0.02
    rows = [{"x": float(number)} for number in range(95)]
    answers = ask(server.url, "predict_many", features=rows, batch_size=10, concurrency=3)
    assert [row.probability for answer in answers for row in answer.predictions] == [row["x"] for row in rows]
    assert len(answers) == 10
    assert server.most_busy == 3
    assert ask(server.url, "predict_many", features=[]) == []


@pytest.mark.parametrize("server", [[200, 400, 400]], indirect=True)
def test_a_batch_that_fails_ends_the_rest(server: Scripted, ask: Ask) -> None:
    server.answer_takes_s = 0.02
    with pytest.raises(DataError):
        ask(server.url, "predict_many", features=[{"x": 0.5}] * 40, batch_size=1, concurrency=2)
    assert len(server.ids) < 10
    with pytest.raises(DataError, match="either keys or features"):
        ask(server.url, "predict_many")


def test_values_travel_as_json_has_them(server: Scripted) -> None:
    row = {"at": datetime(2013, 1, 1, tzinfo=timezone(timedelta(hours=-5))), "x": np.float32(0.5), "y": float("nan")}
    row |= {"never": np.datetime64("NaT"), "neither": pd.NaT, "several": np.array([1, 2])}
    with Client(server.url) as client:
        client.predict("flights", features=[row], as_of=datetime(2013, 1, 2, tzinfo=UTC))
    assert server.asked == [
        {
            "features": [
                {
                    "at": "2013-01-01T00:00:00-05:00", "x": 0.5, "y": None, "never": None, "neither": None,
                    "several": [1, 2],
                }
            ],
            "as_of": "2013-01-02T00:00:00+00:00",
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.datetime64("2013-10-01T12:00:00.000000000"), "has no time zone"),
        (np.datetime64("2013-10-01T12:00"), "has no time zone"),
        (datetime(2013, 10, 1), "has no time zone"),
        (b"ab", "Decode them to text"),
    ],
)
def test_a_value_that_json_does_not_have_is_refused_before_it_is_sent(value: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        plain([{"at": value}])


def test_an_answer_says_what_was_missing_expired_late_or_down() -> None:
    plain = {"probability": 0.25, "prediction": False}
    marked = {**plain, "missing_features": ["temp"], "expired_features": ["wind", "rain"], "late": True}
    answer = answer_of({**ANSWER, "predictions": [plain, marked], "degraded": True})
    assert answer.degraded is True
    assert answer.predictions == (Prediction(0.25, False), Prediction(0.25, False, ("temp",), ("wind", "rain"), True))
    assert answer_of(ANSWER).degraded is False
