"""Clients that nobody here wrote, with their defaults: NVIDIA's `tritonclient`, and the codecs of MLServer."""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp, Receive, Scope, Send
from tritonclient.utils import InferenceServerException

from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.keys import active_keys, create_key
from mlops_ray.governance.live import Plan, Step
from mlops_ray.governance.rollouts import advance, start_rollout
from mlops_ray.predictions.reader import Ledger
from mlops_ray.serving.auth import Guard
from mlops_ray.serving.http import Routes
from mlops_ray.serving.repository import Repository
from mlops_ray.testing.example_endpoint import ExampleEndpoint, example_endpoint
from mlops_ray.testing.example_model import FEATURES, example_answer
from tests.unit.test_endpoint import VECTOR, infer, predict, send, tensors
from tests.unit.test_shadow import Broken, shadow_of

RECORDED = json.loads((Path(__file__).parents[1] / "mlserver_requests" / "requests.json").read_text())
MINE = "0190f5a0-7d5e-7c3a-8000-0123456789ab"


@contextmanager
def on_a_port(app: ASGIApp) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.001)
    yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def running(models: Mapping[str, bool]) -> Callable[[], Awaitable[Mapping[str, bool]]]:
    async def known() -> Mapping[str, bool]:
        return models

    return known


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleEndpoint]:
    """Version 7 is champion, version 8 its candidate, of which callers get nothing."""
    with example_endpoint(tmp_path_factory.mktemp("state"), versions=2) as example:
        let_in(example)
        yield example


def let_in(example: ExampleEndpoint) -> None:
    """Version 8, of which no request is asked."""
    plan = Plan((Step("shadow", 1e-9, 3600),))
    state = start_rollout(example.store, SYSTEM, "departures", example.sealed[8], plan)
    assert state.rollout
    advance(example.store, SYSTEM, "departures", state.rollout, "loaded")
    example.follower.follow_once()


@pytest.fixture(scope="module")
def server(endpoint: ExampleEndpoint) -> Iterator[str]:
    repository = Repository(endpoint.store, running({"departures": True, "arrivals": False}))
    routes = Routes(repository.routes(), Guard(None, active_keys(endpoint.store)), not_found=repository.not_found)

    async def by_prefix(scope: Scope, receive: Receive, send: Send) -> None:
        """As Serve does it."""
        prefix, app = ("/v2/models/departures", endpoint.app) if "departures" in scope["path"] else ("/v2", routes)
        await app({**scope, "root_path": prefix}, receive, send)

    with on_a_port(by_prefix) as address:
        yield address


def credential(endpoint: ExampleEndpoint) -> dict[str, str]:
    return {"authorization": f"Bearer {endpoint.key}"}


def inputs_of(vectors: list[Mapping[str, Any]], binary: bool = True) -> list[triton.InferInput]:
    found = []
    for feature in FEATURES:
        values = [vector[feature.name] for vector in vectors]
        number = feature.kind == "number"
        array = np.array(values, np.float32 if number else np.object_)
        one = triton.InferInput(feature.name, list(array.shape), "FP32" if number else "BYTES")
        found.append(one.set_data_from_numpy(array, binary_data=binary))
    return found


@pytest.mark.parametrize("binary", [True, False])
def test_triton_s_client_is_answered_with_its_defaults(endpoint: ExampleEndpoint, server: str, binary: bool) -> None:
    vectors = [VECTOR, {**VECTOR, "carrier": "ZZ", "distance": 100.0}]
    expected = [example_answer(vector) for vector in vectors]
    with triton.InferenceServerClient(server) as client:
        inputs = inputs_of(vectors, binary)
        found = client.infer("departures", inputs, headers=credential(endpoint))
        assert found.as_numpy("probability").tolist() == pytest.approx(expected, abs=1e-6)
        assert found.as_numpy("prediction").tolist() == [value >= 0.5 for value in expected]
        outputs = [triton.InferRequestedOutput("probability", binary_data=binary)]
        found = client.infer("departures", inputs, outputs=outputs, headers=credential(endpoint), request_id="mine")
        assert found.as_numpy("probability").tolist() == pytest.approx(expected, abs=1e-6)
        assert found.get_response()["id"] == "mine"
        assert found.as_numpy("prediction") is None


