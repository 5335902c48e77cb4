"""`versions leaderboard`: what the search of a version found, and what it costs to serve."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from mlops_ray.cli.options import ConfigOption, JsonOption, StateOption, settings_of
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

    lineage = trace(settings_of(state, config), version).lineage
    rows = lineage.search.get("leaderboard")
    if not rows:
        raise DataError(
            f"Of the search of {version} no leaderboard was recorded: it is older than this record. Its trials are in "
            f"`mlops-ray lineage {version}`."
        )
    for line in [json.dumps(rows, indent=2)] if as_json else lines(rows, lineage.metric):
        typer.echo(line)


def lines(rows: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """The leaderboard as text, a line for each trial below one for the columns."""
    shown = [("", "trial", metric, "row", "1,000 rows", "size"), *map(_cells, rows)]
    widths = [max(len(row[at]) for row in shown) for at in range(len(shown[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    marks = ("*" if row["pareto"] else " ") + (">" if row["chosen"] else " ")
    if row["size_bytes"] is None:
        return marks, row["trial_id"], f"{row['value']:.4f}", "not exported", "", ""
    times = f"{row['row_ms']:.3f} ms", f"{row['batch_ms']:.1f} ms"
    return marks, row["trial_id"], f"{row['value']:.4f}", *times, f"{row['size_bytes'] / 1e6:.2f} MB"
