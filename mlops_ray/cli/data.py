"""The commands `mlops-ray data`: what is kept of the data, what it costs, and how rows are taken out of it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlops_ray.artifacts import Artifacts
from mlops_ray.cli.governance import cli_actor, expect_reader
from mlops_ray.cli.options import ConfigOption, NameArgument, ReasonOption, StateOption, printable, settings_of
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import open_store

if TYPE_CHECKING:
    from mlops_ray.catalogue.catalogue import Entry

data = typer.Typer(no_args_is_help=True, help="Snapshots: what is kept, what was made from it, and what it costs.")
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
DigestArgument = Annotated[str, typer.Argument(help="The snapshot's digest, or its beginning.")]
_GB = 1e9


@data.command("list")
def list_(
    use_case: Annotated[str | None, typer.Argument(help="Only of this use case.")] = None,
    as_json: JsonOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """List snapshots with size, cost of keeping, training sets and models; and those that nothing in use needs."""
    from mlops_ray.catalogue.catalogue import catalogue, proposal

    settings = settings_of(state, config)
    store = open_store(settings)
    expect_reader(store, settings, use_case)
    found = catalogue(Artifacts(settings.artifacts), store, datetime.now(UTC), use_case)
    if as_json:
        typer.echo(json.dumps(found.shown(), indent=2))
        return
    for entry in found.entries:
        typer.echo(printable(_line(entry)))
    typer.echo(
        f"{len(found.entries)} snapshots, {found.bytes / _GB:.3f} GB, {found.byte_days / _GB:.2f} GB-days so far (each "
        f"file once, however many snapshots share it)."
    )
    for entry in proposal(found):
        made = f"{len(entry.training_sets)} training sets, {_models(entry)}"
        typer.echo(
            printable(
                f"Nothing in use needs {entry.name}: retiring it frees {_freed(entry)}, and takes the rows of {made}."
            )
        )


@data.command("show")
def show(
    use_case: NameArgument, digest: DigestArgument, state: StateOption = None, config: ConfigOption = None
) -> None:
    """Show a snapshot as JSON: what it holds, where its bytes are, and everything that depends on it."""
    from mlops_ray.catalogue.catalogue import catalogue, find_entry

    settings = settings_of(state, config)
    store = open_store(settings)
    expect_reader(store, settings, use_case)
    found = catalogue(Artifacts(settings.artifacts), store, datetime.now(UTC), use_case)
    typer.echo(json.dumps(find_entry(found, use_case, digest).shown(), indent=2))


@data.command("retire")
def retire_(
    use_case: NameArgument,
    digest: DigestArgument,
    reason: ReasonOption,
    force: Annotated[
        list[str] | None,
        typer.Option(help="What may lose it although it is in use: a live version (flights@7), or last; each by name."),
    ] = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Delete a snapshot's rows, and what was made from it alone; its manifest and all records stay."""
    from mlops_ray.catalogue.retire import retire

    settings = settings_of(state, config)
    store = open_store(settings)
    actor = cli_actor(store, settings, "operate", use_case=use_case)
    done = retire(settings, store, actor, use_case, digest, reason, force or ())
    typer.echo(printable(f"{done.entry.name} is retired: {done.files} files, {_freed(done.entry)}."))


@data.command("export")
def export(
    use_case: NameArgument,
    digest: DigestArgument,
    to: Annotated[Path, typer.Option(help="The folder in which each source is a table.")],
    delta: Annotated[bool, typer.Option("--delta", help="As Delta Lake tables; the only format there is.")] = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Write a snapshot as the newest version of Delta tables. The snapshot itself is Parquet that most tools open."""
    from mlops_ray.catalogue.catalogue import catalogue, find_entry
    from mlops_ray.catalogue.export import export_delta
    from mlops_ray.ingestion.snapshot import load_snapshot

    if not delta:
        raise ConfigurationError("Say --delta. As Parquet a snapshot can be opened where it lies: see docs/data.md.")
    settings = settings_of(state, config)
    store, artifacts = open_store(settings), Artifacts(settings.artifacts)
    expect_reader(store, settings, use_case)
    entry = find_entry(catalogue(artifacts, store, datetime.now(UTC), use_case), use_case, digest)
    done = export_delta(artifacts, load_snapshot(artifacts, use_case, entry.digest), to.absolute())
    for source, version in done.items():
        typer.echo(printable(f"{to / source} is {entry.name} at version {version}."))


@data.command("erase")
def erase(
    entity: Annotated[
        str, typer.Option(help="COLUMN=VALUE, such as passenger=123. COLUMN alone asks for the value, not shown.")
    ],
    reason: Annotated[str, typer.Option(help="Why, such as the number of a request; goes into the audit log.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Erase a person's rows from snapshots and all that was made from them, online store and ledger; say which models
    were trained on them, and what is not reached. Shows what would go, and asks."""
    from mlops_ray.catalogue.erase import erase_person_from_data, find_person
    from mlops_ray.catalogue.person import Person

    settings = settings_of(state, config)
    store = open_store(settings)
    actor = cli_actor(store, settings)
    column, given, value = entity.partition("=")
    person = Person.of(column, value if given else typer.prompt("Value (not shown)", hide_input=True))
    if dry_run or not yes:
        typer.echo(json.dumps(find_person(settings, store, person).shown(), indent=2))
    if dry_run:
        return
    if not yes:
        typer.confirm("Erase all of it, for good?", abort=True)
    done = erase_person_from_data(settings, store, actor, person, reason)
    typer.echo(json.dumps(done.shown(), indent=2))


def _line(entry: "Entry") -> str:
    parts = [entry.name, f"as of {entry.as_of[:16]}", f"{entry.rows:,} rows"]
    if entry.retired is not None:
        parts.append(f"retired by {entry.retired.by} at {entry.retired.at}")
    shared = f" ({entry.shared_bytes / _GB:.3f} shared)" if entry.shared_bytes else ""
    parts += [f"{entry.bytes / _GB:.3f} GB{shared}", f"{entry.byte_days / _GB:.2f} GB-days"]
    parts += [f"{len(entry.training_sets)} training sets", _models(entry)]
    parts += [f"also of {', '.join(entry.also_of)}"] if entry.also_of else []
    return "  ".join([*parts, "last ingest"] if entry.is_last else parts)


def _models(entry: "Entry") -> str:
    named = [f"{entry.use_case}@{model.version} ({model.state})" for model in entry.models]
    return f"models {', '.join(named)}" if named else "no model"


def _freed(entry: "Entry") -> str:
    return f"{(entry.bytes - entry.shared_bytes) / _GB:.3f} GB"
