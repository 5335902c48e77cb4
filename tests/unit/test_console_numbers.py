"""Every number on a page is the one that a command says as JSON."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.governance.budgets import Budget, set_budget
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.channels import Channels
from mlops_ray.governance.events import SYSTEM, Actor
from mlops_ray.governance.live import VersionRef, live
from mlops_ray.governance.notifications import subscribe
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import set_policy
from mlops_ray.governance.replicas import Replica, report
from mlops_ray.governance.requests import Requests
from mlops_ray.governance.retrainings import FINISHED, Entry, record_next
from mlops_ray.governance.rollouts import advance
from mlops_ray.governance.usage import now
from mlops_ray.registry.trace import trace
from mlops_ray.registry.trace_page import lineage_graph
from mlops_ray.serving.counters import Counts
from mlops_ray.serving.rollout import step_key
from mlops_ray.show.text import figures
from mlops_ray.testing.example_lineage import AUTHOR, example_lineage, register_example
from mlops_ray.testing.example_stream import example_stream
from tests.console_data import ingest_twice
from tests.console_server import ConsoleServer, console, roll_out, whole
from tests.unit.test_console_cost import EUR, used
from tests.unit.test_console_cost import answered as costs
from tests.unit.test_drift_page import NAME, Watching, moved
from tests.unit.test_lineage import ledger_of, request_at

CASE = "/console/use-cases/flights"
DRIFT = f"/console/use-cases/{NAME}/drift"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleServer]:
    with console(tmp_path_factory.mktemp("state"), prices=EUR) as server:
        count_a_step(server)
        used(server, "run-a", 3.0)
        used(server, "run-b", 4.0, "failed")
        costs(server)
        set_budget(server.store, AUTHOR, Budget("flights", "", 4.0, "EUR"), "plan")
        retrain(server)
        ada = Actor("ada", ("operate",), id="ada")
        set_policy(server.store, ada, "flights", Policy(), ("quality at least 0.7",), "too slow for us")
        subscribe(server.store, AUTHOR, Channels(), "https://hooks.example.org/x", "flights")
        ingest_twice(server.settings)
        watching = Watching(Path(server.settings.state))
        watching.take(moved(example_stream(10, 12), timedelta(days=6)), labelled=3_200)
        watching.watch.round(datetime.now(UTC), ["7"], {"a": Requests(answered=1_200, failed=3, refused=2)})
        register_example(server.settings, server.store, example_lineage(NAME, "e" * 64), 7)
        set_champion(server.store, AUTHOR, NAME, VersionRef(7, "e" * 64), "first")
        yield server


def count_a_step(server: ConsoleServer) -> None:
    """The first step of a rollout of version 2 has been asked, and a replica cannot load it."""
    roll_out(server)
    rollout = live(server.store, "flights").rollout
    assert rollout
    rollout = advance(server.store, SYSTEM, "flights", rollout, "loaded").rollout
    assert rollout
    sides = {"champion": Counts(), "version": Counts(difference=1.25, compared=50)}
    for number, one in enumerate(sides.values()):
        for request in range(1_500):
            one.answered(0.001 * (1 + number) + request / 1e6)
    sides["version"].failed()
    ref = {number: VersionRef(number, "ab"[number - 1] * 64) for number in (1, 2)}
    counters = {side: one.to_json() for side, one in sides.items()}
    said = Replica("r1", "n1", 2, (ref[1], ref[2]), serving=ref[1], step=step_key(rollout), counters=counters)
    report(server.store, "flights", said)
    report(server.store, "flights", Replica("r2", "n2", 2, (ref[1],), failed={ref[2]: "no memory"}, serving=ref[1]))


def retrain(server: ConsoleServer) -> None:
    said = {"outcome": "better", "at": datetime.now(UTC).isoformat(), "order": {"id": "r1"}}
    record_next(server.store, SYSTEM, "flights", lambda _: Entry(FINISHED, "retraining flights", "It won.", said))


@pytest.fixture(autouse=True)
def key(server: ConsoleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_RAY_API_KEY", server.keys["root"])


def command(server: ConsoleServer, *arguments: str) -> Any:
    file = Path(server.settings.state) / "prices.yaml"
    file.write_text(f"prices: {json.dumps(EUR.model_dump(exclude_none=True))}\n")
    told = [*arguments, "--state", server.settings.state, "--config", str(file)]
    result = CliRunner().invoke(app, told, catch_exceptions=False)
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


def table(text: str, label: str) -> list[list[str]]:
    """The rows of the table that is called so, without its head."""
    found = re.search(rf'aria-label(?:ledby)?="{label}">\n*<table.*?</table>', text, re.S)
    assert found, label
    return rows(found[0].partition("<tbody>")[2])


def facts(text: str) -> dict[str, str]:
    found = re.findall(r"<dt>(.*?)</dt><dd[^>]*>(.*?)</dd>", text, re.S)
    return {words(name).strip(): words(value).strip() for name, value in found}


def traffic_and_quality(told: dict[str, Any], now: datetime) -> tuple[str, str]:
    """As a page says them of what `drift --json` tells of the only version."""
    hours = [one for one in told["requests"] if datetime.fromisoformat(one["start"]) > now - timedelta(hours=25)]
    asked = sum(one["requests"][name] for one in hours for name in ("answered", "failed", "refused"))
    (version,) = told["versions"]
    quality = [version["quality"][name] for name in ("estimated", "measured")]
    asked_words = f"{asked:,}" if told["requests"] else "not reported"
    return asked_words, " ".join(f"{said(one['text'])} window to {minute(one['end'])}" for one in quality)


def test_every_cell_of_the_overview_is_a_commands(server: ConsoleServer) -> None:
    text, month = whole(server.browser("root"), "/console").text, f"{now(server.store):%Y-%m}"
    shown = {row[0].split(" ")[0]: row for row in table(text, "cases")}
    asked = command(server, "approvals", "list", "--json", "--url", server.url)
    (budget,) = command(server, "cost", "budget", "--json")
    spent = f"{month}: {figures(budget['spent'])} of {figures(budget['amount'])} EUR ▲ nearly spent"
    for entry in command(server, "inventory", "--json"):
        name, live = entry["use_case"], "nothing"
        if entry["live_version"]:
            approval = entry["approval"] or "none asked"
            live = f"version {entry['live_version']} since {minute(entry['live_since'])} ; approval: {approval}"
        waits = sum(one["use_case"] == name and one["state"] == "requested" for one in asked)
        counted = ("not reported", "no window yet")
        if name == NAME:
            counted = traffic_and_quality(command(server, "drift", NAME, "--json"), datetime.now(UTC))
        assert shown.pop(name) == [
            " ".join(part for part in (name, entry["purpose"], spent if name == budget["use_case"] else "") if part),
            live, f"▲ {entry['open_alarms']}" if entry["open_alarms"] else "0", f"● {waits}" if waits else "0",
            *counted, f"version {entry['newest_version']}", entry["owner"] or "none named", "none declared",
        ]  # fmt: skip
    assert shown == {}


def test_traffic_and_quality_of_a_use_case_are_what_drift_says(server: ConsoleServer) -> None:
    said = facts(whole(server.browser("root"), f"/console/use-cases/{NAME}").text)
    told = command(server, "drift", NAME, "--json")
    asked, quality = traffic_and_quality(told, datetime.now(UTC))
    (version,) = told["versions"]
    assert said["asked in a day"] == asked == "1,205"
    assert said["predictions of the live version"] == f"{version['predictions']:,}"
    assert said["quality"] == quality


def test_a_rollout_is_counted_as_its_status_says(server: ConsoleServer) -> None:
    text, told = page(server, CASE), command(server, "rollout", "status", "flights", "--json", "--url", server.url)
    running, progress = told["rollout"], told["progress"]
    step, steps = running["plan"]["steps"][running["step"]], running["plan"]["steps"]
    said = words(text)
    assert f"Version {running['version']['version']} since {minute(running['started_at'])} :" in said
    at = f"step {running['step'] + 1} of {len(steps)}, {step['route']} {100 * step['share']:.0f} %, since"
    assert f"{at} {minute(running['step_since'])}" in said
    wanted = [f"{one['route']} {100 * one['share']:.0f} % for {one['hold_s']:g} s" for one in steps]
    (listed,) = re.findall(r'<ol class="steps">(.*?)</ol>', text, re.S)
    assert [words(one).strip() for one in re.findall(r"<li.*?</li>", listed, re.S)] == wanted
    counted = rows(text.partition("<caption>Counted in this step")[2].partition("</table>")[0])[1:]
    assert progress["version"]["requests"] > progress["version"]["errors"] > 0
    assert counted == [
        [side, f"{one['requests']:,}", f"{one['errors']:,}", f"{1000 * one['median_s']:.1f} ms"]
        for side in ("champion", "version")
        for one in [progress[side]]
    ]
    assert f"Answers differ by {progress['mean_difference']:.4f} on average." in said
    for one, row in zip(told["replicas"], table(text, "Replicas"), strict=True):
        failed = " ".join(f"{version}: {why}" for version, why in one["failed"].items())
        assert row[:4] == [one["id"], str(one["serving"] or ""), ", ".join(map(str, one["loaded"])), failed]
        assert abs(int(row[4].removesuffix(" s ago")) - one["silent_s"]) < 30


def test_every_cell_of_cost_is_what_cost_show_says(server: ConsoleServer) -> None:
    text, month = whole(server.browser("root"), CASE).text, f"{now(server.store):%Y-%m}"
    for by, label in (("step", "Cost by step"), ("prediction", "Cost of answers by version")):
        assert table(text, label) == [cost_row(one) for one in cost_of(server, by, month)]
    runs = cost_of(server, "run", month)[::-1]
    states = {"failed": "▲ failed", "running": "● runs", "ended": "ended"}
    assert {one["state"] for one in runs} == {"ended", "failed"}
    assert table(text, "The latest runs") == [
        [one["name"], states[one["state"]], minute(one["seen_at"]), money(one["cost"]), hours(one["used"])]
        for one in runs
    ]
    said = facts(text)
    (whole_month,) = cost_of(server, "use-case", month)
    assert said[f"{month} so far, UTC"] == money(whole_month["cost"])
    (budget,) = command(server, "cost", "budget", "flights", "--json")
    against = f"{figures(budget['spent'])} of {figures(budget['amount'])} EUR ▲ nearly spent"
    assert said["against its budget"] == against
    next_ = command(server, "cost", "estimate", "flights", "--json")["estimate"]
    assert said["the next run"].startswith(f"{figures(next_['cost']['middle'], 3)} EUR")
    assert f"{figures(next_['cpu_s']['middle'], 3)} CPU seconds" in said["the next run"]
    assert f"from {next_['runs']} earlier run" in said["the next run"]


def cost_of(server: ConsoleServer, by: str, month: str) -> list[dict[str, Any]]:
    told = command(server, "cost", "show", "flights", "--by", by, "--month", month, "--json")
    found: list[dict[str, Any]] = told["lines"]
    return found


def money(cost: dict[str, Any]) -> str:
    return " + ".join(f"{figures(value)} {name}" for name, value in cost["amounts"].items())


def hours(used: dict[str, Any]) -> str:
    return f"{used.get('cpu_s', 0) / 3600:.4f}"


def cost_row(one: dict[str, Any]) -> list[str]:
    used = one["used"]
    each = [money(one["per_thousand"]), f"{used['predictions']:,}"] if "per_thousand" in one else []
    memory, peak = used.get("byte_s", 0) / 3.6e12, used.get("peak_bytes", 0) / 1e9
    return [
        one["name"],
        money(one["cost"]),
        *each,
        hours(used),
        f"{memory:.4f}",
        f"{peak:.2f}",
        f"{used['wall_s']:,.1f}",
    ]


def test_retrainings_are_the_events_of_the_audit_log(server: ConsoleServer) -> None:
    (listed,) = re.findall(r'<h2 id="retrainings">.*?<ul class="events">(.*?)</ul>', page(server, CASE), re.S)
    types = ("--type", "retraining.decided", "--type", "retraining.finished")
    lines = (
        CliRunner()
        .invoke(app, ["audit", "show", "--json", "--use-case", "flights", *types, "--state", server.settings.state])
        .stdout
    )
    events = [json.loads(line) for line in lines.splitlines()][::-1]
    assert [one["type"] for one in events] == ["retraining.finished", "retraining.decided"]
    found = [words(one).strip() for one in re.findall(r"<li>.*?</li>", listed, re.S)]
    what = ["ended: better", "begun"]
    assert found == [
        f"{did} {minute(one['time'])} by {one['actor']} {one['reason']}" for did, one in zip(what, events, strict=True)
    ]


def test_a_use_case_is_its_versions_alarms_and_what_was_live(server: ConsoleServer) -> None:
    text = page(server, CASE)
    states = {1: "✓ champion", 2: "● in a rollout"}
    asked = {}
    for one in command(server, "approvals", "list", "--json", "--url", server.url):
        asked.setdefault(one["version"], one["state"])
    assert table(text, "versions") == [
        [
            f"version {(number := one['version'])}", states.get(number, "not live"), asked.get(number, "none asked"),
            ", ".join(one["failed_gates"]) or "none", one["author"], minute(one["registered_at"]),
        ]
        for one in command(server, "versions", "list", "flights", "--json")[::-1]
    ]  # fmt: skip
    assert table(text, "alarms") == [
        ["▲ open", alarm["severity"], alarm["title"], str(alarm["version"]), minute(alarm["raised_at"])]
        for alarm in command(server, "alarms", "list", "flights", "--all", "--json")
    ]
    assert table(text, "What served when, as a table") == [
        [
            str(one["version"]), one["part"], f"{100 * one['share']:.0f} %", minute(one["since"]),
            minute(one["until"]) if one["until"] else "now",
            f"{one['event']} by {one['actor']}" + (f": {one['reason']}" if one["reason"] else ""),
        ]
        for one in command(server, "live", "flights", "--json")["history"][::-1]
    ]  # fmt: skip


def test_a_version_is_its_card_and_its_approval(server: ConsoleServer) -> None:
    text = page(server, f"{CASE}/versions/2")
    found = rows(text)
    for part in command(server, "versions", "card", "flights@2", "--json")["sections"]:
        moments = {at for at, head in enumerate(part["head"]) if "(UTC)" in head}
        for row in part["rows"]:
            cells = [f"{cell[:16]} UTC" if at in moments and cell != "now" else cell for at, cell in enumerate(row)]
            assert [words(cell).strip() for cell in cells] in found, part["heading"]
        for sentence in (*part["paragraphs"], *part["points"]):
            assert said(sentence) in words(text), sentence
    (asked,) = [
        one for one in command(server, "approvals", "list", "--json", "--url", server.url) if one["version"] == 2
    ]
    assert f"by {asked['decided_by']} at {minute(asked['decided_at'])}" in words(text)


def test_a_leaderboard_and_the_charts_of_a_version_are_those_of_the_commands(server: ConsoleServer) -> None:
    measured = {"size_bytes": 1_234_567, "row_ms": 0.0421, "batch_ms": 3.21, "pareto": True, "chosen": True}
    unmeasured = dict.fromkeys(("size_bytes", "row_ms", "batch_ms")) | {"pareto": False, "chosen": False}
    trials = [
        {"trial_id": "gradient_boosting-000", "candidate": "gradient_boosting", "value": 0.71234} | measured,
        {"trial_id": "gradient_boosting-001", "candidate": "gradient_boosting", "value": 0.7} | unmeasured,
    ]
    made = example_lineage(digest="9" * 64, search={"leaderboard": trials})
    bins = [{"rows": 100, "probability": 0.1 * k, "observed": 0.09 * k} for k in range(8)]
    made = replace(made, evaluation={**made.evaluation, "reliability": bins})
    register_example(server.settings, server.store, made, 9)
    text = page(server, f"{CASE}/versions/9")
    assert table(text, "leaderboard") == [
        [one["trial_id"], f"{one['value']:.4f}"]
        + ([f"{one['row_ms']:.3f} ms", f"{one['batch_ms']:.1f} ms", f"{one['size_bytes'] / 1e6:.2f} MB", "✓ chosen"]
           if one["size_bytes"] else ["not exported", "", "", ""])
        for one in command(server, "versions", "leaderboard", "flights@9", "--json")
    ]  # fmt: skip
    report = (
        CliRunner().invoke(app, ["versions", "card", "flights@9", "--html", "--state", server.settings.state]).stdout
    )
    charts = re.findall(r"<svg.*?</svg>", report, re.S)
    assert charts
    assert all(one in text for one in charts)
    assert lineage_graph(trace(server.settings, "flights@9")) in text  # as a notebook draws it


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
    found = rows(whole(server.browser("root"), f"{CASE}/data").text)
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
