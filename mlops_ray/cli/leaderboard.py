"""`versions leaderboard`: what the search of a version found, and what it costs to serve."""

import json
from typing import Annotated

import typer

from mlops_ray.cli.options import ConfigOption, JsonOption, StateOption
from mlops_ray.config import settings_of
from mlops_ray.errors import DataError


def leaderboard(
    version: Annotated[str, typer.Argument(help="A version, such as flights@7.")],
    as_json: JsonOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Show the finished trials of a version's search with quality, latency and size.

    `*` marks those of which no other is as good, as fast and as small; `>` the one that was chosen.
    """
    from mlops_ray.registry.trace import trace
    from mlops_ray.training.leaderboard import lines

    lineage = trace(settings_of(state, config), version).lineage
    rows = lineage.search.get("leaderboard")
    if not rows:
        raise DataError(
            f"Of the search of {version} no leaderboard was recorded: it is older than this record. Its trials are in "
            f"`mlops-ray lineage {version}`."
        )
    for line in [json.dumps(rows, indent=2)] if as_json else lines(rows, lineage.metric):
        typer.echo(line)
