"""The commands `mlops-ray cluster`: what nodes and submitted jobs need before they start."""

import json
import os
import shlex
from typing import Annotated

import typer

from mlops_ray.code_version import code_version
from mlops_ray.operations.clock_guard import run_while_time_goes_on
from mlops_ray.operations.ray_token import make_token, token_place
from mlops_ray.serving.environment import serve_environment
from mlops_ray.show.text import printable

cluster = typer.Typer(no_args_is_help=True, help="What nodes and submitted jobs need before they start.")


@cluster.command("runtime-env")
def runtime_env() -> None:
    """Print the runtime environment for `ray job submit`: it carries the commit, which the upload lacks."""
    typer.echo(
        json.dumps({"env_vars": code_version().to_environment(), "excludes": [".git", ".venv*", "state", "data"]})
    )


@cluster.command("serve-env")
def serve_env() -> None:
    """Print the variables that a node of a cluster needs before `ray start`, as shell exports."""
    for name, value in serve_environment().items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@cluster.command("node")
def node(command: Annotated[list[str], typer.Argument(help="`ray start --block ...`, after `--`.")]) -> None:
    """Run a node, and end when it does, or when the clock was set back: then it has to be started again."""
    raise typer.Exit(run_while_time_goes_on(command))


@cluster.command("token")
def token() -> None:
    """Make the token for `RAY_AUTH_MODE=token` where there is none, and say in which file it is; it is not printed."""
    place = token_place(os.environ)
    if place is None:
        typer.echo("RAY_AUTH_TOKEN holds the token: no file is needed.")
    else:
        said = "Made" if make_token(place) else "Kept"
        typer.echo(printable(f"{said} {place}. Every node and whoever submits jobs needs the same file."))
