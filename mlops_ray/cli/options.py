"""What commands share: where state and data are, which moment counts, and how JSON is printed.

An option that is given counts most, then its environment variable, then the settings file, then the default.
"""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer

from mlops_ray.config import DATA_VARIABLE
from mlops_ray.errors import ConfigurationError

DEFAULT_URL = "http://127.0.0.1:8000"
YEARS = range(1970, 2201)
"""In which moments and months lie that a command is given."""

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


def moment_of(option: str, text: str) -> datetime:
    """An RFC 3339 moment in UTC. Raises ConfigurationError naming the option if it is none, or has no zone, or lies
    outside YEARS."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{option} {ascii(text)[:60]} is not a moment. Example: 2030-01-01T00:00Z.") from None
    if moment.tzinfo is None:
        raise ConfigurationError(f"{option} {text!r} has no time zone. Add Z for UTC.")
    expect_year(option, text, moment.year)
    return moment.astimezone(UTC)


def expect_year(option: str, text: str, year: int) -> None:
    """Raises ConfigurationError naming the option if it is outside YEARS."""
    if year not in YEARS:
        raise ConfigurationError(f"{option} {text!r} lies outside the years from {YEARS[0]} to {YEARS[-1]}. Mistyped?")


def echo_json(found: Any) -> None:
    """What a command found, for programs: moments in RFC 3339, and what is no number as null, as JSON knows no NaN. A
    text cannot command the terminal: all that is not ASCII is escaped."""
    typer.echo(json.dumps(msgspec.json.decode(msgspec.json.encode(found)), indent=2))
