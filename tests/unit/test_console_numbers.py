"""Every number on a page is the one that a command says as JSON."""

import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.governance.channels import Channels
from mlops_ray.governance.events import Actor
from mlops_ray.governance.notifications import subscribe
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import set_policy
from mlops_ray.testing.example_lineage import AUTHOR
from mlops_ray.testing.example_stream import example_stream
from tests.console_data import ingest_twice
from tests.console_server import ConsoleServer, console, roll_out
from tests.unit.test_drift_page import NAME, Watching, moved
from tests.unit.test_lineage import ledger_of, request_at

CASE = "/console/use-cases/flights"
DRIFT = f"/console/use-cases/{NAME}/drift"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleServer]:
    with console(tmp_path_factory.mktemp("state")) as server:
        roll_out(server)
        ada = Actor("ada", ("operate",), id="ada")
        set_policy(server.store, ada, "flights", Policy(), ("quality at least 0.7",), "too slow for us")
        subscribe(server.store, AUTHOR, Channels(), "https://hooks.example.org/x", "flights")
        ingest_twice(server.settings)
        Watching(Path(server.settings.state)).take(moved(example_stream(10, 12), timedelta(days=6)), labelled=3_200)
        yield server


@pytest.fixture(autouse=True)
def key(server: ConsoleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_RAY_API_KEY", server.keys["root"])


def command(server: ConsoleServer, *arguments: str) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--state", server.settings.state], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def page(server: ConsoleServer, path: str) -> str:
    answer = server.browser("root").get(path)
    assert answer.status_code == 200, answer.text
    return answer.text


def words(text: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", text)))


def rows(text: str) -> list[list[str]]:
    """Of all tables of a page, the texts of the cells."""
    found = re.findall(r"<tr.*?</tr>", text, re.S)
    return [[words(cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.S)] for row in found]


def said(text: str) -> str:
    """A text of a command as a page says it."""
    return re.sub(r"\s+", " ", text).strip()


def minute(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M} UTC"


def test_the_overview_is_the_inventory(server: ConsoleServer) -> None:
    shown = {row[0].split(" ")[0]: row for row in rows(page(server, "/console"))}
    for entry in command(server, "inventory", "--json"):
        row = shown[entry["use_case"]]
        assert row[2].removeprefix("▲ ") == str(entry["open_alarms"])
        live = f"version {entry['live_version']} since" if entry["live_version"] else "nothing"
        assert row[1].startswith(live), row
        assert row[6] == f"version {entry['newest_version']}"


def test_a_use_case_is_its_versions_alarms_and_what_was_live(server: ConsoleServer) -> None:
    text = page(server, CASE)
    found = rows(text)
    for one in command(server, "versions", "list", "flights", "--json"):
        cells = next(row for row in found if row[0] == f"version {one['version']}" and len(row) == 6)
        assert cells[3:] == [", ".join(one["failed_gates"]) or "none", one["author"], minute(one["registered_at"])]
    for alarm in command(server, "alarms", "list", "flights", "--all", "--json"):
        assert [alarm["severity"], alarm["title"], str(alarm["version"]), minute(alarm["raised_at"])] in [
            row[1:] for row in found
        ]
    live = command(server, "live", "flights", "--json")
    for one in live["live"]:
        assert [str(one["version"]), one["part"], f"{100 * one['share']:.0f} %", minute(one["since"])] in [
            row[:4] for row in found
        ]


def test_a_version_is_its_card_and_its_approval(server: ConsoleServer) -> None:
    text = page(server, f"{CASE}/versions/2")
    found = rows(text)
    for part in command(server, "versions", "card", "flights@2", "--json")["sections"]:
        for row in part["rows"]:
            assert [words(cell).strip() for cell in row] in found, part["heading"]
        for sentence in (*part["paragraphs"], *part["points"]):
            assert said(sentence) in words(text), sentence
    (asked,) = [
        one for one in command(server, "approvals", "list", "--json", "--url", server.url) if one["version"] == 2
    ]
    assert f"by {asked['decided_by']} at {minute(asked['decided_at'])}" in words(text)


def test_drift_is_drawn_from_what_the_command_says(server: ConsoleServer) -> None:
    said = command(server, "drift", NAME, "--windows", "60", "--json")
    (version,) = said["versions"]
    head = words(page(server, DRIFT))
    assert f"{version['predictions']:,} predictions counted" in head
    assert f"{sum(one['resolved_at'] is None for one in said['alarms'])} alarms stand" in head
    for kind in version["kinds"]:
        here = {"version": version["version"], "windows": kind["windows_of"]}
        found = rows(text := server.browser("root").get(DRIFT, params=here).text)
        assert f"{kind['finished']:,} finished" in words(text)
        for one in kind["quality"]:
            begins = datetime.fromisoformat(one["start"])
            estimated, measured = (_interval(one[name]) for name in ("estimated", "measured"))
            assert any(
                row[0].removeprefix("▲ ") == f"{begins:%Y-%m-%d %H:%M} UTC"
                and row[1:4] == [estimated, measured, f"{one['labels']:,}"]
                for row in found
            ), one
        for one in kind["windows"]:
            cells = [f"{one['rows']:,}", one["data"], one["prediction"], one["concept"]]
            assert cells in [row[1:5] for row in found]
        for feature in kind["features"]:
            drawn = rows(server.browser("root").get(DRIFT, params={**here, "feature": feature["name"]}).text)
            assert len(feature["points"]) == len(drawn) - 1
            for point, row in zip(feature["points"], drawn[1:], strict=True):
                assert row[1] == f"{point['rows']:,}"
                if point["distance"]:
                    assert {f"{point['distance']['value']:.3g}", f"{point['ratio']:.2f}"} <= set(row), (feature, row)


def _interval(one: dict[str, Any]) -> str:
    if one["value"] is None:
        return ""
    return f"{one['value']:.3f}" + ("" if one["low"] is None else f" ({one['low']:.3f} to {one['high']:.3f})")


def test_a_section_of_drift_is_for_who_may_look_and_is_found_or_not(server: ConsoleServer) -> None:
    assert server.browser("foreign").get(DRIFT).status_code == 403
    assert server.browser("foreign").get(DRIFT, params={"feature": "distance"}).status_code == 403
    assert server.browser("root").get("/console/use-cases/..%5c..%5c/drift").status_code == 400
    for wrong in ({"version": "99"}, {"feature": "<b>"}, {"part": "x" * 9_000}, {"windows": "\u202e"}):
        answer = server.browser("root").get(DRIFT, params=wrong)
        assert (answer.status_code, "<b>" in answer.text) == (404, False), wrong
    answer = server.browser("root").get(DRIFT, params={"feature": "distance"})
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert len(answer.headers.get_list("content-security-policy")) == 1


def test_data_are_the_snapshots_that_the_command_lists(server: ConsoleServer) -> None:
    found = rows(page(server, f"{CASE}/data"))
    for one in command(server, "data", "list", "flights", "--json")["snapshots"]:
        cells = [one["digest"][:12], minute(one["as_of"]), f"{one['rows']:,}", f"{one['bytes']:,}"]
        assert cells in [row[:4] for row in found]
        assert minute(one["as_of"]) in words(page(server, f"{CASE}/data/{one['digest']}"))


def test_rules_keys_subscriptions_and_the_audit_log_are_what_the_commands_list(server: ConsoleServer) -> None:
    rules = words(page(server, "/console/rules"))
    for change in command(server, "approvals", "rules", "--json", "--url", server.url):
        assert change["reason"] in rules
        assert minute(change["expires_at"]) in rules
    keys = rows(page(server, "/console/keys"))
    for one in command(server, "keys", "list", "--json"):
        assert any(row[0].startswith(one["name"]) for row in keys), one
    told = words(page(server, "/console/subscriptions"))
    for one in command(server, "notify", "list", "--json"):
        assert one["channel"] in told
    log = rows(page(server, "/console/audit"))
    lines = CliRunner().invoke(app, ["audit", "show", "--json", "--state", server.settings.state]).stdout
    for event in [json.loads(line) for line in lines.splitlines()][-20:]:
        assert any(str(event["seq"]) in row and event["type"] in row for row in log), event


def test_a_prediction_is_what_lineage_says(server: ConsoleServer) -> None:
    asked = request_at()
    ledger_of(server.settings, {"request_id": asked, "version": "1", "latency_s": 0.0123})
    text = words(server.browser("root").get("/console/predictions", params={"request": asked}).text)
    told = command(server, "lineage", asked, "--json")["prediction"]
    assert str(told["latency_s"]) in text
    assert minute(told["time"]) in text
