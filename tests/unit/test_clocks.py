"""By how much another machine's clock is off: never more than it surely is, whoever took long to answer."""

from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from time import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.config import load_settings
from mlops_ray.operations import clocks
from mlops_ray.operations.clocks import of_server
from mlops_ray.operations.doctor import examine


@given(st.floats(-1e4, 1e4), st.floats(0, 100), st.floats(0, 100), st.booleans())
def test_what_is_said_is_the_least_that_is_possible(off: float, there: float, back: float, whole: bool) -> None:
    """A question takes `there` seconds and its answer `back`."""
    now, clock = 1e9, {"time": 1e9}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(clocks.time, "time", lambda: clock["time"])

        def asked() -> float:
            clock["time"] = now + there + back
            theirs = now + there + off
            return float(int(theirs)) if whole else theirs

        found = clocks._compared("it", asked, whole_seconds=1.0 if whole else 0.0).ahead_s
    assert abs(found) <= abs(off) + 1e-6
    assert found * off >= 0
    assert abs(found) >= abs(off) - there - back - (2.0 if whole else 0.0) - 1e-6


@pytest.mark.parametrize(("off", "state"), [(0, "ok"), (30, "warning"), (-30, "warning"), (7200, "error")])
def test_the_clock_of_a_server_is_seen_in_its_answer(off: int, state: str, tmp_path: Any) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(405)
            self.send_header("Date", formatdate(time() + off, usegmt=True))
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        settings = load_settings(state=f"{tmp_path}/state", data=str(tmp_path), mlflow_uri=url)
        found = {one.name: one for one in examine(settings, tmp_path, {})}["clocks"]
        server.shutdown()
    assert found.state == state, found
    if off:
        way = "ahead" if off > 0 else "behind"
        assert f"mlflow_uri is {abs(off)} s {way}" in found.sentence.replace(f"{abs(off) - 1} s", f"{abs(off)} s")


def test_a_server_that_is_away_or_says_no_time_has_no_clock() -> None:
    assert of_server("http://127.0.0.1:9", "it") is None


def test_who_asks_nobody_else_has_no_clocks_to_compare(tmp_path: Any) -> None:
    settings = load_settings(state=f"{tmp_path}/state", data=str(tmp_path))
    assert "clocks" not in {one.name for one in examine(settings, tmp_path, {})}