def test_triton_s_client_learns_what_there_is(endpoint: ExampleEndpoint, server: str) -> None:
    key = credential(endpoint)
    with triton.InferenceServerClient(server) as client:
        assert client.is_model_ready("departures", headers=key)
        assert client.is_model_ready("departures", "7", headers=key)
        assert not client.is_model_ready("departures", "6", headers=key)
        described = client.get_model_metadata("departures", "7", headers=key)
        assert described == client.get_model_metadata("departures", headers=key)
        configured = client.get_model_config("departures", headers=key)
        assert [one["name"] for one in configured["input"]] == [one["name"] for one in described["inputs"]]
        assert [one["data_type"] for one in configured["output"]] == ["TYPE_FP32", "TYPE_BOOL"]
        assert configured["input"][0] == {"name": "origin", "data_type": "TYPE_STRING", "dims": [-1]}
        client.infer("departures", inputs_of([VECTOR]), "7", headers=key)
        (stats,) = client.get_inference_statistics("departures", "7", headers=key)["model_stats"]
        assert stats["inference_stats"]["success"]["count"] >= 1
        assert stats["inference_stats"]["success"]["ns"] > 0
        champion, candidate = client.get_model_repository_index(headers=key)
        assert champion == {"name": "departures", "version": "7", "state": "READY", "reason": ""}
        assert candidate == {"name": "departures", "version": "8", "state": "READY", "reason": "in a rollout"}
        with pytest.raises(InferenceServerException, match="takes no requests here"):
            client.infer("departures", inputs_of([VECTOR]), "3", headers=key)


def test_a_wrong_tensor_is_an_error_that_triton_s_client_can_read(endpoint: ExampleEndpoint, server: str) -> None:
    with triton.InferenceServerClient(server) as client, pytest.raises(InferenceServerException) as refused:
        client.infer("departures", inputs_of([{**VECTOR, "origin": "XXX"}]), headers=credential(endpoint))
    assert refused.value.status() == "400"
    assert "not one of the known values" in refused.value.message()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=12) | st.text(max_size=6).map(str.encode), min_size=1, max_size=4))
def test_any_bytes_in_a_tensor_are_read_as_the_same_text_or_named(
    endpoint: ExampleEndpoint, server: str, carriers: list[bytes]
) -> None:
    inputs = inputs_of([{**VECTOR, "carrier": carrier} for carrier in carriers])
    with triton.InferenceServerClient(server) as client:
        try:
            found = client.infer("departures", inputs, headers=credential(endpoint)).as_numpy("probability").tolist()
        except InferenceServerException as refusal:
            refused = refusal.status(), "inputs[2]" in refusal.message()
            assert refused == ("400", True)
            return
    texts = [carrier.decode() for carrier in carriers]
    by_json = infer(endpoint, {"inputs": tensors_of(texts)})
    assert by_json.json()["outputs"][0]["data"] == pytest.approx(found, abs=1e-6)


def tensors_of(carriers: list[str]) -> list[dict[str, Any]]:
    rows = len(carriers)
    changed = {name: {"data": [value] * rows, "shape": [rows]} for name, value in VECTOR.items()}
    return tensors(**{**changed, "carrier": {"data": carriers, "shape": [rows]}})


