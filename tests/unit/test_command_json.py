"""Every command that prints a result says it to programs, too."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.testing.example_stream import example_stream
from tests.console_server import ConsoleServer, console, roll_out
from tests.unit.test_drift_page import NAME, Watching, moved

# These have no --json, each for its reason. A new command is in none of these, so that it has it or says why not.
JSON_ALREADY = {
    "data erase", "data retire", "data show", "features parity", "features refresh", "features show", "ledger compact",
    "ledger erase", "ledger status", "notify test", "predict", "retraining ask", "retraining run",
}  # fmt: skip
WRITES_A_DOCUMENT = {
    "approvals report", "audit export", "ci report", "contract export", "contract import", "data export",
    "explore propose", "init", "quarantine export", "versions evidence", "versions export",
}  # fmt: skip
FOR_A_SHELL = {"cluster runtime-env", "cluster serve-env", "cluster token"}
GOES_ON = {
    "cluster node", "mcp", "notify run", "retraining rehearse", "retraining replay", "run", "schedule run",
    "schedule start", "score", "serve",
}  # fmt: skip
SAYS_THAT_IT_IS_DONE = {
    "alarms silence", "approvals approve-rules", "approvals attach", "approvals break-glass", "approvals delegate",
    "approvals end-delegation", "approvals reject-rules", "audit anchor", "audit erase", "cost apply", "keys revoke",
    "labels import", "monitoring reference", "monitoring set", "notify pause", "notify resume", "notify unsubscribe",
    "quarantine replay", "review", "schedule backfill", "schedule pause", "schedule remove", "schedule resume",
    "upgrade",
    "versions import", "versions retire",
}  # fmt: skip
WITHOUT = JSON_ALREADY | WRITES_A_DOCUMENT | FOR_A_SHELL | GOES_ON | SAYS_THAT_IT_IS_DONE


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Those without commands of their own, by what is typed."""
    for name, one in getattr(command, "commands", {}).items():
        yield from commands(one, (*path, name))
    if not hasattr(command, "commands"):
        yield " ".join(path), command


def test_every_command_that_prints_a_result_prints_it_as_json() -> None:
    every = dict(commands(typer.main.get_command(app)))
    has = {name for name, one in every.items() if any("--json" in parameter.opts for parameter in one.params)}
    assert set(every) - has == WITHOUT


def test_every_command_that_asks_a_server_takes_the_settings_file_whose_key_it_sends() -> None:
    for name, one in commands(typer.main.get_command(app)):
        options = {option for parameter in one.params for option in parameter.opts}
        assert "--url" not in options or "--config" in options, name


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleServer]:
    with console(tmp_path_factory.mktemp("state")) as server:
        roll_out(server)
        view = Watching(Path(server.settings.state))
        view.take(moved(example_stream(3, 5), timedelta(days=2)), labelled=800)
        yield server


def told(server: ConsoleServer, *arguments: str, code: int = 0) -> Any:
    """What a command says as JSON, which no NaN may be in."""
    result = CliRunner().invoke(app, [*arguments, "--json", "--state", server.settings.state], catch_exceptions=False)
    assert result.exit_code == code, result.output

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(result.stdout, parse_constant=refuse)


def test_json_of_commands_on_the_control_store(server: ConsoleServer) -> None:
    assert {one["version"] for one in told(server, "versions", "list", "flights")} == {1, 2, 3}
    assert next(one for one in told(server, "inventory") if one["use_case"] == "flights")["open_alarms"] == 1
    assert {one["name"] for one in told(server, "keys", "list")} >= {"root", "ann", "bob"}
    (alarm,) = told(server, "alarms", "list", "flights")
    assert told(server, "alarms", "show", "flights", alarm["id"]) == alarm
    assert told(server, "monitoring", "check", "flights", code=1) == [alarm]
    assert told(server, "monitoring", "history", "flights") == []
    assert told(server, "schedule", "list") == told(server, "notify", "list") == told(server, "cost", "budget") == []
    assert told(server, "versions", "card", "flights@2")["title"] == "flights, version 2"
    assert told(server, "audit", "verify")["ok"]
    assert told(server, "audit", "show", "--limit", "1")["type"] == "key.created"


def test_json_of_commands_that_ask_the_server(server: ConsoleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_RAY_API_KEY", server.keys["root"])
    monkeypatch.setenv("MLOPS_RAY_URL", server.url)
    assert told(server, "keys", "create", "dora", "--role", "operate")["key"]["name"] == "dora"
    assert [one["version"] for one in told(server, "approvals", "list")] == [2, 1]
    assert told(server, "approvals", "rules") == told(server, "approvals", "delegations") == []
    asked = told(server, "approvals", "request", "flights", "3")
    assert (asked["version"], asked["state"]) == (3, "requested")
    assert told(server, "approvals", "reject", "flights", "3", "--reason", "worse")["state"] == "rejected"


def test_json_of_drift_has_what_the_page_draws(server: ConsoleServer) -> None:
    found = told(server, "drift", NAME, "--windows", "60")
    kinds = found["versions"][0]["kinds"]
    assert len(kinds) == 2
    distance = next(one for one in kinds[0]["features"] if one["name"] == "distance")
    assert distance["drifts"]
    assert distance["points"][-1]["ratio"] > 1
    assert all(one["resolved_at"] is None for one in found["alarms"])


def test_json_of_rollouts_is_what_the_server_answers(server: ConsoleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"changed": False, "champion": {"version": 1}, "revision": 7}

    class Answering:
        def __enter__(self) -> "Answering":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        rollouts = property(lambda self: self)
        status = start = pause = resume = promote = roll_back = lambda self, *_: said

    monkeypatch.setattr("mlops_ray.cli.rollout.server", lambda *_: Answering())
    assert told(server, "rollout", "status", "flights") == said
    for name in ("pause", "resume", "promote", "rollback"):
        assert told(server, "rollout", name, "flights", "--to", "2", "--reason", "why") == said
    assert told(server, "rollout", "start", "flights", "2") == said
