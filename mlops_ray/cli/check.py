"""The command `mlops-ray check`: the organisation's standards, before anybody reviews."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlops_ray.cli.options import JsonOption
from mlops_ray.errors import ConfigurationError, nearest
from mlops_ray.show.text import printable

if TYPE_CHECKING:
    from mlops_ray.standards.check import Checked

# 1 and 2 are what every command ends with that could not do its work, or was called wrongly.
_BROKEN = 3


def check(
    use_cases: Annotated[
        list[str] | None, typer.Argument(metavar="[USE_CASE]...", help="Files, or names in use_cases/. [default: all]")
    ] = None,
    standards: Annotated[Path, typer.Option(help="What is asked for at which level.")] = Path("standards.yaml"),
    level: Annotated[str | None, typer.Option(help="Look as if every use case were at this level.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Look whether the use cases and their project are as the standards ask. Exit code 3: they are not."""
    from mlops_ray.standards.check import LOADS
    from mlops_ray.standards.check import check as look
    from mlops_ray.standards.standards import read_standards

    if standards != Path("standards.yaml") and not standards.is_file():
        raise ConfigurationError(f"--standards {standards}: there is no such file.")
    read = read_standards(standards.absolute())
    if level is not None and level not in read.levels:
        raise ConfigurationError(f"--level {level!r} is none of the levels. {nearest(level, read.levels)}")
    named = [Path(one if one.endswith(".py") else f"use_cases/{one}.py") for one in use_cases or ()]
    found = look(Path.cwd(), read, named or sorted(Path("use_cases").glob("*.py")), level)
    if named and found.without:
        raise ConfigurationError(f"{found.without[0]} declares no use case. Give the file of one, or its name.")
    if not found.levels and not any(one.rule == LOADS for one in found.findings):
        raise ConfigurationError(f"There is no use case in {Path.cwd() / 'use_cases'}. Go to the project's folder.")
    if not named:
        read.expect_use_cases([*found.levels, *(one.use_case for one in found.findings)])
    if as_json:
        kept = {"levels": found.levels, "errors": found.errors, "findings": [asdict(one) for one in found.findings]}
        typer.echo(json.dumps(kept, indent=2, ensure_ascii=False))
    else:
        _tell(found)
    if found.errors:
        raise typer.Exit(_BROKEN)


def _tell(found: "Checked") -> None:
    for one in found.findings:
        where = f"{one.use_case}: " if one.use_case else ""
        typer.echo(printable(f"{one.severity:7}  {one.rule:20}  {where}{one.sentence}"))
    said = ", ".join(f"{name} ({level})" for name, level in found.levels.items())
    warnings = len(found.findings) - found.errors
    typer.echo(
        printable(f"{said or 'No use case'}: {_counted(found.errors, 'error')}, {_counted(warnings, 'warning')}.")
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
