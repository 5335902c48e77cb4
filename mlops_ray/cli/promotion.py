"""The commands `mlops-ray versions export` and `import`: a version goes from one environment to another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlops_ray.cli.options import CaseArgument, ConfigOption, StateOption
from mlops_ray.config import settings_of
from mlops_ray.show.text import printable
from mlops_ray.use_case import load_use_case

if TYPE_CHECKING:
    from mlops_ray.pipeline.import_version import Imported


def export(
    version: Annotated[str, typer.Argument(help="A version, such as flights@7.")],
    to: Annotated[Path | None, typer.Option(help="The new file. [default: <version>.bundle]")] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="A private Ed25519 key (PEM) that signs it. [default: the settings' evidence_key]"),
    ] = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Write a version with all that stands behind it into one signed bundle, for another environment."""
    from mlops_ray.pipeline.export_version import export_version
    from mlops_ray.registry.trace import parse_version

    name, number = parse_version(version)
    reference = f"file:{key.absolute()}" if key else None
    made = export_version(settings_of(state, config), version, to or Path(f"{name}-{number}.bundle"), reference)
    typer.echo(printable(f"Written: {made} ({made.stat().st_size:,} bytes)."))
    typer.echo(printable(f"There: mlops-ray versions import {made.name} {name}"))


def import_(
    bundle: Annotated[Path, typer.Argument(help="The file that `versions export` wrote.")],
    use_case: CaseArgument,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Take in a version from another environment; it is judged and approved by the rules of this one."""
    from mlops_ray.pipeline.import_version import import_version

    case = load_use_case(use_case)
    found = import_version(case, settings_of(state, config), bundle)
    for line in _told(found):
        typer.echo(printable(line))
    if found.origin.feature_project is not None:
        typer.echo(printable(f"Its features, unless they are there: mlops-ray features refresh {use_case}"))


def _told(found: "Imported") -> list[str]:
    """What it was there, and what became of it here, in lines."""
    origin, name = found.origin, found.origin.use_case
    lines = [f"{name}@{origin.version} of {origin.author}, made with mlops_ray {origin.framework}."]
    lines += [f"It is {name}@{found.version} here."]
    failed = f" It did not pass {', '.join(origin.failed_gates)} there." if origin.failed_gates else ""
    lines += [f"There it was registered at {origin.registered_at}.{failed}"]
    for one in origin.approvals:
        by = f" by {one.decided_by}" if one.decided_by else ""
        lines += [f"There its approval was {one.state}{by}{f': {one.reason}' if one.reason else ''}"]
        lines += [f"There on condition: {condition}" for condition in one.conditions]
    lines += [f"There since: {sentence}" for sentence in origin.erased]
    lines += [f"Gate {gate.name}: {gate.sentence}" for gate in found.admission.gates if not gate.passed]
    return [*lines, found.admission.standing]
