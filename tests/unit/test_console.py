"""What the console lets people see and do, and what it keeps strangers' pages from doing in their name."""

import html
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.console.sessions import IDLE_S, LONGEST_S, MAX_OF_ONE, Sessions
from mlops_ray.errors import UnavailableError
from mlops_ray.governance.alarms import alarms_of
from mlops_ray.governance.approvals import list_approvals
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.events import SYSTEM, read_events
from mlops_ray.governance.keys import active_keys, create_key
from mlops_ray.governance.live import live
from mlops_ray.governance.principals import Principal
from mlops_ray.governance.versions import VersionRef
from mlops_ray.testing.example_lineage import AUTHOR, example_lineage, register_example
from mlops_ray.testing.example_stream import example_stream
from tests.console_server import HOSTILE, ConsoleServer, console, roll_out
from tests.unit.test_drift_page import NAME, Watching
from tests.unit.test_lineage import ledger_of, request_at

PAGES = ("/console", "/console/use-cases/flights", "/console/use-cases/flights/versions/2", "/console/audit")
CASE, VERSION = PAGES[1], PAGES[2]
DECISION, ROLLOUT = f"{VERSION}/decision", f"{CASE}/rollout"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ConsoleServer]:
    with console(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleServer]:
    """One for all tests that must not change anything."""
    with console(tmp_path_factory.mktemp("state")) as server:
        before = len(read_events(server.store))
        yield server
        assert len(read_events(server.store)) == before


def token_on(browser: httpx.Client, page: str = "/console") -> str:
    found = re.search(r'name="form_token" value="([\w-]+)"', browser.get(page).text)
    assert found
    return found[1]


def post(browser: httpx.Client, path: str, **fields: Any) -> httpx.Response:
    return browser.post(path, data={"form_token": token_on(browser), **fields})


def rolled(server: ConsoleServer, **fields: Any) -> dict[str, Any]:
    return {"revision": live(server.store, "flights").revision, "reason": "why", **fields}


def states(server: ConsoleServer) -> dict[int, str]:
    return {one.version: one.state for one in reversed(list_approvals(server.store, "flights"))}


def test_the_cookie_is_for_the_browser_alone_and_says_nothing(untouched: ConsoleServer) -> None:
    browser = untouched.browser()
    cookie = browser.post("/console/sign-in", data={"key": untouched.keys["bob"]}).headers["set-cookie"]
    assert {"HttpOnly", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))
    assert untouched.keys["bob"] not in cookie
    assert "bob" not in cookie


def test_where_others_reach_the_server_the_cookie_goes_over_https_alone(tmp_path: Path) -> None:
    with console(tmp_path, public=True) as server:
        cookie = server.browser().post("/console/sign-in", data={"key": server.keys["bob"]}).headers["set-cookie"]
        assert cookie.startswith("__Host-")
        assert "Secure" in cookie.split("; ")


def test_behind_a_front_end_that_speaks_https_the_cookie_goes_over_https_alone(untouched: ConsoleServer) -> None:
    browser = untouched.browser(**{"x-forwarded-proto": "https"})
    cookie = browser.post("/console/sign-in", data={"key": untouched.keys["bob"]}).headers["set-cookie"]
    assert cookie.startswith("__Host-")
    assert "Secure" in cookie.split("; ")


def test_a_wrong_key_begins_no_session(untouched: ConsoleServer) -> None:
    for key in ("", "mlr_wrong", "\u202e", "x" * 9_000):
        answer = untouched.browser().post("/console/sign-in", data={"key": key})
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False), key


def test_a_session_ends_with_its_key_and_with_signing_out(server: ConsoleServer) -> None:
    bob, carol = server.browser("bob"), server.browser("carol")
    token, carols = token_on(bob), carol.cookies["mlops_ray"]
    server.revoke("bob")
    assert bob.get("/console").headers["location"].startswith("/console/sign-in?")
    refused = bob.post(DECISION, data={"form_token": token, "verdict": "approve", "reason": "late"})
    assert (refused.status_code, states(server)[2]) == (401, "requested")
    assert "What you wrote: late" in refused.text  # so that nobody writes it twice
    assert post(carol, "/console/sign-out").status_code == 303
    carol.cookies.set("mlops_ray", carols or "")
    assert carol.get("/console").status_code == 303


