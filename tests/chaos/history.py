"""What happened, as it happened: a line of JSON for each request, answer, fault and notice, for a checker that was not
there (`check_history.py`)."""

import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import uuid6

from tests.chaos.hosts import OUTSIDE

VECTOR = {"origin": "JFK", "distance": 500.0, "carrier": "AA", "hour": 8.0, "recent_delay": 30.0}
TIMEOUT_S = 12


class History:
    """Lines of a file, in the order in which they were written; each with `at`, in seconds of this process's clock,
    and `what`. Safe for threads."""

    def __init__(self, file: Path):
        self.file, self._lock = file, threading.Lock()
        self._stream = file.open("a")

    def write(self, what: str, **said: Any) -> None:
        with self._lock:
            self._stream.write(json.dumps({"at": time.time(), "what": what, **said}) + "\n")
            self._stream.flush()

    def close(self) -> None:
        self._stream.close()


class Callers:
    """Requests at a rate, in turn to each of some front ends; each id is asked for once. What is answered is written
    after it arrived, what is asked for before it leaves."""

    def __init__(self, history: History, urls: Sequence[str], key: str, per_s: float):
        self._history, self._urls, self._per_s = history, urls, per_s
        self._client = httpx.Client(
            headers={"authorization": f"Bearer {key}"}, timeout=TIMEOUT_S, trust_env=False,
            limits=httpx.Limits(max_connections=400, max_keepalive_connections=20),
        )  # fmt: skip
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._ask_at_a_rate, name="callers")

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ending.set()
        self._thread.join()
        self._client.close()

    def _ask_at_a_rate(self) -> None:
        """Open: who is not answered holds up nobody, as long as fewer than 400 wait."""
        due_s, number = time.monotonic(), 0
        with ThreadPoolExecutor(400) as pool:
            while not self._ending.is_set():
                pool.submit(self._ask, self._urls[number % len(self._urls)])
                number, due_s = number + 1, due_s + 1 / self._per_s
                time.sleep(max(0.0, due_s - time.monotonic()))

    def _ask(self, url: str) -> None:
        id = str(uuid6.uuid7())
        self._history.write("asked", id=id, url=url)
        try:
            vector = VECTOR | {"distance": random.uniform(100, 2000)}
            answer = self._client.post(f"{url}/predict", json={"features": vector}, headers={"x-request-id": id})
            said = {"version": answer.json()["version"]} if answer.status_code == 200 else {}
            self._history.write("answered", id=id, status=answer.status_code, **said)
        except httpx.TransportError as error:
            self._history.write("unanswered", id=id, error=type(error).__name__)


@contextmanager
def calling(history: History, urls: Sequence[str], key: str, per_s: float) -> Iterator[None]:
    callers = Callers(history, urls, key, per_s)
    callers.start()
    try:
        yield
    finally:
        callers.end()


@contextmanager
def receiver(history: History) -> Iterator[str]:
    """A webhook that writes down which events it was brought; its URL."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            history.write("delivered", event=body["data"]["id"], type=body["data"]["type"])
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer((OUTSIDE, 0), Receiver)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{OUTSIDE}:{server.server_address[1]}/hook"
    finally:
        server.shutdown()
        server.server_close()