@pytest.mark.parametrize("name", RECORDED)
def test_what_mlserver_s_codecs_write_is_taken_and_read(endpoint: ExampleEndpoint, name: str) -> None:
    rows = [VECTOR, {"origin": "LGA", "distance": None, "carrier": "ZZ", "hour": 9.0, "recent_delay": 1.5}]
    response = infer(endpoint, RECORDED[name])
    assert response.status_code == 200, response.text
    probability = response.json()["outputs"][0]
    assert probability["data"] == pytest.approx([example_answer(row) for row in rows], abs=1e-6)
    assert response.json()["id"] == RECORDED[name].get("id", response.json()["id"])


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"data": ["QUE"], "parameters": {"content_type": "base64"}}, "inputs[2].data[0]"),
        ({"data": ["/w=="], "parameters": {"content_type": "base64"}}, "inputs[2].data[0]"),
        ({"data": ["A A"], "parameters": {"content_type": "base64"}}, "inputs[2].data[0]"),
        ({"data": ["AA"], "parameters": {"content_type": "pd_json"}}, "inputs[2].data[0]"),
        ({"data": ["[1]"], "parameters": {"content_type": "pd_json"}}, "inputs[2].data[0]"),
        ({"data": ["5"], "parameters": {"content_type": "pd_json"}}, "inputs[2].data[0]"),
        ({"data": ["[" * 100_000], "parameters": {"content_type": "pd_json"}}, "inputs[2].data[0]"),
    ],
)
def test_what_is_not_in_the_coding_that_it_claims_is_refused_by_name(
    endpoint: ExampleEndpoint, change: dict[str, Any], where: str
) -> None:
    refused = infer(endpoint, {"inputs": tensors(carrier=change)})
    assert (refused.status_code, refused.json()["field"]) == (400, where), refused.text


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=5), st.sampled_from(["base64", "pd_json", "str", "np", "pd", "x"]))
def test_no_text_in_any_coding_brings_the_endpoint_down(endpoint: ExampleEndpoint, text: str, coding: str) -> None:
    changed = {"data": [text], "parameters": {"content_type": coding}}
    response = infer(endpoint, {"inputs": tensors(carrier=changed)})
    assert response.status_code in (200, 400)
    if response.status_code == 200 and coding not in ("base64", "pd_json"):
        (probability,) = response.json()["outputs"][0]["data"]
        plain = predict(endpoint, {"features": {**VECTOR, "carrier": text}}).json()["predictions"][0]
        assert probability == pytest.approx(plain["probability"], abs=1e-6)


