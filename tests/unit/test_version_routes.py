"""What people do to versions over HTTP, with the SDK and at the command line: as who their key says."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.client import AsyncClient, Client
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, ConflictError, DataError, ForbiddenError, MlopsRayError
from mlops_ray.governance.approvals import approve, expire, request
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.development_keys import development_approver_key, development_key
from mlops_ray.governance.events import SYSTEM, Actor, read_events
from mlops_ray.governance.keys import active_keys, create_key
from mlops_ray.governance.live import VersionRef
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import set_policy
from mlops_ray.predictions.reader import Ledger
from mlops_ray.serving import versions
from mlops_ray.serving.approvals import DECISIONS
from mlops_ray.serving.auth import Guard, tokens_of
from mlops_ray.serving.server import ServerApi
from mlops_ray.testing.example_lineage import AUTHOR, example_lineage, register_example
from tests.unit.test_lineage import ledger_of, request_at

BOB = Actor("bob", ("approve",))
HOSTILE = ["", "..", "../flights", "file:///etc/passwd", "flights\0", "flights\x1b[2J", "x" * 10_000, "Flights", "f f"]
NEW = "b" * 64
MINUTE = timedelta(minutes=1)
BODY: dict[str, Any] = {"model": "flights", "version": 2, "reason": "why"}


async def no_models() -> dict[str, bool]:
    return {}


class Server:
    """The server's routes for people, on a port of this machine."""

    def __init__(self, settings: Settings, store: ControlStore, alone: bool = False):
        self.settings, self.store = settings, store
        if alone:
            development_key(store, settings)
            development_approver_key(store, settings)
        self.keys = (
            {}
            if alone
            else {
                "admin": create_key(store, SYSTEM, "root", ["admin"]).secret,
                "ann": create_key(store, SYSTEM, "ann", ["operate"]).secret,
                "bob": create_key(store, SYSTEM, "bob", ["approve"]).secret,
                "foreign": create_key(store, SYSTEM, "foreign", ["operate", "approve"], ["trains"]).secret,
                "auditor": create_key(store, SYSTEM, "auditor", ["audit"]).secret,
                "eve": create_key(store, SYSTEM, "eve", ["predict"]).secret,
            }
        )
        self.guard = Guard(None, active_keys(store), tokens_of(settings))
        app = Starlette(routes=[Mount("/v2", ServerApi(settings, store, self.guard, no_models).app)])
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.001)
        self._http = httpx.Client(verify=False)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        self._http.close()
        self._server.should_exit = True
        self._thread.join()

    def __call__(self, who: str, path: str, body: Any = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.keys[who]}"} if who else {}
        method = "GET" if body is None else "POST"
        return self._http.request(method, f"{self.url}/v2{path}", json=body, headers=headers)

    def client(self, who: str) -> Client:
        return Client(self.url, api_key=self.keys[who], attempts=1)

    def command(self, *arguments: str, local: bool = False) -> str:
        """What a command prints. local: it asks no server."""
        where = ["--state", self.settings.state] + ([] if local else ["--url", self.url])
        return CliRunner().invoke(app, [*arguments, *where], catch_exceptions=False).output


@contextmanager
def serving(folder: Path, alone: bool = False, **settings: Any) -> Iterator[Server]:
    """Version 1 is approved and champion, version 2 is registered; flights demands an approval.

    alone: nobody has a key but the development principals."""
    config = Settings(state=str(folder), data=str(folder), **settings)
    store = open_store(config)
    set_policy(store, AUTHOR, "flights", Policy(required=True))
    for number, digest in ((1, "a" * 64), (2, NEW)):
        register_example(config, store, example_lineage(digest=digest), number)
    request(store, AUTHOR, "flights", 1)
    set_champion(store, AUTHOR, "flights", approve(store, BOB, "flights", 1).ref, "first")
    server = Server(config, store, alone)
    yield server
    server.stop()
    store.close()


@pytest.fixture(autouse=True)
def _without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLOPS_RAY_API_KEY", raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests that must not change anything."""
    with serving(tmp_path_factory.mktemp("state")) as server:
        before = len(read_events(server.store))
        yield server
        assert len(read_events(server.store)) == before


