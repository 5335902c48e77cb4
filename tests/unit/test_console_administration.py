"""Rules, keys, subscriptions and rollouts on the console: by role, once, and told who came first."""

import asyncio
import html
import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event as database_event
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.governance.approvals import approve
from mlops_ray.governance.events import SYSTEM, Actor, read_events
from mlops_ray.governance.keys import active_keys, create_key, list_keys
from mlops_ray.governance.live import live
from mlops_ray.governance.monitoring_changes import set_definition
from mlops_ray.governance.notifications import list_subscriptions
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import PolicyChange, list_changes, set_policy
from mlops_ray.governance.rollouts import advance, start_rollout
from mlops_ray.governance.versions import VersionRef
from mlops_ray.serving.inside import Inside
from mlops_ray.serving.server import ServerApi
from tests.console_server import BOB, ConsoleServer, console, no_models, roll_out
from tests.unit.test_console import CASE, ROLLOUT, post, rolled, token_on

RULES, KEYS, SUBSCRIPTIONS = "/console/rules", "/console/keys", "/console/subscriptions"
ADA = Actor("ada", ("operate",), id="ada")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ConsoleServer]:
    with console(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleServer]:
    with console(tmp_path_factory.mktemp("state")) as server:
        before = len(read_events(server.store))
        yield server
        assert len(read_events(server.store)) == before


