"""The commands `mlops-ray score` and `mlops-ray labels`: many rows at once."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from mlops_ray.cli.options import (
    CaseArgument,
    ConfigOption,
    DataOption,
    NameArgument,
    StateOption,
)
from mlops_ray.config import absolute, settings_of
from mlops_ray.cost.meter import metered
from mlops_ray.operations.local_ray import ray_for
from mlops_ray.use_case import load_use_case

labels = typer.Typer(no_args_is_help=True, help="Labels: what turned out to be true of predictions.")


def score(
    use_case: CaseArgument,
    input: Annotated[str, typer.Option(help="Rows to score: Parquet or CSV; a file, folder or URL.")],
    output: Annotated[str, typer.Option(help="Folder or URL for predictions and quarantine.")],
    state: StateOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    version: Annotated[int | None, typer.Option(help="The model's version. [default: the champion]")] = None,
) -> None:
    """Score many rows, with features as they were known at the time of each."""
    settings = settings_of(state, config, data)
    name = load_use_case(use_case).name
    with metered(settings, name, may_end_process=True) as meter, ray_for(settings), meter.step("score", ""):
        from mlops_ray.batch.rows import read_rows
        from mlops_ray.batch.scoring import score as score_rows

        scores = score_rows(read_rows(absolute(input)), name, absolute(output), settings, version)
    typer.echo(json.dumps(asdict(scores), indent=2))


@labels.command("import")
def import_(
    use_case: NameArgument,
    file: Annotated[
        str, typer.Argument(help="Delimited or Parquet: label, and request_id or keys; see docs/monitoring.md.")
    ],
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Tell what turned out to be true of many predictions."""
    from mlops_ray.batch.labels import import_labels

    typer.echo(json.dumps(asdict(import_labels(file, use_case, settings_of(state, config))), indent=2))
