"""The model in a deployment of its own answers as the one in the replica does; over IPv6, where the machine has it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlops_ray.client import Client
from mlops_ray.config import Settings
from mlops_ray.testing.example_model import example_answer
from tests.integration.serve_example import NAME
from tests.pipeline_run import kill_group


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


PORT = 18_010
HOST = "::1" if has_ipv6() else "127.0.0.1"
URL = Settings(state="/s", data="/d", http_host=HOST, http_port=PORT).url
VECTOR = {"origin": "JFK", "distance": 500.0, "carrier": "AA", "hour": 8.0, "recent_delay": 30.0}
KEY = {"carrier": "AA", "origin": "JFK", "departure": "2013-10-01T12:00:00Z", "distance": 500.0}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    state = tmp_path_factory.mktemp("state")
    script = Path(__file__).parent / "serve_example.py"
    driver = subprocess.Popen(
        [sys.executable, str(script), str(PORT), str(state)],
        env={**os.environ, "EXAMPLE_MODEL_APART": "1", "EXAMPLE_HOST": HOST},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline().strip() == URL
        with Client(URL, api_key=(state / "admin_key").read_text()) as client:
            yield client
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.wait(40) == 0
    finally:
        if driver.poll() is None:
            kill_group(driver)


def test_it_answers_by_features_and_by_keys(client: Client) -> None:
    assert client.predict(NAME, features=VECTOR).predictions[0].probability == pytest.approx(
        example_answer(VECTOR), abs=1e-6
    )
    assert 0 < client.predict(NAME, keys=KEY).predictions[0].probability < 1


def test_it_answers_many_at_a_time(client: Client) -> None:
    vectors = [{**VECTOR, "distance": float(number)} for number in range(200)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda vector: client.predict(NAME, features=vector), vectors))
    given = [answer.predictions[0].probability for answer in answers]
    assert given == pytest.approx([example_answer(vector) for vector in vectors], abs=1e-6)