def texts(page: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", page)))


def asked(server: ConsoleServer, **policy: Any) -> PolicyChange:
    wanted = {"required": False, **policy}
    change = set_policy(server.store, ADA, "flights", Policy(**wanted), ("quality at least 0.7",), "too slow for us")
    assert change is not None
    return change


@pytest.mark.parametrize("who", ["root", "ann", "bob", "audrey", "eve", "foreign"])
def test_each_role_sees_what_the_api_lets_it_see(server: ConsoleServer, who: str) -> None:
    asked(server)
    post(server.browser("ann"), f"{SUBSCRIPTIONS}/create", channel="https://a.example.org/x", use_case="flights")
    browser = server.browser(who)
    assert ("too slow for us" in browser.get(RULES).text) == (who in ("root", "ann", "bob", "audrey"))
    assert ("a.example.org" in browser.get(SUBSCRIPTIONS).text) == (who in ("root", "ann", "audrey"))
    assert ("Make the key" in browser.get(KEYS).text) == (who == "root")


@pytest.mark.parametrize("path", ["/console", RULES])
def test_a_page_of_many_use_cases_asks_the_database_as_often_as_one_of_few(server: ConsoleServer, path: str) -> None:
    statements: list[str] = []
    database_event.listen(server.store._engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
    browser, counts = server.browser("root"), []
    for names in (("few_0",), tuple(f"many_{number}" for number in range(12))):
        for name in names:
            set_policy(server.store, ADA, name, Policy(required=True))
            set_policy(server.store, ADA, name, Policy(required=False), None, "slow")
            set_definition(server.store, ADA, name, {"false_alarm_days": 60}, "noisy")
        browser.get(path)  # what is read beside pages is known afterwards
        statements.clear()
        shown = browser.get(path).text
        counts.append(len(statements))
        assert all(name in shown for name in names)
    assert counts[0] == counts[1] > 0


def test_rules_that_wait_are_shown_beside_those_that_hold_and_approved(server: ConsoleServer) -> None:
    change = asked(server, min_rollout_steps=3)
    bob = server.browser("bob")
    assert "Approve or reject other rules" in bob.get("/console").text
    page = texts(bob.get(RULES).text)
    assert "required True False" in page
    assert "min_rollout_steps not demanded 3" in page
    assert "gate quality at least 0.7" in page
    assert post(bob, f"{RULES}/decision", id=change.id, verdict="approve", reason="agreed").status_code == 303
    assert list_changes(server.store)[0].state == "in_force"
    assert "Approve or reject other rules" not in bob.get("/console").text
    assert "in force ada bob" in texts(bob.get(RULES).text)


def test_who_asked_for_rules_approves_them_not_but_takes_them_back(server: ConsoleServer) -> None:
    server.keys["ada"] = create_key(server.store, SYSTEM, "ada", ["operate", "approve"]).secret
    server.guard.keys = active_keys(server.store)
    browser = server.browser("ada")
    asker = Actor("ada", ("operate", "approve"), id=active_keys(server.store)[_digest(server, "ada")].person)
    change = set_policy(server.store, asker, "flights", None, None, "mine")
    assert change is not None
    page = browser.get(RULES).text
    assert "Approve it" not in page
    assert "Take it back" in page
    assert post(browser, f"{RULES}/decision", id=change.id, verdict="approve", reason="mine").status_code == 403
    assert post(browser, f"{RULES}/decision", id=change.id, verdict="reject", reason="mistaken").status_code == 303
    assert list_changes(server.store)[0].state == "rejected"


def _digest(server: ConsoleServer, name: str) -> str:
    return next(digest for digest, one in active_keys(server.store).items() if one.name == name)


def raced(server: ConsoleServer, path: str, wanted: dict[str, dict[str, Any]]) -> dict[int, tuple[str, str]]:
    """By status who got it, and the page, of two who send at once."""
    both = {name: server.browser(name) for name in wanted}
    tokens = {name: token_on(browser) for name, browser in both.items()}
    answers: dict[str, httpx.Response] = {}
    start = threading.Barrier(2)

    def send(name: str) -> None:
        start.wait()
        answers[name] = both[name].post(path, data={"form_token": tokens[name], **wanted[name]})

    threads = [threading.Thread(target=send, args=(name,)) for name in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {answer.status_code: (name, answer.text) for name, answer in answers.items()}


def test_of_two_who_decide_on_rules_at_once_one_wins_and_the_other_is_told(server: ConsoleServer) -> None:
    change = asked(server)
    verdicts = {"bob": "approve", "carol": "reject"}
    fields = {
        name: {"id": change.id, "verdict": verdict, "reason": f"says {name}"} for name, verdict in verdicts.items()
    }
    found = raced(server, f"{RULES}/decision", fields)
    assert set(found) == {303, 409}
    won, (lost, page) = found[303][0], found[409]
    assert re.search(rf"by {won} already, at \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC", page), texts(page)
    assert f"What you wrote: says {lost}" in page


def test_of_two_who_act_on_a_rollout_at_once_one_wins_and_the_other_is_told(server: ConsoleServer) -> None:
    server.keys["al"] = create_key(server.store, SYSTEM, "al", ["operate"]).secret
    server.guard.keys = active_keys(server.store)
    roll_out(server)
    seen = live(server.store, "flights")
    fields = {
        "ann": {"action": "rollback", "to": 1, "revision": seen.revision, "reason": "says ann"},
        "al": {"action": "pause", "to": 2, "revision": seen.revision, "reason": "says al"},
    }
    found = raced(server, ROLLOUT, fields)
    if 409 in found:  # paused first, a rollback goes through all the same: it is the safe one
        assert found[409][0] == "al"
        assert re.search(r"rollout\.rolled_back by ann, at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", found[409][1])
        assert "What you wrote: says al" in found[409][1]
    assert live(server.store, "flights").rollout is None
    late = post(server.browser("al"), ROLLOUT, **fields["al"])
    assert (late.status_code, "by ann, at 20" in late.text) == (409, True)


def test_a_rollout_is_begun_paused_and_let_go_on(server: ConsoleServer) -> None:
    approve(server.store, BOB, "flights", 2, "good")
    ann = server.browser("ann")
    page = ann.get(CASE).text
    assert re.findall(r"<option>(\d+)</option>", page) == ["2"]
    refused = post(ann, ROLLOUT, **rolled(server, action="start", version=3, reason="not approved"))
    assert (refused.status_code, "not approved" in refused.text) == (403, True)
    stale = rolled(server, action="start", version=2) | {"revision": 0}
    assert post(ann, ROLLOUT, **stale).status_code == 409
    assert post(ann, ROLLOUT, **rolled(server, action="start", version=2, reason="it is better")).status_code == 303
    begun = read_events(server.store, types=["rollout.started"])[-1]
    assert (begun.actor, begun.reason, begun.subject) == ("ann", "it is better", "flights@2")
    assert "Begin the rollout" not in ann.get(CASE).text
    assert post(ann, ROLLOUT, **rolled(server, action="pause", to=2, reason="wait")).status_code == 303
    page = texts(ann.get(CASE).text)
    assert "❚❚ paused" in page
    assert "Let it go on" in page
    assert post(ann, ROLLOUT, **rolled(server, action="resume", to=2, reason="go")).status_code == 303
    assert live(server.store, "flights").rollout.paused_at is None  # type: ignore[union-attr]
    told = [(one.type, one.reason) for one in read_events(server.store, types=["rollout.paused", "rollout.resumed"])]
    assert told == [("rollout.paused", "wait"), ("rollout.resumed", "go")]


def test_a_new_keys_secret_is_shown_once(server: ConsoleServer) -> None:
    root = server.browser("root")
    fields = {"name": "dora", "role_operate": "1", "role_audit": "1", "use_cases": "flights, trains"}
    until = f"{datetime.now(UTC) + timedelta(days=9):%Y-%m-%dT%H:%M}"
    made = post(root, f"{KEYS}/create", **fields, expires_at=until)
    assert made.status_code == 200, texts(made.text)
    (secret,) = re.findall(r"mlr_[\w-]+", made.text)
    assert made.headers["cache-control"] == "no-store"
    record = next(one for one in list_keys(server.store) if one.principal.name == "dora")
    assert (record.principal.roles, record.principal.use_cases) == (("operate", "audit"), ("flights", "trains"))
    assert f"{record.principal.expires_at:%Y-%m-%dT%H:%M}" == until
    for path in (KEYS, "/console/audit", "/console"):
        assert secret not in root.get(path).text
    assert secret not in json.dumps([one.to_json() for one in read_events(server.store)], default=str)
    server.guard.keys = active_keys(server.store)
    assert server.browser().post("/console/sign-in", data={"key": secret}).status_code == 303
    again = post(root, f"{KEYS}/create", **fields)
    assert (again.status_code, "mlr_" in again.text, 'value="dora"' in again.text) == (400, False, True)
    replaced = post(root, f"{KEYS}/rotate", key=record.principal.id, until=until, reason="yearly")
    assert (replaced.status_code, len(re.findall(r"mlr_[\w-]+", replaced.text))) == (200, 1)
    unknown = post(root, f"{KEYS}/revoke", key="nobody", reason="left us")
    assert (unknown.status_code, "What you wrote: left us" in unknown.text) == (400, True)
    assert post(root, f"{KEYS}/revoke", key="bob", reason="left us").status_code == 303
    assert "bob" not in {one.name for one in active_keys(server.store).values()}


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "x"},
        {"name": "", "role_audit": "1"},
        {"name": "x", "role_audit": "1", "expires_at": "tomorrow"},
        {"name": "x", "role_audit": "1", "expires_at": "2020-01-01T00:00"},
        {"name": "x", "role_audit": "1", "expires_at": "2027-13-41T00:00"},
        {"name": "a/../b", "role_audit": "1"},
        {"name": "x" * 700, "role_audit": "1"},
        {"name": "system", "role_audit": "1"},
        {"name": "x", "role_audit": "1", "person": "nobody of this name"},
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(untouched: ConsoleServer, fields: dict[str, str]) -> None:
    answer = post(untouched.browser("root"), f"{KEYS}/create", **fields)
    assert (answer.status_code, "mlr_" in answer.text) == (400, False)


def test_who_operates_subscribes_tests_pauses_and_ends(server: ConsoleServer) -> None:
    ann = server.browser("ann")
    fields = {"channel": "https://hooks.example.org/a?token=hidden", "use_case": "flights"}
    made = post(
        ann, f"{SUBSCRIPTIONS}/create", **fields, types="alarm.raised, champion.set", minimum_severity="warning"
    )
    assert (made.status_code, "shown once" in made.text) == (200, True), texts(made.text)
    (one,) = list_subscriptions(server.store)
    assert (one.use_case, list(one.types), one.minimum_severity) == (
        "flights",
        ["alarm.raised", "champion.set"],
        "warning",
    )
    page = ann.get(SUBSCRIPTIONS).text
    assert "hooks.example.org" in page
    assert "token=hidden" not in page
    for action, paused in (("pause", True), ("resume", False)):
        assert post(ann, f"{SUBSCRIPTIONS}/change", id=one.id, action=action, reason="holidays").status_code == 303
        assert (list_subscriptions(server.store)[0].paused_at is not None) == paused
    tried = post(ann, f"{SUBSCRIPTIONS}/change", id=one.id, action="test")
    assert (tried.status_code, "did not take the test event" in tried.text) == (200, True)
    assert post(server.browser("foreign"), f"{SUBSCRIPTIONS}/change", id=one.id, action="end").status_code == 403
    assert post(ann, f"{SUBSCRIPTIONS}/change", id=one.id, action="delete").status_code == 400
    assert post(ann, f"{SUBSCRIPTIONS}/change", id=one.id, action="end", reason="moved").status_code == 303
    assert list_subscriptions(server.store) == []
    for channel in ("file:/etc/passwd", "env:HOME"):
        refused = post(ann, f"{SUBSCRIPTIONS}/create", channel=channel)
        assert refused.status_code == 403
    assert post(ann, f"{SUBSCRIPTIONS}/create", channel="http://127.0.0.1:1/x").status_code == 400


def command(server: ConsoleServer, *arguments: str) -> list[str]:
    done = CliRunner().invoke(app, [*arguments, "--state", server.settings.state], catch_exceptions=False)
    return done.stdout.splitlines()


def test_numbers_of_the_audit_log_versions_and_rollouts_are_the_commands(
    server: ConsoleServer,
) -> None:
    """What a person reads, beside what the command prints of the same state."""
    roll_out(server)
    rollout = live(server.store, "flights").rollout
    assert rollout
    advance(server.store, SYSTEM, "flights", rollout, "loaded")
    browser = server.browser("root")
    told = browser.get("/console/audit", params={"use_case": "flights"}).text
    shown = texts(told)
    events = [json.loads(line) for line in command(server, "audit", "show", "--use-case", "flights", "--full")]
    assert len(events) == told.count('<tr><td class="n">')
    for event in events:
        time = event["time"][:16].replace("T", " ")
        assert f"{event['seq']:,} {time} UTC" in shown
        assert f"{event['type']} {event['actor']} {event['subject']}" in shown
    state = status(server)
    page = texts(browser.get(CASE).text)
    running, steps = state["rollout"], state["rollout"]["plan"]["steps"]
    assert f"step {running['step'] + 1} of {len(steps)}, {steps[0]['route']} {100 * steps[0]['share']:.0f} %" in page
    for side in ("champion", "version"):
        counted = state["progress"][side]
        assert f"{side} {counted['requests']:,} {counted['errors']:,}" in page
    listed = command(server, "versions", "list", "flights")
    assert len(listed) == 3
    for line in listed:
        name, registered, author = line.split("  ")[:3]
        number, time = name.partition("@")[2], registered.removesuffix("Z")
        failed = ", ".join(re.findall(r"  failed (.*?)(?:  |$)", line)) or "none"
        assert re.search(rf"version {number} .*? {failed} {author.removeprefix('author ')} {time} UTC", page), line
    keys = texts(browser.get(KEYS).text)
    listed = command(server, "keys", "list")
    assert len(listed) == len(server.keys)
    for line in listed:
        assert line.split("  ")[0] in keys, line


def status(server: ConsoleServer) -> dict[str, Any]:
    """As `mlops-ray rollout status` gets it from the route."""
    api = ServerApi(server.settings, server.store, server.guard, no_models).app
    principal = next(one for one in server.guard.keys.values() if one.name == "root")
    inside = Inside(server.store, server.guard, api)
    body: dict[str, Any] = asyncio.run(inside.ask(principal, "GET", "/rollout", use_case="flights")).body
    return body


def test_begin_rollout_is_no_more_than_the_policy_lets(server: ConsoleServer) -> None:
    approve(server.store, BOB, "flights", 2, "good")
    start_rollout(server.store, ADA, "flights", VersionRef(2, "b" * 64))
    again = post(server.browser("ann"), ROLLOUT, **rolled(server, action="start", version=3, reason="mine"))
    assert (again.status_code, "under way" in again.text) == (409, True)
    assert "rollout.started by ada, at 20" in again.text
