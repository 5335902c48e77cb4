"""The commands `mlops-ray features`: the values that live endpoints read."""

import json
from dataclasses import asdict

import typer

from mlops_ray.cli.early_start import EarlyStart
from mlops_ray.cli.options import (
    CaseArgument,
    ConfigOption,
    DataOption,
    RepoOption,
    StateOption,
    definitions_folder,
    moment_of,
    settings_of,
)
from mlops_ray.cli.preconditions import expect_can_work
from mlops_ray.cli.run import MomentOption
from mlops_ray.use_case import load_use_case

features = typer.Typer(no_args_is_help=True, help="Features: the values that live endpoints read.")


@features.callback()
def group() -> None:
    """Keeps `refresh` a command of a group while it is the only one."""


@features.command()
def refresh(
    use_case: CaseArgument,
    as_of: MomentOption = None,
    state: StateOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    feature_repo: RepoOption = None,
) -> None:
    """Take new data through ingest and features to the online store; models and versions stay as they are."""
    settings, case = settings_of(state, config, data), load_use_case(use_case)
    moment = moment_of("--as-of", as_of) if as_of else None
    expect_can_work(settings)
    with EarlyStart(settings, serving=False) as start:
        from rich.console import Console

        from mlops_ray.cli.progress import TerminalProgress
        from mlops_ray.pipeline.refresh import refresh as run

        progress, repo = TerminalProgress(Console(stderr=True)), definitions_folder(use_case, feature_repo)
        found = run(case, settings, repo, moment, progress, start.ray)
    typer.echo(json.dumps(asdict(found), indent=2))
    for version in found.versions:
        if version.why_not:
            typer.secho(f"{case.name}@{version.version}: {version.why_not}", fg="yellow", err=True)