def test_people_act_over_http_as_who_their_key_says(server: Server) -> None:
    assert server("ann", "/approvals/request", BODY).json()["requested_by"] == "ann"
    assert server("ann", "/approvals/approve", BODY).status_code == 403
    done = server("bob", "/approvals/approve", BODY | {"digest": NEW})
    assert (done.status_code, done.json()["decided_by"]) == (200, "bob")
    assert server("bob", "/approvals/approve", BODY | {"reason": "again"}).status_code == 409
    assert server("bob", "/approvals/revoke", BODY).json()["state"] == "revoked"
    listed = server("bob", "/approvals").json()["approvals"]
    assert [(one["version"], one["state"]) for one in listed] == [(2, "revoked"), (1, "approved")]
    assert server("foreign", "/approvals").json()["approvals"] == []
    assert "decided on a revision" in server("ann", "/approvals/break-glass", BODY).json()["error"]
    assert server("ann", "/approvals/break-glass", BODY | {"revision": 1}).json()["champion"]["version"] == 2
    assert server("ann", "/versions/retire", BODY | {"version": 1}).json()["retired_at"]


@pytest.mark.parametrize(
    ("who", "path", "body", "status"),
    [
        ("", "/approvals", None, 401),
        ("", "/versions/lineage", {"of": "flights@1"}, 401),
        ("eve", "/approvals/request", BODY, 403),
        ("foreign", "/approvals/request", BODY, 403),
        ("foreign", "/approvals/approve", BODY, 403),
        ("bob", "/approvals/break-glass", BODY, 403),
        ("bob", "/versions/retire", BODY, 403),
        ("foreign", "/versions/retire", BODY, 403),
        ("foreign", "/versions/lineage", {"of": "flights@1"}, 403),
        ("eve", "/versions/lineage", {"of": "flights@1"}, 403),
        ("ann", "/approvals/break-glass", BODY | {"reason": "", "revision": 1}, 400),
        ("ann", "/approvals/break-glass", BODY, 400),
        ("ann", "/versions/retire", BODY | {"reason": " "}, 400),
        ("ann", "/versions/retire", BODY | {"version": 1}, 409),
        ("bob", "/approvals/reject", BODY | {"version": 1, "reason": ""}, 400),
        ("bob", "/approvals/approve", BODY, 409),
        ("ann", "/approvals/request", BODY | {"version": 3}, 400),
        ("ann", "/versions/lineage", {"of": "flights@3"}, 400),
        ("ann", "/versions/lineage", {"of": "flights@1", "near": "noon"}, 400),
        ("ann", "/approvals/request", BODY | {"version": 2**31}, 400),
        ("ann", "/approvals/request", BODY | {"version": "2"}, 400),
        ("ann", "/approvals/request", BODY | {"reason": "x" * 2001}, 400),
        ("ann", "/approvals/request", BODY | {"actor": "bob"}, 400),
    ],
)
def test_what_is_wrong_over_http_is_a_4xx(untouched: Server, who: str, path: str, body: Any, status: int) -> None:
    response = untouched(who, path, body)
    assert (response.status_code, bool(response.json()["error"])) == (status, True), response.text


def test_who_audits_reads_versions_approvals_and_lineage_and_does_nothing(untouched: Server) -> None:
    assert untouched("auditor", "/versions/lineage", {"of": "flights@2"}).status_code == 200
    assert untouched("auditor", "/approvals").json()["approvals"]
    assert untouched("eve", "/approvals").json()["approvals"] == []
    for path in (*(f"/approvals/{what}" for what in DECISIONS), "/versions/retire"):
        assert untouched("auditor", path, BODY).status_code == 403, path


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_a_short_400_on_every_route(untouched: Server, name: str) -> None:
    admin = {"authorization": f"Bearer {untouched.keys['admin']}"}
    asked = [(f"/approvals/{what}", BODY | {"model": name}) for what in ("request", "approve", "reject", "revoke")]
    asked += [("/approvals/break-glass", BODY | {"model": name, "revision": 1})]
    asked += [("/versions/retire", BODY | {"model": name})]
    asked += [("/versions/lineage", {"of": name}), ("/versions/lineage", {"of": f"{name}@1"})]
    with httpx.Client(base_url=f"{untouched.url}/v2", headers=admin) as client:
        for path, body in asked:
            response = client.post(path, json=body)
            assert response.status_code == 400, (path, response.text)
            assert len(response.json()["error"]) < 300
            assert response.json()["error"].isprintable()