def test_a_browser_that_keeps_no_cookie_is_told_so(untouched: ConsoleServer) -> None:
    browser = untouched.browser()
    to = browser.post("/console/sign-in", data={"key": untouched.keys["bob"]}).headers["location"]
    assert "kept no cookie" in untouched.browser().get(to).text
    assert browser.get(to).headers["location"] == "/console"


def test_a_link_that_was_sent_is_opened_after_signing_in(untouched: ConsoleServer) -> None:
    browser = untouched.browser()
    link = "/console/audit?use_case=flights&type=&subject=flights%402"
    form = browser.get(browser.get(link).headers["location"])
    to = re.search(r'name="next" value="([^"]*)"', form.text)
    assert to
    kept = browser.post("/console/sign-in", data={"key": untouched.keys["audrey"], "next": to[1].replace("&amp;", "&")})
    assert browser.get(kept.headers["location"]).headers["location"] == link


@pytest.mark.parametrize("who", ["root", "ann", "bob", "audrey", "eve", "foreign"])
def test_the_overview_has_what_the_api_lets_one_see(untouched: ConsoleServer, who: str) -> None:
    overview = untouched.browser(who).get("/console").text
    assert ("flights" in overview) == (who in ("root", "ann", "bob", "audrey"))
    assert ("trains" in overview) == (who != "eve")


def test_a_person_approves_exactly_what_they_looked_at(server: ConsoleServer) -> None:
    bob = server.browser("bob")
    page = bob.get(VERSION).text
    digest = re.search(r'name="digest" value="(\w+)"', page)
    assert digest
    assert digest[1] == "b" * 64
    fields = {"verdict": "approve", "reason": "better on slices"}
    assert post(bob, DECISION, **fields, digest="f" * 64).status_code == 409
    assert post(bob, DECISION, **fields, digest=digest[1], condition="until March").status_code == 303
    after = bob.get(VERSION).text
    assert "✓ approved" in after
    assert "better on slices" in after
    assert "Condition: until March" in after


def test_an_author_is_told_that_somebody_else_has_to_approve(server: ConsoleServer) -> None:
    server.keys["ada"] = create_key(server.store, SYSTEM, "ada", ["operate", "approve"]).secret
    server.guard.keys = active_keys(server.store)
    ada = server.browser("ada")
    duties = re.findall(r"<li[ >].*?</li>", ada.get("/console").text, re.S)
    assert ["you can act" in duty for duty in duties if "Approve or reject" in duty] == [False]
    assert "waits for anybody with the role approve, but not ada" in ada.get(VERSION).text
    refused = post(ada, DECISION, verdict="approve", reason="mine", digest="b" * 64)
    assert (refused.status_code, states(server)[2]) == (403, "requested")
    assert "Somebody else has to approve" in refused.text


def test_a_rejection_needs_a_reason_and_keeps_what_was_written(server: ConsoleServer) -> None:
    bob = server.browser("bob")
    refused = post(bob, DECISION, verdict="reject", reason=" ", condition="kept words")
    assert (refused.status_code, states(server)[2]) == (400, "requested")
    assert 'value="kept words"' in refused.text
    assert post(bob, DECISION, verdict="reject", reason="worse at night", digest="b" * 64).status_code == 303
    assert (states(server)[2], "worse at night" in bob.get(VERSION).text) == ("rejected", True)


