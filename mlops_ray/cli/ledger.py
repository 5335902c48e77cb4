"""The commands `mlops-ray ledger`: keeping the record of predictions small, and forgetting what must be forgotten."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from mlops_ray.artifacts import Artifacts
from mlops_ray.cli.governance import cli_actor
from mlops_ray.cli.options import (
    CaseArgument,
    ConfigOption,
    NameArgument,
    StateOption,
)
from mlops_ray.config import settings_of
from mlops_ray.governance.control_store import open_store
from mlops_ray.use_case import load_use_case

ledger = typer.Typer(
    no_args_is_help=True, help="The ledger: every prediction that was answered, and what was said of it."
)


@ledger.command("compact")
def compact_(use_case: CaseArgument, state: StateOption = None, config: ConfigOption = None) -> None:
    """Do now what is done at an interval: move what the drift actor has read to the ledger's Delta table, merge small
    files of labels, and delete what is older than the use case keeps.

    The table is at `ledger/<use case>/table` below the artifacts. What the use case declares counts from now on.
    """
    from mlops_ray.monitoring.label_times import declare_label_times
    from mlops_ray.monitoring.ledger_upkeep import keep_up
    from mlops_ray.predictions.retention import declare_retention

    settings, case = settings_of(state, config), load_use_case(use_case)
    declare_retention(Artifacts(settings.artifacts), case)
    declare_label_times(Artifacts(settings.artifacts), case)
    done = keep_up(settings, open_store(settings), case.name)
    typer.echo(json.dumps({"segments": done.segments, "rows": done.rows, "label_files": done.label_files}, indent=2))


@ledger.command("status")
def status(use_case: NameArgument, state: StateOption = None, config: ConfigOption = None) -> None:
    """Say how long predictions are kept, and what the last upkeep did, or why it failed and since when."""
    from mlops_ray.monitoring.ledger_upkeep import last_upkeep
    from mlops_ray.predictions.retention import retention_of
    from mlops_ray.predictions.segments import segments

    settings = settings_of(state, config)
    artifacts = Artifacts(settings.artifacts)
    keep, last = retention_of(artifacts, use_case), last_upkeep(artifacts, use_case)
    shown = {
        "keep_days": None if keep is None else keep.days,
        "segments_not_in_the_table": len(segments(artifacts, use_case)),
        "upkeep_every_s": settings.ledger_upkeep_every_s,
        "last_upkeep": None if last is None else last.to_json(),
    }
    typer.echo(json.dumps(shown, indent=2))


@ledger.command("erase")
def erase_(
    use_case: NameArgument,
    hash: Annotated[str | None, typer.Option(help="As the ledger has it. [default: asks for the value]")] = None,
    number: Annotated[bool, typer.Option("--number", help="The value that is asked for is a number.")] = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Erase the predictions and labels of a person, by the hash of a personal column or its value, for good."""
    from mlops_ray.predictions.erasure import erase_person
    from mlops_ray.predictions.personal import personal_hash

    settings = settings_of(state, config)
    store = open_store(settings)
    actor = cli_actor(store, settings, use_case=use_case)
    if hash is None:
        value = typer.prompt("Value (not shown)", hide_input=True)
        hash = personal_hash(settings).hash(value, "number" if number else "text")
    done = erase_person(settings, store, actor, use_case, hash or "")
    typer.echo(json.dumps(asdict(done), indent=2))