@pytest.mark.parametrize("kind", [None, "application/json", "application/octet-stream", "text/plain; charset=utf-8"])
def test_infer_needs_no_content_type(endpoint: ExampleEndpoint, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    response = send(endpoint, "POST", "/infer", content=json.dumps({"inputs": tensors()}), headers=headers)
    assert response.status_code == 200
    headers = {"content-type": "application/json; charset=utf-16"}
    assert send(endpoint, "POST", "/infer", content=b"{}", headers=headers).status_code == 415


def test_the_id_of_a_request_is_the_ledger_s_key(tmp_path: Path) -> None:
    body = {"inputs": tensors()}
    with example_endpoint(tmp_path) as endpoint:
        mine = infer(endpoint, {**body, "id": MINE.upper()})
        assert mine.headers.get_list("x-request-id") == [MINE]
        mine = mine.json()
        refused = infer(endpoint, {"inputs": [], "id": MINE})
        assert refused.json()["request_id"] == refused.headers["x-request-id"] == MINE
        other = infer(endpoint, {**body, "id": "order 5"}).json()
        made = infer(endpoint, body).json()
    assert (mine["id"], "parameters" in mine) == (MINE.upper(), False)
    assert other["id"] == "order 5"
    assert "parameters" not in made
    kept = Ledger(endpoint.settings, "departures").frame()["request_id"].to_list()
    assert sorted(kept) == sorted([MINE, other["parameters"]["request_id"], made["id"]])


def test_who_operates_can_ask_the_candidate_and_nobody_else(endpoint: ExampleEndpoint) -> None:
    asker = create_key(endpoint.store, SYSTEM, "asker", ["predict"]).secret
    endpoint.guard.keys = active_keys(endpoint.store)
    counts = endpoint.follower.counts
    before = {key: found.requests for key, found in counts.items()}
    for path, body in (("/infer", {"inputs": tensors()}), ("/predict", {"features": VECTOR})):
        for version in ("7", "8"):
            named = {"content-type": "application/json", "x-model-version": version}
            answer = send(endpoint, "POST", path, json=body, headers=named).json()
            assert answer.get("version", answer.get("model_version")) == version
            named["authorization"] = f"Bearer {asker}"
            assert send(endpoint, "POST", path, json=body, headers=named).status_code == (
                200 if version == "7" else 403
            )
    assert send(endpoint, "POST", "/versions/8/infer", json={"inputs": tensors()}).json()["model_version"] == "8"
    assert counts["8", "asked"].requests == before.get(("8", "asked"), 0) + 3
    assert counts["8", "shadow"].requests == before.get(("8", "shadow"), 0)
    assert counts["7", "champion"].requests == before.get(("7", "champion"), 0) + 4


def test_a_path_and_a_header_that_name_different_versions_are_a_400(endpoint: ExampleEndpoint) -> None:
    for named, status in (("8", 400), ("6", 400), ("7", 200), (" 7 ", 200)):
        for method, path in (("GET", ""), ("GET", "/config"), ("POST", "/infer")):
            given = {"json": {"inputs": tensors()}} if method == "POST" else {}
            headers = {"x-model-version": named}
            answer = send(endpoint, method, f"/versions/7{path}", headers=headers, **given)
            assert answer.status_code == status, (named, path, answer.text)
            if status == 400:
                assert "version '7'" in answer.json()["error"]
                assert answer.json()["field"] == "x-model-version"


@pytest.mark.parametrize("version", ["6", "9" * 24, "-1", "07", "8.0", "latest", "%00", "7\u00e9", "{version}", " "])
def test_a_version_that_takes_no_requests_is_a_404_that_names_the_champion(
    endpoint: ExampleEndpoint, version: str
) -> None:
    for method, path in (("GET", ""), ("GET", "/ready"), ("GET", "/config"), ("GET", "/stats"), ("POST", "/infer")):
        refused = send(endpoint, method, f"/versions/{version}{path}", json={"inputs": tensors()})
        assert refused.status_code == 404, refused.text
        assert "7" in refused.json()["error"]
        assert len(refused.json()["error"]) < 200


def test_a_candidate_that_was_chosen_and_fails_is_no_failure_of_the_champion(tmp_path: Path) -> None:
    with example_endpoint(tmp_path, versions=2, change=shadow_of(Broken)) as example:
        let_in(example)
        Broken.works = False
        try:
            assert predict(example, {"features": VECTOR}, **{"x-model-version": "8"}).status_code == 500
            assert predict(example, {"features": VECTOR}).json()["version"] == "7"
        finally:
            Broken.works = True
        assert example.follower.counts["8", "asked"].errors == 1
        assert example.follower.counts["7", "champion"].errors == 0


def test_the_repository_lists_what_the_caller_may_see_and_no_model_that_exists_is_a_404(
    endpoint: ExampleEndpoint, server: str
) -> None:
    stranger = create_key(endpoint.store, SYSTEM, "stranger", ["admin"], ["trains"]).secret
    asker = create_key(endpoint.store, SYSTEM, "caller", ["predict"], ["departures"]).secret
    repository = Repository(endpoint.store, running({"departures": False, "arrivals": True}))
    routes = Routes(repository.routes(), Guard(None, active_keys(endpoint.store)), not_found=repository.not_found)

    def ask(key: str, path: str = "/repository/index", **given: Any) -> httpx.Response:
        async def once() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(routes), base_url="http://test") as client:
                return await client.post(path, headers={"authorization": f"Bearer {key}"}, **given)

        return asyncio.run(once())

    assert ask(stranger).json() == []
    (listed,) = ask(asker).json()
    assert (listed["version"], listed["state"]) == ("7", "UNAVAILABLE")
    assert ask(asker, json={"ready": True}).json() == []
    for wrong in (b"[" * 5000, b'{"ready": true, "ready": false}', b'{"other": "\xff"}'):
        assert ask(asker, content=wrong).status_code == 400
    unreached = ask(asker, "/models/arrivals/predict", json={})
    assert (unreached.status_code, unreached.headers["retry-after"]) == (503, "1")
    assert ask(asker, "/models/nothing/predict", json={}).status_code == 404
    assert ask("mlr_wrong", "/models/arrivals/predict", json={}).status_code == 401