def test_of_two_who_decide_at_once_one_wins_and_the_other_is_told_who_and_when(server: ConsoleServer) -> None:
    both = {name: server.browser(name) for name in ("bob", "carol")}
    tokens = {name: token_on(browser) for name, browser in both.items()}
    verdicts = {"bob": "approve", "carol": "reject"}
    answers: dict[str, httpx.Response] = {}
    start = threading.Barrier(2)

    def decide(name: str) -> None:
        fields = {"form_token": tokens[name], "verdict": verdicts[name], "reason": f"says {name}", "digest": "b" * 64}
        start.wait()
        answers[name] = both[name].post(DECISION, data=fields)

    threads = [threading.Thread(target=decide, args=(name,)) for name in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    by_status = {answer.status_code: name for name, answer in answers.items()}
    assert set(by_status) == {303, 409}
    won, lost = by_status[303], by_status[409]
    decided = list_approvals(server.store, "flights")[0]
    assert decided.decided_by == won
    told = answers[lost].text
    assert re.search(rf"is (approved|rejected) by {won} already, at \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC", told)
    assert f"What you wrote: says {lost}" in told


def test_who_operates_rolls_back_and_promotes_on_what_they_saw(server: ConsoleServer) -> None:
    ann = server.browser("ann")
    roll_out(server)
    page = ann.get(CASE).text
    assert "replicas load it" in page
    assert "Roll back to version 1" in page
    stale = rolled(server, action="rollback", to=1) | {"revision": 0}
    assert post(ann, ROLLOUT, **stale).status_code == 409
    loading = post(ann, ROLLOUT, **rolled(server, action="promote", to=2))
    assert (loading.status_code, "not loaded by every replica" in loading.text) == (409, True)
    assert post(ann, ROLLOUT, **rolled(server, action="rollback", to=1)).status_code == 303
    assert live(server.store, "flights").rollout is None
    assert read_events(server.store, types=["rollout.rolled_back"])[-1].actor == "ann"


def test_who_operates_silences_an_alarm_for_a_time_and_says_why(server: ConsoleServer) -> None:
    ann, path = server.browser("ann"), f"{CASE}/alarms/silence"
    fields = {"alarm": "a1b2c3", "hours": "24", "reason": "strike at EWR"}
    assert post(server.browser("bob"), path, **fields).status_code == 403
    assert post(ann, path, **fields | {"reason": " "}).status_code == 400
    assert post(ann, path, **fields | {"hours": "25"}).status_code == 400
    assert post(ann, path, **fields | {"alarm": ""}).status_code == 400
    assert alarms_of(server.store, "flights")[0].silenced_until is None
    assert post(ann, path, **fields).status_code == 303
    assert "strike at EWR" in ann.get(CASE).text
    assert "▲ 1" not in ann.get("/console").text
    silenced = read_events(server.store, types=["alarm.silenced"])[-1]
    assert (silenced.actor, silenced.reason) == ("ann", "strike at EWR")


@pytest.mark.parametrize("fields", [{"action": "drop"}, {"action": "promote", "to": "x"}, {"to": "9" * 30}, {}])
def test_a_form_that_makes_no_sense_is_refused(untouched: ConsoleServer, fields: dict[str, Any]) -> None:
    given = {"action": "rollback", "to": "1", "revision": "", "reason": "r"} | fields
    assert post(untouched.browser("ann"), ROLLOUT, **given).status_code == 400


def test_the_audit_log_is_filtered_paged_and_verified(server: ConsoleServer) -> None:
    audrey = server.browser("audrey")
    shown = audrey.get("/console/audit", params={"use_case": "flights", "type": "approval.requested"}).text
    assert shown.count("<td>approval.requested</td>") == 2
    assert "<td>key.created</td>" not in shown
    assert "version.registered" in audrey.get("/console/audit", params={"subject": "flights@2"}).text
    assert audrey.get("/console/audit", params={"subject": "x" * 601}).status_code == 400
    assert "Nobody has had the chain verified" in shown
    assert post(audrey, "/console/audit/verification").status_code == 303
    for _ in range(200):
        if "● runs" not in (told := audrey.get("/console/audit").text):
            break
    assert "✓ intact" in told


@pytest.mark.parametrize(
    "path", ["/console/use-cases/..%2f..", "/console/use-cases/flights/versions/99999999999999999999"]
)
def test_what_is_not_there_is_not_found(untouched: ConsoleServer, path: str) -> None:
    assert untouched.browser("root").get(path).status_code == 404


def test_traffic_and_quality_are_what_the_drift_command_says(server: ConsoleServer) -> None:
    view = Watching(Path(server.settings.state))
    view.take(example_stream(10, 12), labelled=2_000)
    register_example(server.settings, server.store, example_lineage(NAME, "e" * 64), 7)
    set_champion(server.store, AUTHOR, NAME, VersionRef(7, "e" * 64), "first")
    told = CliRunner().invoke(app, ["drift", NAME, "--state", server.settings.state, "--windows", "100"]).output
    counted, qualities = (
        re.findall(r"Version 7: ([\d,]+) predictions", told),
        re.findall(r"Quality: (.*)\.$", told, re.M),
    )
    browser = server.browser("root")
    for path in (f"/console/use-cases/{NAME}", "/console"):
        for _ in range(200):
            page = html.unescape(browser.get(path).text)
            if "being read" not in page:
                break
        said = [one.split("; ") for one in qualities]
        assert any(estimated in page for estimated, _ in said if "estimated" in estimated), told
        measured = [one for _, one in said if one.startswith("measured")]
        assert measured
        assert any(one in page for one in measured), (page, told)
        assert f">{counted[0]}<" in page or path == "/console"


def test_a_prediction_is_found_by_its_id_by_who_may_see_it(server: ConsoleServer) -> None:
    settings = server.settings
    asked = request_at()
    ledger_of(settings, {"request_id": asked, "version": "1", "latency_s": 0.0123})
    page = server.browser("ann").get("/console/predictions", params={"request": asked})
    assert page.status_code == 200, page.text
    assert 'href="/console/use-cases/flights/versions/1"' in page.text
    told = CliRunner().invoke(app, ["lineage", asked, "--json", "--state", settings.state]).output
    assert str(json.loads(told)["prediction"]["latency_s"]) in page.text
    for who, status in (("eve", 403), ("foreign", 400)):
        assert server.browser(who).get("/console/predictions", params={"request": asked}).status_code == status
    for name in ("flights", "flights@1", HOSTILE, "0" * 3_000):
        answer = server.browser("ann").get("/console/predictions", params={"request": name})
        assert (answer.status_code, "<img" in answer.text) == (400, False)


def test_a_damaged_record_is_said_and_the_rest_of_the_page_is_there(server: ConsoleServer) -> None:
    for file in Path(server.settings.state).rglob("lineage/flights/*.json"):
        file.write_text("{}")
    page = server.browser("bob").get(VERSION)
    assert page.status_code == 200
    assert "its record cannot be read" in page.text
    assert "Approve version 2" in page.text


def test_a_page_weighs_little_and_its_bundle_is_kept(untouched: ConsoleServer) -> None:
    browser = untouched.browser("root")
    assert all(len(browser.get(path).content) < 300_000 for path in PAGES)
    for path in re.findall(r'(?:href|src)="(/console/static/[^"]+)"', browser.get("/console").text):
        answer = untouched.browser().get(path)
        assert (answer.status_code, "immutable" in answer.headers["cache-control"]) == (200, True), path
    assert untouched.browser().get("/console/static/..%2fapplication.py").status_code == 404


def test_a_session_lasts_so_long_and_one_person_has_so_many() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    bob = Principal("1", "bob", ("approve",))
    tokens = [sessions.begin(bob) for _ in range(MAX_OF_ONE + 1)]
    assert [sessions.find(token) is None for token in tokens[:2]] == [True, False]
    for _ in range(int(LONGEST_S / IDLE_S) * 2):
        now[0] += IDLE_S / 2
        alive = sessions.find(tokens[-1])
    assert alive is None
    idle = sessions.begin(bob)
    now[0] += IDLE_S / 2
    assert sessions.find(idle, by_person=False) is not None  # an overview that was left open
    now[0] += IDLE_S / 2
    assert sessions.find(idle) is None


def test_no_page_tells_of_the_machine(server: ConsoleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise UnavailableError("The control store is down: postgresql://mlops:secret@10.0.0.7/control")

    monkeypatch.setattr("mlops_ray.console.application.overview", fail)
    page = server.browser("bob").get("/console")
    assert (page.status_code, "secret" in page.text, "10.0.0.7" in page.text) == (503, False, False)
    monkeypatch.setattr("mlops_ray.console.application.overview", lambda *_: 1 / 0)
    page = server.browser("bob").get("/console")
    assert (page.status_code, "division" in page.text) == (500, False)
