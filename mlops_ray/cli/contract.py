"""The commands `mlops-ray contract`: a use case's sources in the Open Data Contract Standard, and back."""

from pathlib import Path
from typing import Annotated

import typer

from mlops_ray.cli.options import CaseArgument
from mlops_ray.ingestion.open_data_contract import code_of, read_contract, write_contract
from mlops_ray.use_case import load_use_case

contract = typer.Typer(no_args_is_help=True, help="Contracts in the Open Data Contract Standard, written and read.")


@contract.command()
def export(
    use_case: CaseArgument,
    to: Annotated[Path | None, typer.Option(help="The file. [default: printed]")] = None,
) -> None:
    """Write the sources of a use case as YAML, and name what the standard cannot say of them."""
    case = load_use_case(use_case)
    text, unsaid = write_contract(case.name, case.sources, case.owner, case.purpose)
    if to is None:
        typer.echo(text, nl=False)
    else:
        to.write_text(text, encoding="utf-8")
    for sentence in unsaid:
        typer.echo(f"not in the contract: {sentence}", err=True)


@contract.command("import")
def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A contract in YAML.")],
    to: Annotated[Path | None, typer.Option(help="The Python file. [default: printed]")] = None,
) -> None:
    """Write the sources of a contract as Python, and name what of it is not in them."""
    found = read_contract(file.read_text(encoding="utf-8"))
    if to is None:
        typer.echo(code_of(found), nl=False)
    else:
        to.write_text(code_of(found), encoding="utf-8")
    for sentence in found.left_out:
        typer.echo(f"not in the sources: {sentence}", err=True)
