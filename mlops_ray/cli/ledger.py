"""The commands `mlops-ray ledger`: keeping the record of predictions small, and forgetting what must be forgotten."""

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from mlops_ray.artifacts import Artifacts
from mlops_ray.cli.governance import cli_actor
from mlops_ray.cli.options import CaseArgument, ConfigOption, NameArgument, StateOption, settings_of
from mlops_ray.governance.control_store import open_store
from mlops_ray.use_case import load_use_case

# Younger segments stay: the drift actor looks back so far for repetitions each time it reads, and finds them quickest.
SETTLED = timedelta(hours=1)

ledger = typer.Typer(no_args_is_help=True, help="The ledger: every prediction that was answered.")


@ledger.command("compact")
def compact_(use_case: CaseArgument, state: StateOption = None, config: ConfigOption = None) -> None:
    """Move what the drift actor has read to the ledger's Delta table, and delete what is older than the use case keeps.

    Run it at an interval, such as each hour. The table is at `ledger/<use case>/table` below the artifacts.
    """
    from mlops_ray.monitoring.ledger_feed import may_be_moved
    from mlops_ray.monitoring.watch_state import read_state
    from mlops_ray.predictions.compaction import compact
    from mlops_ray.predictions.erasure import retain

    settings, case = settings_of(state, config), load_use_case(use_case)
    artifacts, now = Artifacts(settings.artifacts), datetime.now(UTC)
    if case.keep_predictions is not None:
        retain(artifacts, case.name, case.keep_predictions, now)
    known = read_state(artifacts, case.name)
    read = may_be_moved(known.newest, known.segments, now)
    done = compact(artifacts, case.name, lambda segment: segment.time < now - SETTLED and read(segment))
    typer.echo(json.dumps(asdict(done), indent=2))


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
    if hash is None:
        value = typer.prompt("Value (not shown)", hide_input=True)
        hash = personal_hash(settings).hash(value, "number" if number else "text")
    done = erase_person(settings, open_store(settings), cli_actor(), use_case, hash or "")
    typer.echo(json.dumps(asdict(done), indent=2))
    typer.echo(
        f"What nodes have not moved yet is not reached: run it again in {settings.ledger_rotate_s:g} s.", err=True
    )
