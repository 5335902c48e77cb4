"""The commands `mlops-ray quarantine`: records that were refused, and their way back."""

from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from mlops_ray.artifacts import Artifacts
from mlops_ray.cli.options import CaseArgument, ConfigOption, DataOption, StateOption, printable, settings_of
from mlops_ray.errors import ConfigurationError, nearest
from mlops_ray.ingestion.quarantine import refusals
from mlops_ray.ingestion.repairs import export as export_refused
from mlops_ray.ingestion.repairs import replay as replay_file
from mlops_ray.ingestion.snapshot import Snapshot, last_snapshot
from mlops_ray.use_case import Source, UseCase, load_use_case

quarantine = typer.Typer(no_args_is_help=True, help="Quarantine: records that were refused, and their way back.")
SourceOption = Annotated[str | None, typer.Option("--source", help="Of this source alone. [default: of all]")]


@quarantine.command()
def show(
    use_case: CaseArgument,
    source: SourceOption = None,
    reason: Annotated[str | None, typer.Option(help="Those whose reasons have this text in them.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many records of a source.")] = 20,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Tell what the last ingest refused: how many and why, then file, line, reasons and bytes of each record."""
    artifacts, case = Artifacts(settings_of(state, config).artifacts), load_use_case(use_case)
    snapshot = last_snapshot(artifacts, case.name)
    for name in _asked(case, snapshot, source):
        counts = vars(snapshot.counts[name])
        typer.echo((refusals({name: counts}) or [f"{name}: none of {counts['rows_in']:,} rows quarantined"])[0])
        records = snapshot.quarantine(artifacts, name)
        if reason is not None:
            records = records.filter(pl.col("reason").str.contains(reason, literal=True))
        for file, line, _, why, raw in records.head(limit).iter_rows():
            typer.echo(f"  {file}:{line}  {why}  {printable(raw.decode(errors='replace').rstrip()[:200])}")
        if records.height > limit:
            typer.echo(f"  and {records.height - limit:,} more (--limit, or `mlops-ray quarantine export`)")
    for text in (text for files in snapshot.unreadable.values() for text in files.values()):
        typer.echo(f"set aside: {text}")


@quarantine.command()
def export(
    use_case: CaseArgument,
    to: Annotated[Path, typer.Option(help="Folder for the files.")],
    source: SourceOption = None,
    state: StateOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Write what the last ingest refused as files to be mended: a header and the records' bytes."""
    settings, case = settings_of(state, config, data), load_use_case(use_case)
    artifacts = Artifacts(settings.artifacts)
    snapshot = last_snapshot(artifacts, case.name)
    written = [
        path
        for name in _asked(case, snapshot, source)
        for path in export_refused(artifacts, snapshot, name, case.sources[name], settings.data, to)
    ]
    for path in written:
        typer.echo(path)
    if not written:
        typer.echo("Nothing was refused.", err=True)


@quarantine.command()
def replay(
    use_case: CaseArgument,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A file of mended records.")],
    source: Annotated[str, typer.Option(help="The source that it belongs to.")],
    state: StateOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Put a file of mended records among the raw files, for the next ingest to read."""
    settings, case = settings_of(state, config, data), load_use_case(use_case)
    name = replay_file(file, source, _source(case, source), settings.data)
    typer.echo(f"{name} lies below {settings.data}; the next `mlops-ray run` reads it.")


def _source(case: UseCase, name: str) -> Source:
    if name not in case.sources:
        raise ConfigurationError(f"--source {name!r} is no source of {case.name}. {nearest(name, case.sources)}")
    return case.sources[name]


def _asked(case: UseCase, snapshot: Snapshot, source: str | None) -> list[str]:
    if source is not None:
        _source(case, source)
    return [name for name in snapshot.counts if source in (None, name)]
