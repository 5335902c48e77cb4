"""What commands share: where state and data are, which moment counts, and how text reaches a terminal.

An option that is given counts most, then its environment variable, then the settings file, then the default.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import ConfigurationError

SETTINGS_FILE = "settings.yaml"
DATA_VARIABLE = "MLOPS_RAY_DATA"
DEFAULT_URL = "http://127.0.0.1:8000"

CaseArgument = Annotated[str, typer.Argument(metavar="USE_CASE", help="A use case's file, or a name in use_cases/.")]
NameArgument = Annotated[str, typer.Argument(metavar="USE_CASE", help="The use case's name.")]
StateOption = Annotated[
    str | None,
    typer.Option(envvar="MLOPS_RAY_STATE", help="Folder of all state. [default: the settings file's, or ./state]"),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        envvar=DATA_VARIABLE, help="Folder or URL of the raw files. [default: the settings file's, or ./data]"
    ),
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        envvar="MLOPS_RAY_SETTINGS",
        help="Settings file (YAML) of this environment. [default: settings.yaml in this folder, if it is there]",
    ),
]
RepoOption = Annotated[str | None, typer.Option(help="Folder of the Feast definitions. [default: beside use_cases/]")]
PortOption = Annotated[int | None, typer.Option(help="HTTP port. [default: the settings file's, or 8000]")]
UrlOption = Annotated[str, typer.Option(envvar="MLOPS_RAY_URL", help="Where the server is.")]
ServerOption = Annotated[
    str | None,
    typer.Option(envvar="MLOPS_RAY_URL", help="The server to ask. [default: none; the control store itself is opened]"),
]
ReasonOption = Annotated[str, typer.Option(help="Why; goes into the audit log.")]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]


def settings_of(
    state: str | None, config: str | None, data: str | None = None, http_port: int | None = None
) -> Settings:
    """The settings of a command. Raises ConfigurationError naming the setting that is wrong.

    Also a command without --data goes by its variable: in a submitted job the default is nowhere.
    """
    data = data or os.environ.get(DATA_VARIABLE)
    defaults = {"state": absolute("state"), "data": absolute("data")}
    return load_settings(
        settings_file(config),
        defaults,
        state=state and absolute(state),
        data=data and absolute(data),
        http_port=http_port,
    )


def settings_file(config: str | None) -> str | None:
    """The settings file that counts: the one that was given, or the one in this folder, if there is one."""
    return config or (SETTINGS_FILE if Path(SETTINGS_FILE).is_file() else None)


def absolute(path: str) -> str:
    """The path made absolute, except in a submitted job, whose folder is Ray's and vanishes; a URL as it is."""
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return path if "://" in path or in_job else str(Path(path).absolute())


def definitions_folder(use_case: str, given: str | None) -> Path:
    """The folder of the Feast definitions that belong to a use case."""
    if given:
        return Path(given).absolute()
    beside = Path(use_case).absolute().parent.parent if use_case.endswith(".py") else Path()
    return (beside / "feature_repo").absolute()


def moment_of(option: str, text: str) -> datetime:
    """An RFC 3339 moment in UTC. Raises ConfigurationError naming the option if it is none, or has no zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{option} {ascii(text)[:60]} is not a moment. Example: 2030-01-01T00:00Z.") from None
    if moment.tzinfo is None:
        raise ConfigurationError(f"{option} {text!r} has no time zone. Add Z for UTC.")
    return moment.astimezone(UTC)


def printable(text: str) -> str:
    """Without what would command the terminal."""
    return "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in text)


def echo_json(found: Any) -> None:
    """What a command found, for programs: moments in RFC 3339, and what is no number as null, as JSON knows no NaN. A
    text cannot command the terminal: all that is not ASCII is escaped."""
    typer.echo(json.dumps(msgspec.json.decode(msgspec.json.encode(found)), indent=2))