def test_the_sdk_acts_as_who_its_key_says(server: Server) -> None:
    with server.client("ann") as ann, server.client("bob") as bob:
        assert ann.decide("request", "flights", 2)["state"] == "requested"
        with pytest.raises(ForbiddenError, match="does not carry the role"):
            ann.decide("approve", "flights", 2)
        assert bob.lineage("flights@2")["lineage"]["source_files"]
        with pytest.raises(ConflictError, match="has the digest bbb"):
            bob.decide("approve", "flights", 2, "looked at it", digest="c" * 64)
        assert bob.decide("approve", "flights", 2, "looked at it", digest=NEW)["decided_by"] == "bob"
        with pytest.raises(ConflictError, match="approved by bob already"):
            bob.decide("approve", "flights", 2)
        assert bob.decide("revoke", "flights", 2, "complaints")["state"] == "revoked"
        with pytest.raises(ConfigurationError, match="Give the revision"):
            ann.decide("break-glass", "flights", 2, "fire")
        assert ann.decide("break-glass", "flights", 2, "fire", revision=1)["champion"]["version"] == 2
        assert ann.decide("retire", "flights", 1, "it discriminates")["retired_at"]
        with pytest.raises(DataError, match="registered are: 1, 2"):
            ann.lineage("flights@9")


@pytest.mark.parametrize("ask", ["sync", "async"])
def test_a_decision_whose_answer_did_not_arrive_is_taken_once(server: Server, ask: str) -> None:
    """A proxy between answers 504 to each first attempt, after the server has done what was asked."""
    with LosesAnswers(server.url) as proxy:
        for who, what, version, reason in (
            ("ann", "request", 2, "please"),
            ("bob", "approve", 2, "looked at it"),
            ("bob", "revoke", 2, "complaints"),
            ("ann", "request", 2, "better now"),
            ("bob", "reject", 2, "no"),
            ("ann", "break-glass", 2, "fire"),
            ("ann", "retire", 1, "old"),
        ):
            before = len(read_events(server.store))
            decided = decide(ask, proxy.url, server.keys[who], what, version, reason)
            now = read_events(server.store)
            assert proxy.lost.pop() == [200, 200], (what, proxy.lost)
            assert len(now) - before == (3 if what == "break-glass" else 1)
            assert decide(ask, server.url, server.keys[who], what, version, reason) == decided
            assert len(read_events(server.store)) == len(now)


def test_somebody_else_s_decision_is_no_repetition_and_neither_is_one_that_was_undone(server: Server) -> None:
    server.keys["ben"] = create_key(server.store, SYSTEM, "ben", ["approve"]).secret
    server.guard.keys = active_keys(server.store)
    assert server("ann", "/approvals/request", BODY).status_code == 200
    assert server("bob", "/approvals/approve", BODY).status_code == 200
    assert server("ben", "/approvals/approve", BODY).status_code == 409
    assert server("bob", "/approvals/approve", BODY | {"digest": "c" * 64}).status_code == 409
    assert server("bob", "/approvals/approve", BODY | {"digest": NEW}).status_code == 200
    assert server("ben", "/approvals/revoke", BODY).status_code == 200
    assert server("bob", "/approvals/approve", BODY).status_code == 409
    assert server("ann", "/approvals/break-glass", BODY | {"revision": 1}).status_code == 200
    set_champion(server.store, AUTHOR, "flights", VersionRef(1, "a" * 64), "back")
    late = server("ann", "/approvals/break-glass", BODY | {"revision": 1})
    assert (late.status_code, "not any more what it was at revision 1" in late.json()["error"]) == (409, True)
    assert server("ann", "/approvals/break-glass", BODY | {"revision": 3}).status_code == 200
    assert [event.type for event in read_events(server.store)].count("break_glass") == 2


def test_a_verdict_is_about_the_request_that_was_looked_at(server: Server) -> None:
    first = server("ann", "/approvals/request", BODY).json()["id"]
    refused = BODY | {"reason": "no limits in the card", "approval": first}
    other = server("bob", "/approvals/reject", refused | {"digest": "c" * 64})
    assert (other.status_code, "has the digest bbb" in other.json()["error"]) == (409, True)
    for _ in range(2):
        assert server("bob", "/approvals/reject", refused).json()["state"] == "rejected"
    second = server("ann", "/approvals/request", BODY | {"reason": "mended"}).json()["id"]
    for verdict in ("reject", "approve", "revoke"):
        late = server("bob", f"/approvals/{verdict}", refused)
        assert (late.status_code, f"({second}) is requested" in late.json()["error"]) == (409, True)
    assert server("bob", "/approvals/approve", BODY | {"approval": second}).json()["state"] == "approved"


