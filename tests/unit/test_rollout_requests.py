"""Requests that change what is live name what they are about: repeated or late, they change nothing."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.client import AsyncClient, Client
from mlops_ray.client.decisions import decided
from mlops_ray.errors import ConfigurationError, ConflictError, MlopsRayError
from mlops_ray.governance.approvals import approve
from mlops_ray.governance.champion import break_glass, set_champion
from mlops_ray.governance.events import SYSTEM, Actor, read_events
from mlops_ray.governance.live import Plan, Rules, Step, VersionRef, live
from mlops_ray.governance.replicas import heard, leave
from mlops_ray.governance.rollback import roll_back
from mlops_ray.governance.rollouts import advance, promote
from mlops_ray.governance.versions import Evidence, record_version
from mlops_ray.serving.operations import Operations
from mlops_ray.serving.push_routes import PushRoutes
from mlops_ray.testing.example_endpoint import NAME, ExampleEndpoint, example_endpoint
from tests.unit.test_endpoint import send

ANN, BOB = Actor("ann", ("operate",)), Actor("bob", ("approve",))
PLAN = Plan((Step("canary", 0.5, 3600), Step("canary", 0.6, 3600)), Rules(min_requests=10**9))


@pytest.fixture
def example(tmp_path: Path) -> Iterator[ExampleEndpoint]:
    """Version 7 was champion, version 8 is, and version 9 can be."""
    with example_endpoint(tmp_path, versions=3) as example:
        set_champion(example.store, SYSTEM, NAME, example.sealed[8], "better")
        example.follower.follow_once()
        yield example


def operate(example: ExampleEndpoint, path: str, **body: Any) -> tuple[int, Any]:
    headers = {"content-type": "application/json"}
    answer = send(example, "POST", f"/rollout{path}", json=body, headers=headers)
    return answer.status_code, answer.json()


def revision(example: ExampleEndpoint) -> int:
    return int(send(example, "GET", "/rollout").json()["revision"])


def start(example: ExampleEndpoint, version: int, seen: int | None = None) -> tuple[int, Any]:
    seen = revision(example) if seen is None else seen
    return operate(example, "", version=version, plan=PLAN.to_json(), revision=seen)


def test_a_rollback_that_comes_after_the_rules_rolled_back_leaves_the_good_champion(example: ExampleEndpoint) -> None:
    start(example, 9)
    seen = revision(example)
    roll_back(example.store, SYSTEM, NAME, seen, 8, "it misbehaves")
    events = len(read_events(example.store))
    status, shown = operate(example, "/rollback", to=8, revision=seen, reason="it misbehaves")
    assert (status, shown["changed"], shown["champion"]["version"], shown["rollout"]) == (200, False, 8, None)
    assert len(read_events(example.store)) == events


def test_a_pause_sent_twice_or_late_pauses_once(example: ExampleEndpoint) -> None:
    start(example, 9)
    body = {"to": 9, "revision": revision(example), "reason": "wait"}
    status, shown = operate(example, "/pause", **body)
    assert (status, shown["changed"], shown["rollout"]["paused_at"] is None) == (200, True, False)
    assert operate(example, "/pause", **body)[1]["changed"] is False
    goes_on = operate(example, "/resume", to=9, revision=revision(example), reason="go on")
    assert (goes_on[0], goes_on[1]["changed"], goes_on[1]["rollout"]["paused_at"]) == (200, True, None)
    status, shown = operate(example, "/pause", **body)
    assert (status, "rollout.resumed by" in shown["error"]) == (409, True)
    assert operate(example, "/pause", to=7, revision=revision(example))[0] == 409


def test_a_rollback_sent_twice_goes_back_once(example: ExampleEndpoint) -> None:
    body = {"to": 7, "revision": revision(example), "reason": "complaints"}
    assert operate(example, "/rollback", **body)[1]["changed"] is True
    for _ in range(3):
        status, shown = operate(example, "/rollback", **body)
        assert (status, shown["changed"], shown["champion"]["version"]) == (200, False, 7)
    assert len(read_events(example.store, types=["rollout.rolled_back"])) == 1


def test_a_late_rollback_does_not_demote_what_came_since_and_says_what_holds(example: ExampleEndpoint) -> None:
    seen = revision(example)
    set_champion(example.store, ANN, NAME, example.sealed[9], "better still")
    status, answer = operate(example, "/rollback", to=7, revision=seen, reason="late")
    assert status == 409
    assert f"is not any more what it was at revision {seen} (champion.set by ann, at 20" in answer["error"]
    assert f"At revision {seen + 1}, version 9 is champion and no rollout runs." in answer["error"]
    assert live(example.store, NAME).champion == example.sealed[9]


def test_steps_that_a_rollout_makes_meanwhile_do_not_keep_anybody_from_ending_it(example: ExampleEndpoint) -> None:
    _, shown = start(example, 9)
    rollout = live(example.store, NAME).rollout
    assert rollout is not None
    state = advance(example.store, SYSTEM, NAME, rollout, "loaded")
    assert state.rollout is not None
    advance(example.store, SYSTEM, NAME, state.rollout, "enough")
    status, shown = operate(example, "/rollback", to=8, revision=shown["revision"], reason="complaints")
    assert (status, shown["changed"], shown["champion"]["version"], shown["rollout"]) == (200, True, 8, None)


def test_one_request_ends_a_rollout_and_leaves_the_champion_too(example: ExampleEndpoint) -> None:
    start(example, 9)
    status, shown = operate(example, "/rollback", to=7, revision=revision(example), reason="all of it is wrong")
    assert (status, shown["champion"]["version"], shown["rollout"]) == (200, 7, None)
    (event,) = read_events(example.store, types=["rollout.rolled_back"])
    assert (event.before["rollout"]["version"], event.subject) == (9, f"{NAME}@8")


def test_a_rollout_is_started_once_and_not_again_after_it_was_ended(example: ExampleEndpoint) -> None:
    seen = revision(example)
    assert start(example, 9, seen)[1]["changed"] is True
    status, shown = start(example, 9, seen)
    assert (status, shown["changed"], shown["rollout"]["version"]["version"]) == (200, False, 9)
    assert operate(example, "", version=9, plan={}, revision=revision(example))[0] == 409  # by another plan
    roll_back(example.store, SYSTEM, NAME, revision(example), 8, "it misbehaves")
    status, answer = start(example, 9, seen)
    assert (status, "no rollout runs" in answer["error"]) == (409, True)
    assert live(example.store, NAME).rollout is None


def test_a_promotion_sent_twice_promotes_once_and_a_late_one_nothing(example: ExampleEndpoint) -> None:
    start(example, 9)
    body = {"to": 9, "revision": revision(example), "reason": "enough"}
    assert operate(example, "/promote", **body)[0] == 409  # not loaded yet
    for _ in range(2):
        example.follower.follow_once()
    assert operate(example, "/promote", **body)[1]["changed"] is True
    assert operate(example, "/promote", **body)[1]["changed"] is False
    roll_back(example.store, ANN, NAME, revision(example), 8, "complaints")
    status, answer = operate(example, "/promote", **body)
    assert (status, "version 8 is champion" in answer["error"]) == (409, True)
    start(example, 9)
    for _ in range(2):
        example.follower.follow_once()
    status, answer = operate(example, "/promote", **body)  # of the rollout before
    assert (status, "began after revision" in answer["error"]) == (409, True)


def test_a_request_that_does_not_say_what_it_is_about_is_refused(example: ExampleEndpoint) -> None:
    for path, body in (
        ("/rollback", {"to": 7}),
        ("/rollback", {"revision": 2}),
        ("/promote", {}),
        ("", {"version": 9}),
    ):
        status, answer = operate(example, path, **body)
        assert (status, "missing required field" in answer["error"]) == (400, True)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/rollback", '{"to": 99, "to": 7, "revision": 2}'),
        ("/rollback", '{"to": 99, "t\\u006f": 7, "revision": 2}'),
        ("", '{"version": 9, "revision": 2, "plan": {"steps": [], "steps": [{"kind": "canary", "fraction": 1}]}}'),
    ],
)
def test_an_order_that_says_a_thing_twice_is_refused(example: ExampleEndpoint, path: str, body: str) -> None:
    before = live(example.store, NAME)
    headers = {"content-type": "application/json"}
    answer = send(example, "POST", f"/rollout{path}", content=body, headers=headers)
    assert (answer.status_code, " twice" in answer.json()["error"]) == (400, True), answer.text
    assert live(example.store, NAME) == before


def test_a_promotion_decided_on_one_rollout_is_not_of_the_next(example: ExampleEndpoint) -> None:
    start(example, 9)
    before = live(example.store, NAME).rollout
    assert before is not None
    roll_back(example.store, ANN, NAME, revision(example), 8, "no")
    start(example, 9)
    with pytest.raises(ConflictError, match="under way"):
        promote(example.store, ANN, NAME, before, "late")


def test_a_plan_that_is_sticky_by_what_no_request_has_is_refused(example: ExampleEndpoint) -> None:
    plan = {**PLAN.to_json(), "sticky": "tailnumber"}
    status, shown = operate(example, "", version=9, plan=plan, revision=revision(example))
    assert status == 400
    assert "'tailnumber'" in shown["error"]
    for column in example.follower.request_columns():
        assert column in shown["error"]
    assert live(example.store, NAME).rollout is None


def test_a_rollback_waits_for_no_registry_however_many_rollouts_wait_for_it(tmp_path: Path) -> None:
    hangs = threading.Event()
    with example_endpoint(tmp_path, versions=2, deadline_s=1.0) as example:

        def find(version: int) -> VersionRef:
            hangs.wait(60)
            return example.sealed[version]

        operations = Operations(example.store, NAME, find, example.follower.request_columns)
        example.endpoint.app.routes = {**example.endpoint.app.routes, **operations.routes()}
        expect_rollback_past(example, hangs, "/rollout", {"version": 7, "revision": 0})


def test_a_rollback_waits_for_no_store_however_many_pushes_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = threading.Event()

    def pushed(*given: Any) -> dict[str, Any]:
        hangs.wait(60)
        return {}

    monkeypatch.setattr(PushRoutes, "_pushed", pushed)
    with example_endpoint(tmp_path, versions=2, deadline_s=1.0) as example:
        expect_rollback_past(example, hangs, "/features", {"view": "delays", "rows": []})


def expect_rollback_past(example: ExampleEndpoint, hangs: threading.Event, path: str, body: dict[str, Any]) -> None:
    """While forty requests to a path hang, a rollback goes through."""
    set_champion(example.store, SYSTEM, NAME, example.sealed[8], "better")
    seen = live(example.store, NAME).revision

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(example.app)
        headers = {"authorization": f"Bearer {example.key}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            tried = await asyncio.gather(*(client.post(path, json=body) for _ in range(40)))
            back = await client.post("/rollout/rollback", json={"to": 7, "revision": seen})
            hangs.set()
            return [back, *tried]

    back, *tried = asyncio.run(ask())
    assert {answer.status_code for answer in tried} == {504}
    assert (back.status_code, back.json()["champion"]["version"]) == (200, 7)


def test_breaking_the_glass_twice_breaks_it_once(example: ExampleEndpoint) -> None:
    for number, ref in example.sealed.items():
        record_version(example.store, ANN, NAME, number, Evidence(ref.digest, "e"))
    seen = revision(example)
    assert break_glass(example.store, ANN, NAME, 9, "fire", seen).champion == example.sealed[9]
    events = len(read_events(example.store))
    assert break_glass(example.store, ANN, NAME, 9, "fire", seen).champion == example.sealed[9]
    approve(example.store, BOB, NAME, 9)
    roll_back(example.store, ANN, NAME, revision(example), 8, "it was worse")
    with pytest.raises(ConflictError, match="Nothing was changed"):
        break_glass(example.store, ANN, NAME, 9, "fire", seen)
    assert len(read_events(example.store)) == events + 2


@contextmanager
def served(example: ExampleEndpoint, lost: int = 0) -> Iterator[str]:
    """The endpoint on a port of this machine, where its routes stand in practice. lost: so many answers to the first
    changes do not arrive."""
    to_lose = iter(range(lost))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def lose(message: Any) -> None:
            pass

        is_lost = scope["type"] == "http" and scope["method"] == "POST" and next(to_lose, None) is not None
        await example.app({**scope, "root_path": f"/v2/models/{NAME}"}, receive, lose if is_lost else send)
        if is_lost:
            await send({"type": "http.response.start", "status": 504, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def test_the_command_names_the_version_that_stays_and_can_be_given_again(
    example: ExampleEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLOPS_RAY_API_KEY", example.key)
    with served(example) as url:

        def command(*arguments: str) -> str:
            given = ["rollout", *arguments, "--url", url]
            return CliRunner().invoke(app, given, catch_exceptions=False).output

        with pytest.raises(ConfigurationError, match=r"Name the version that stays or returns.* There is: --to 7"):
            command("rollback", NAME)
        assert "Champion: version 7" in command("rollback", NAME, "--to", "7", "--reason", "complaints")
        assert "Nothing was changed" in command("rollback", NAME, "--to", "7", "--reason", "complaints")
        assert "loading" in command("start", NAME, "9", "--reason", "it is better")
        assert read_events(example.store, types=["rollout.started"])[-1].reason == "it is better"
        assert "loading, paused since 20" in command("pause", NAME, "--to", "9", "--reason", "wait")
        assert "paused" not in command("resume", NAME, "--to", "9", "--reason", "go on")
        with pytest.raises(ConfigurationError, match="There is: --to 7"):
            command("rollback", NAME)
        with pytest.raises(ConfigurationError, match=r"that comes in.* There is: --to 9"):
            command("promote", NAME)
        with pytest.raises(MlopsRayError, match="is not any more what it was at revision 1"):
            command("rollback", NAME, "--to", "8", "--revision", "1")
        example.follower.follow_once()
        assert "answers with version 7" in command("status", NAME)


def test_the_client_lets_versions_in_and_out_and_its_repetitions_change_nothing(example: ExampleEndpoint) -> None:
    with served(example) as url, Client(url, api_key=example.key) as client:
        seen = client.rollouts.status(NAME)["revision"]
        for changed in (True, False):
            started = client.rollouts.start(NAME, 9, PLAN.to_json(), seen)
            assert (started["changed"], started["rollout"]["version"]["version"]) == (changed, 9)
        for changed in (True, False):
            ended = client.rollouts.roll_back(NAME, 8, "complaints")
            assert (ended["changed"], ended["champion"]["version"], ended["rollout"]) == (changed, 8, None)
        with pytest.raises(ConflictError, match="is not any more what it was at revision"):
            client.rollouts.start(NAME, 9, PLAN.to_json(), seen)
        with pytest.raises(ConflictError, match="No rollout of version 9 of departures is under way"):
            client.rollouts.promote(NAME, 9)
        with pytest.raises(ConfigurationError, match="is no name of a model"):
            client.rollouts.status("../approvals")

    async def asked() -> list[Any]:
        async with AsyncClient(url, api_key=example.key) as client:
            await client.rollouts.start(NAME, 9, {"steps": []})
            example.follower.follow_once()
            example.follower.follow_once()
            state = await client.rollouts.status(NAME)
            return [state["champion"]["version"], (await client.rollouts.roll_back(NAME, 8))["changed"]]

    with served(example) as url:
        assert asyncio.run(asked()) == [9, True]


def test_a_change_whose_answer_is_lost_is_made_once(example: ExampleEndpoint) -> None:
    with served(example, lost=2) as url, Client(url, api_key=example.key) as client:
        begun = len(read_events(example.store))
        started = client.rollouts.start(NAME, 9, PLAN.to_json())
        assert (started["changed"], started["rollout"]["version"]["version"]) == (False, 9)
        assert [event.type for event in read_events(example.store)[begun:]] == ["rollout.started"]


def test_breaking_the_glass_is_decided_on_what_is_live_then() -> None:
    steps = decided("break-glass", NAME, 9, "fire", None, None)
    assert (next(steps).method, steps.send({"revision": 5}).body["revision"]) == ("GET", 5)
    steps = decided("break-glass", NAME, 9, "fire", None, None)
    next(steps)
    with pytest.raises(ConfigurationError, match=r"no model at this path\. Give the revision"):
        steps.throw(ConfigurationError("There is no model at this path."))
    assert next(decided("break-glass", NAME, 9, "fire", None, 4)).body["revision"] == 4


def test_an_operator_promotes_nothing_that_no_replica_is_known_to_hold(example: ExampleEndpoint) -> None:
    start(example, 9)
    for _ in range(2):
        example.follower.follow_once()
    body = {"to": 9, "revision": revision(example), "reason": "good"}
    said = heard(example.store, NAME)
    for replica in said.alive:
        leave(example.store, NAME, replica)
    status, answer = operate(example, "/promote", **body)
    assert (status, "No replica of" in answer["error"], "go back" in answer["error"]) == (409, True, True)
    assert live(example.store, NAME).rollout is not None
    example.follower.follow_once()  # it reports again
    assert operate(example, "/promote", **body)[1]["changed"] is True
