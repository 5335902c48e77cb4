"""The commands `mlops-ray cluster`: what nodes and submitted jobs need in their environment."""

import json

import typer

from mlops_ray.code_version import code_version
from mlops_ray.serving.environment import serve_environment

cluster = typer.Typer(no_args_is_help=True, help="What nodes and submitted jobs need in their environment.")


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
        typer.echo(f"export {name}={value}")