def test_a_late_approval_of_what_has_expired_says_so(server: Server) -> None:
    assert server("ann", "/approvals/request", BODY).status_code == 200
    assert server("bob", "/approvals/approve", BODY).status_code == 200
    expire(server.store, datetime.now(UTC) + timedelta(days=400))
    late = server("bob", "/approvals/approve", BODY)
    assert (late.status_code, "Ask for approval again" in late.json()["error"]) == (409, True)


def decide(ask: str, url: str, key: str, what: Any, version: int, reason: str) -> Any:
    async def asynchronously() -> Any:
        async with AsyncClient(url, api_key=key) as client:
            return await client.decide(what, "flights", version, reason, revision=1)

    if ask == "async":
        return asyncio.run(asynchronously())
    with Client(url, api_key=key) as client:
        return client.decide(what, "flights", version, reason, revision=1)


class LosesAnswers:
    """Passes requests on and answers 504 to every first attempt; `lost`: what the server had answered, by request."""

    def __init__(self, url: str):
        self._to, self.lost = url, list[list[int]]()
        self._server = uvicorn.Server(
            uvicorn.Config(self._pass_on, port=0, log_level="error", lifespan="off", interface="asgi3")
        )
        self._thread = threading.Thread(target=self._server.run)

    async def _pass_on(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        headers = [(k, v) for k, v in scope["headers"] if k in (b"authorization", b"content-type", b"x-request-id")]
        async with httpx.AsyncClient() as client:
            answer = await client.request(scope["method"], f"{self._to}{scope['path']}", content=body, headers=headers)
        if scope["method"] == "GET":
            await send({"type": "http.response.start", "status": answer.status_code, "headers": []})
            await send({"type": "http.response.body", "body": answer.content})
            return
        request_id = dict(headers)[b"x-request-id"]
        first = not self.lost or getattr(self, "_last", None) != request_id
        if first:
            self.lost.append([])
        self._last = request_id
        self.lost[-1].append(answer.status_code)
        await send({"type": "http.response.start", "status": 504 if first else answer.status_code, "headers": []})
        await send({"type": "http.response.body", "body": b"{}" if first else answer.content})

    def __enter__(self) -> "LosesAnswers":
        self._thread.start()
        while not self._server.started:
            time.sleep(0.001)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *given: object) -> None:
        self._server.should_exit = True
        self._thread.join()


def test_a_requests_id_leads_to_the_raw_files_in_one_call(server: Server) -> None:
    """How long it takes is measured by `benchmarks/registry.py`."""
    first = datetime(2026, 3, 1, tzinfo=UTC)
    asked = {request_at(first + number * MINUTE): first + number * MINUTE for number in range(60)}
    for id, moment in asked.items():
        ledger_of(server.settings, {"request_id": id, "version": "1", "time": moment})
    with server.client("bob") as bob:
        for id in list(asked)[::12]:
            found = bob.lineage(id)
            assert found["prediction"]["time"] == asked[id].isoformat()
            assert (found["version"], found["deployments"][0]["part"]) == (1, "champion")
            assert found["lineage"]["source_files"]["flights"]["flights_2013-01.csv"] == f"{1:064x}"


def test_who_has_no_role_on_a_use_case_makes_nobody_read_its_ledger_and_learns_nothing_of_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = datetime(2026, 3, 1, tzinfo=UTC)
    asked, unknown = request_at(moment), request_at(moment + MINUTE)
    ledger_of(server.settings, {"request_id": asked, "version": "1", "time": moment})
    read: list[str] = []
    find = Ledger.find

    def seen(ledger: Ledger, *given: Any) -> Any:
        read.append(ledger._use_case)
        return find(ledger, *given)

    monkeypatch.setattr(Ledger, "find", seen)
    answers = {
        (who, of): server(who, "/versions/lineage", {"of": of})
        for who in ("eve", "foreign")
        for of in ("flights", "flights@1", "flights@9", "buses@1", asked, unknown)
    }
    assert read == []
    for (who, of), answer in answers.items():
        named = of not in (asked, unknown)
        assert answer.status_code == (403 if named or who == "eve" else 400), (who, of, answer.text)
        assert server.settings.state not in answer.text
        assert "registered are" not in answer.text
    assert answers["foreign", asked].json()["error"] == answers["foreign", unknown].json()["error"].replace(
        unknown, asked
    )
    assert server("bob", "/versions/lineage", {"of": asked}).status_code == 200
    assert read == ["flights"]


