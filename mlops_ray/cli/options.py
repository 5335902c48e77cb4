"""What commands share: where state and data are, which moment counts, and how text reaches a terminal.

An option that is given counts most, then its environment variable, then the settings file, then the default.
"""

from datetime import UTC, datetime
from typing import Annotated

import typer

from mlops_ray.config import DATA_VARIABLE as DATA_VARIABLE
from mlops_ray.config import absolute as absolute  # known here as what options are read with
from mlops_ray.config import settings_file as settings_file
from mlops_ray.config import settings_of as settings_of
from mlops_ray.errors import ConfigurationError
from mlops_ray.show.text import printable as printable
from mlops_ray.use_case.loading import definitions_folder as definitions_folder

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


def moment_of(option: str, text: str) -> datetime:
    """An RFC 3339 moment in UTC. Raises ConfigurationError naming the option if it is none, or has no zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{option} {ascii(text)[:60]} is not a moment. Example: 2030-01-01T00:00Z.") from None
    if moment.tzinfo is None:
        raise ConfigurationError(f"{option} {text!r} has no time zone. Add Z for UTC.")
    return moment.astimezone(UTC)
