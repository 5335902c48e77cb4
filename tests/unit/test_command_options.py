"""Every command finds settings, state and data in the same way: option, variable, settings file, default."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.cli.rollout import key_from
from mlops_ray.config import settings_of
from mlops_ray.errors import ConfigurationError

VARIABLES = {
    "state": "MLOPS_RAY_STATE",
    "data": "MLOPS_RAY_DATA",
    "config": "MLOPS_RAY_SETTINGS",
    "url": "MLOPS_RAY_URL",
}
# They ask a server, and take the development key alone from the state folder.
ASKING = {"predict", "versions retire", "mcp"} | {
    f"rollout {name}" for name in ("start", "status", "pause", "resume", "promote", "rollback")
}
ASKING |= {f"approvals {name}" for name in ("list", "request", "approve", "reject", "revoke", "break-glass")}
ASKING |= {f"approvals {name}" for name in ("rules", "approve-rules", "reject-rules", "attach", "report")}
ASKING |= {f"approvals {name}" for name in ("delegations", "delegate", "end-delegation")}
# It works in a folder of its own, whatever state the settings name.
APART = {"ci report"}


def commands(found: Any, *names: str) -> Iterator[tuple[str, Any]]:
    """Each command by its words; typer brings its own click, so nothing is asked for its type."""
    if hasattr(found, "commands"):
        for name, inner in found.commands.items():
            yield from commands(inner, *names, name)
    else:
        yield " ".join(names), found


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_takes_settings_as_every_other_does(name: str) -> None:
    options = {one.name: one for one in COMMANDS[name].params if one.opts[0].startswith("--")}
    if name == "init":  # it makes the settings file, and its --data are files
        return
    for option, variable in VARIABLES.items():
        if option in options:
            assert (options[option].envvar, options[option].opts) == (variable, [f"--{option}"])
            assert options[option].default is None or option == "url", "a default would hide the settings file"
    assert ("state" in options) == ("config" in options) or name in ASKING or name in APART
    assert name not in ASKING or {"state", "url"} <= set(options)
    assert "data" not in options or "config" in options
    assert "port" not in options or options["port"].default is None


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_says_what_it_does_beginning_with_a_verb(name: str) -> None:
    word = (COMMANDS[name].help or "").split()[0]
    assert word not in {"The", "A", "An", "All", "What", "Which", "How", "Who", "Everything", "One"}
    assert not word.endswith("s"), f"{word} is a noun, or tells what it does to somebody else"


def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **environment: str) -> Path:
    """A settings file with a state, data and port of its own, and no variables but those given."""
    for name in VARIABLES.values():
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(f"MLOPS_RAY_{name}", value)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "production.yaml"
    file.write_text(f"state: {tmp_path}/from_file\ndata: s3://bucket/from_file\nhttp_port: 8123\n")
    return file


def test_a_settings_file_counts_unless_an_option_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = str(given(tmp_path, monkeypatch))
    found = settings_of(None, file)
    assert (found.state, found.data, found.http_port) == (f"{tmp_path}/from_file", "s3://bucket/from_file", 8123)
    found = settings_of("other", file, "raw", 8124)
    assert (found.state, found.data, found.http_port) == (f"{tmp_path}/other", f"{tmp_path}/raw", 8124)
    assert settings_of(None, None).state == f"{tmp_path}/state"


@pytest.mark.parametrize(
    ("arguments", "environment", "folder"),
    [
        ([], {}, "state"),
        (["--config", "production.yaml"], {}, "from_file"),
        ([], {"SETTINGS": "production.yaml"}, "from_file"),
        (["--config", "production.yaml"], {"STATE": "from_variable"}, "from_variable"),
        (["--config", "production.yaml", "--state", "from_option"], {"STATE": "from_variable"}, "from_option"),
    ],
)
@pytest.mark.parametrize("command", ["keys list", "audit verify", "notify list", "alarms list x"])
def test_what_is_nearest_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, arguments: list[str], environment: dict[str, str],
    folder: str,
) -> None:  # fmt: skip
    given(tmp_path, monkeypatch, **environment)
    done = CliRunner().invoke(app, [*command.split(), *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [folder]


def test_the_settings_file_of_a_project_counts_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = given(tmp_path, monkeypatch)
    file.rename(tmp_path / "settings.yaml")
    assert settings_of(None, None).state == f"{tmp_path}/from_file"
    assert settings_of("other", None).state == f"{tmp_path}/other"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert settings_of(None, None).state == f"{tmp_path}/elsewhere/state"


def test_the_development_key_is_taken_from_the_same_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLOPS_RAY_API_KEY", raising=False)
    given(tmp_path, monkeypatch, SETTINGS="production.yaml")
    (tmp_path / "from_file").mkdir()
    (tmp_path / "from_file" / "development_key").write_text("secret\n")
    assert key_from(None, "production.yaml") == "secret"
    assert key_from("other", "production.yaml") is None


def test_a_relative_path_in_a_settings_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = given(tmp_path, monkeypatch)
    file.write_text("state: state\n")
    with pytest.raises(ConfigurationError, match="state is the relative path 'state'"):
        settings_of(None, str(file))
