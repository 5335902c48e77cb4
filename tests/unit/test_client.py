"""The client retries only what is safe, with the same request id, and says what went wrong."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import numpy as np
import pytest

from mlops_ray.client import Client
from mlops_ray.errors import DataError, MlopsRayError, UnavailableError

ANSWER = {
    "model": "flights",
    "version": "3",
    "request_id": "0190f5a0-7d5e-7c3a-8000-0123456789ab",
    "as_of": "2013-10-01T10:00:00Z",
    "predictions": [{"probability": 0.25, "prediction": False}],
}
REFUSAL = {"error": "keys.origin: unknown.", "field": "keys.origin"}


class Scripted(HTTPServer):
    """Answers the statuses it was given, one a request, then 200; keeps what it was asked."""

    def __init__(self, statuses: list[int]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses, self.asked, self.ids = statuses, [], []  # type: ignore[var-annotated]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Scripted
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.server.ids.append(self.headers["x-request-id"])
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status == 0:
            self.close_connection = True
            return
        body = json.dumps(ANSWER if status == 200 else REFUSAL).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after", "0")
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


@pytest.mark.parametrize("server", [[], [503], [429, 503], [0]], indirect=True)
def test_passing_trouble_is_retried_with_the_same_request_id(server: Scripted) -> None:
    tries = 1 + len(server.statuses)
    with Client(server.url) as client:
        answer = client.predict("flights", keys={"origin": "JFK"})
    assert answer.predictions[0].probability == 0.25
    assert answer.as_of == datetime(2013, 10, 1, 10, tzinfo=UTC)
    assert len(server.ids) == tries
    assert len(set(server.ids)) == 1


@pytest.mark.parametrize("server", [[503] * 9], indirect=True)
def test_lasting_trouble_is_reported_after_all_attempts(server: Scripted) -> None:
    with Client(server.url, attempts=3) as client, pytest.raises(UnavailableError, match=r"3 attempts.*unknown"):
        client.predict("flights", keys={})
    assert len(server.ids) == 3


@pytest.mark.parametrize(
    ("server", "error"),
    [([400], DataError), ([413], DataError), ([404], MlopsRayError), ([500], UnavailableError)],
    indirect=["server"],
)
def test_an_answer_that_is_final_is_not_asked_for_again(server: Scripted, error: type[Exception]) -> None:
    with Client(server.url) as client, pytest.raises(error, match=r"keys\.origin: unknown"):
        client.predict("flights", keys={})
    assert len(server.ids) == 1


def test_values_travel_as_json_has_them(server: Scripted) -> None:
    row = {"at": datetime(2013, 1, 1, tzinfo=timezone(timedelta(hours=-5))), "x": np.float32(0.5), "y": float("nan")}
    with Client(server.url) as client:
        client.predict("flights", features=[row], as_of=datetime(2013, 1, 2, tzinfo=UTC))
    assert server.asked == [
        {"features": [{"at": "2013-01-01T00:00:00-05:00", "x": 0.5, "y": None}], "as_of": "2013-01-02T00:00:00+00:00"}
    ]
