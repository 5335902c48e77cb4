"""The commands `mlops-ray quarantine`: records that were refused, and their way back."""

from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer

from mlops_ray.artifacts import Artifacts
from mlops_ray.cli.options import (
    CaseArgument,
    ConfigOption,
    DataOption,
    JsonOption,
    StateOption,
    echo_json,
)
from mlops_ray.config import settings_of
from mlops_ray.errors import ConfigurationError, nearest
from mlops_ray.ingestion.quarantine import refusals
from mlops_ray.ingestion.repairs import export as export_refused
from mlops_ray.ingestion.repairs import replay as replay_file
from mlops_ray.ingestion.snapshot import Snapshot, last_snapshot
from mlops_ray.show.text import printable
from mlops_ray.use_case import Source, UseCase, load_use_case

quarantine = typer.Typer(no_args_is_help=True, help="Quarantine: records that were refused, and their way back.")
SourceOption = Annotated[str | None, typer.Option("--source", help="Of this source alone. [default: of all]")]


@quarantine.command()
def show(
    use_case: CaseArgument,
    source: SourceOption = None,
    reason: Annotated[str | None, typer.Option(help="Those whose reasons have this text in them.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many records of a source.")] = 20,
    as_json: JsonOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Tell what the last ingest refused: how many and why, then file, line, reasons and bytes of each record."""
    artifacts, case = Artifacts(settings_of(state, config).artifacts), load_use_case(use_case)
    snapshot = last_snapshot(artifacts, case.name)
    found = [_refused(artifacts, snapshot, name, reason, limit) for name in _asked(case, snapshot, source)]
    aside = [text for files in snapshot.unreadable.values() for text in files.values()]
    if as_json:
        echo_json({"snapshot": snapshot.digest, "sources": found, "set_aside": aside})
        return
    for one in found:
        typer.echo(one["sentence"])
        for record in one["records"]:
            typer.echo(f"  {record['file']}:{record['line']}  {record['reason']}  {printable(record['raw'])}")
        if one["more"]:
            typer.echo(f"  and {one['more']:,} more (--limit, or `mlops-ray quarantine export`)")
    for text in aside:
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


def _refused(artifacts: Artifacts, snapshot: Snapshot, source: str, reason: str | None, limit: int) -> dict[str, Any]:
    """Of one source its counts, the first records that were refused, and how many more there are."""
    counts = vars(snapshot.counts[source])
    sentence = (refusals({source: counts}) or [f"{source}: none of {counts['rows_in']:,} rows quarantined"])[0]
    records = snapshot.quarantine(artifacts, source)
    if reason is not None:
        records = records.filter(pl.col("reason").str.contains(reason, literal=True))
    shown = [
        {"file": file, "line": line, "reason": why, "raw": raw.decode(errors="replace").rstrip()[:200]}
        for file, line, _, why, raw in records.head(limit).iter_rows()
    ]
    more = max(0, records.height - limit)
    return {"source": source, "sentence": sentence, "counts": counts, "records": shown, "more": more}