def test_a_record_that_was_changed_is_a_500_that_names_no_path(server: Server) -> None:
    (record, *_) = (Path(server.settings.artifacts) / "lineage" / "flights").glob("*.json")
    for file in record.parent.glob("*.json"):
        file.write_text(file.read_text().replace("flights_2013", "flights_2014"))
    answer = server("bob", "/versions/lineage", {"of": "flights@1"})
    assert answer.status_code == 500
    assert "not what was registered" in answer.json()["error"]
    assert "/" not in answer.json()["error"]


def test_however_many_look_at_lineage_decisions_do_not_wait(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    at_work, most, going = 0, 0, threading.Event()

    def slow(*given: Any) -> Any:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        going.wait(10)
        at_work -= 1
        raise DataError("nothing")

    monkeypatch.setattr(versions, "trace", slow)
    with ThreadPoolExecutor(20) as pool:
        asking = [pool.submit(server, "bob", "/versions/lineage", {"of": "flights@1"}) for _ in range(20)]
        started = time.monotonic()
        assert server("ann", "/approvals/request", BODY).status_code == 200
        assert time.monotonic() - started < 5
        going.set()
        assert {one.result().status_code for one in asking} == {400}
    assert most <= versions.TRACES_AT_A_TIME


def test_the_command_line_asks_as_one_and_decides_as_the_other(tmp_path: Path) -> None:
    with serving(tmp_path, alone=True) as server:
        ask_and_decide(server.command)


def ask_and_decide(command: Callable[..., str]) -> None:
    assert "requested" in command("approvals", "request", "flights", "2")
    done = command("approvals", "approve", "flights", "2", "--reason", "looked at it")
    assert "approved by development_approver" in done
    assert "flights@2  approved by development_approver" in command("approvals", "list")
    assert "revoked" in command("approvals", "revoke", "flights", "2", "--reason", "no")
    broken = command("approvals", "break-glass", "flights", "2", "--reason", "fire", "--revision", "1")
    assert "Version 2 of flights is champion" in broken
    assert "retired" in command("versions", "retire", "flights", "1", "--reason", "old")
    listed = command("versions", "list", "flights", local=True).splitlines()
    assert [("retired" in line, line.startswith("flights@")) for line in listed] == [(True, True), (False, True)]


@pytest.mark.parametrize("name", ["..", "\x1b\0" + "x" * 10_000])
def test_a_hostile_name_is_one_short_sentence_at_the_command_line(
    untouched: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLOPS_RAY_API_KEY", untouched.keys["admin"])
    why = ["--reason", "why"]
    asked = [[["approvals", what, name, "1", *why], False] for what in ("request", "approve", "reject", "revoke")]
    asked += [[["approvals", "break-glass", name, "1", *why], False], [["versions", "retire", name, "1", *why], False]]
    asked += [[["rollout", *what], False] for what in (["start", name, "1"], ["status", name], ["promote", name])]
    asked += [[["rollout", "rollback", name], False], [["versions", "list", name], True]]
    asked += [[[*what, name], True] for what in (["lineage"], ["live"], ["versions", "card"])]
    asked += [[[*what, f"{name}@1"], True] for what in (["lineage"], ["versions", "card"])]
    asked += [[["notify", "subscribe", "https://example.org", "--use-case", name], True]]
    for arguments, local in asked:
        with pytest.raises(MlopsRayError) as error:
            untouched.command(*arguments, local=local)
        assert len(str(error.value)) < 500, arguments
        assert str(error.value).isprintable(), arguments


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_never_becomes_a_path_of_the_sdk(untouched: Server, name: str) -> None:
    with untouched.client("ann") as client:
        for ask in (
            lambda: client.predict(name, keys={}),
            lambda: client.send_labels(name, [{"label": True}]),
            lambda: client.decide("request", name, 1),
            lambda: client.lineage(name),
        ):
            with pytest.raises(MlopsRayError) as error:
                ask()
            assert len(str(error.value)) < 500
