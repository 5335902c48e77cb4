"""The commands `mlops-ray data`: what is kept of the data, what it costs, and how rows are taken out of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from mlops_ray.artifacts import Artifacts
from mlops_ray.cli.governance import cli_actor, expect_reader
from mlops_ray.cli.options import (
    ConfigOption,
    JsonOption,
    NameArgument,
    ReasonOption,
    ServerOption,
    StateOption,
)
from mlops_ray.cli.rollout import server
from mlops_ray.config import settings_of
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import open_store
from mlops_ray.show.text import printable

data = typer.Typer(no_args_is_help=True, help="Snapshots: what is kept, what was made from it, and what it costs.")
DigestArgument = Annotated[str, typer.Argument(help="The snapshot's digest, or its beginning.")]
_GB = 1e9


@data.command("list")
def list_(
    use_case: Annotated[str | None, typer.Argument(help="Only of this use case.")] = None,
    as_json: JsonOption = False,
    url: ServerOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """List snapshots with size, cost of keeping, training sets and models; and those that nothing in use needs."""
    if url:
        with server(url, state, config) as client:
            found = client.data.list(use_case)
    else:
        from mlops_ray.catalogue.catalogue import catalogue

        settings = settings_of(state, config)
        store = open_store(settings)
        expect_reader(store, settings, use_case)
        found = catalogue(Artifacts(settings.artifacts), store, datetime.now(UTC), use_case).shown()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for entry in found["snapshots"]:
        typer.echo(printable(_line(entry)))
    typer.echo(
        f"{len(found['snapshots'])} snapshots, {found['bytes'] / _GB:.3f} GB, {found['byte_days'] / _GB:.2f} GB-days "
        f"so far (each file once, however many snapshots share it)."
    )
    for entry in _free(found["snapshots"], found["nothing_in_use_needs"]):
        made = f"{len(entry['training_sets'])} training sets, {_models(entry)}"
        freed = _gigabytes(entry["bytes"] - entry["shared_bytes"])
        typer.echo(
            printable(f"Nothing in use needs {_name(entry)}: retiring it frees {freed}, and takes the rows of {made}.")
        )


@data.command("show")
def show(
    use_case: NameArgument,
    digest: DigestArgument,
    url: ServerOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Show a snapshot as JSON: what it holds, where its bytes are, and everything that depends on it."""
    if url:
        with server(url, state, config) as client:
            found = client.data.show(use_case, digest)
    else:
        from mlops_ray.catalogue.catalogue import catalogue, find_entry

        settings = settings_of(state, config)
        store = open_store(settings)
        expect_reader(store, settings, use_case)
        all_ = catalogue(Artifacts(settings.artifacts), store, datetime.now(UTC), use_case)
        found = find_entry(all_, use_case, digest).shown()
    typer.echo(json.dumps(found, indent=2))


@data.command("retire")
def retire_(
    use_case: NameArgument,
    digest: DigestArgument,
    reason: ReasonOption,
    force: Annotated[
        list[str] | None,
        typer.Option(help="What may lose it although it is in use: a live version (flights@7), or last; each by name."),
    ] = None,
    url: ServerOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Delete a snapshot's rows, and what was made from it alone; its manifest and all records stay."""
    if url:
        with server(url, state, config) as client:
            done = client.data.retire(use_case, digest, reason, force or ())
    else:
        from mlops_ray.catalogue.retire import retire

        settings = settings_of(state, config)
        store = open_store(settings)
        actor = cli_actor(store, settings, "operate", use_case=use_case)
        done = retire(settings, store, actor, use_case, digest, reason, force or ()).shown()
    freed = _gigabytes(done["freed_bytes"])
    typer.echo(printable(f"{done['snapshot']} is retired: {done['files']} files, {freed}."))


@data.command("export")
def export(
    use_case: NameArgument,
    digest: DigestArgument,
    to: Annotated[Path, typer.Option(help="The folder in which each source is a table.")],
    delta: Annotated[bool, typer.Option("--delta", help="As Delta Lake tables; the only format there is.")] = False,
    url: ServerOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Write a snapshot as the newest version of Delta tables. The snapshot itself is Parquet that most tools open."""
    from mlops_ray.catalogue.export import export_delta, export_files
    from mlops_ray.catalogue.tables import find_snapshot

    if not delta:
        raise ConfigurationError("Say --delta. As Parquet a snapshot can be opened where it lies: see docs/data.md.")
    if url:
        with server(url, state, config) as client, TemporaryDirectory() as files:
            whole = client.data.export(use_case, digest, Path(files))
            done = export_files(Path(files), whole, to.absolute())
    else:
        settings = settings_of(state, config)
        artifacts = Artifacts(settings.artifacts)
        expect_reader(open_store(settings), settings, use_case)
        snapshot = find_snapshot(artifacts, use_case, digest)
        whole, done = snapshot.digest, export_delta(artifacts, snapshot, to.absolute())
    for source, version in done.items():
        typer.echo(printable(f"{to / source} is {use_case}@{whole[:12]} at version {version}."))


@data.command("erase")
def erase(
    entity: Annotated[
        str, typer.Option(help="COLUMN=VALUE, such as passenger=123. COLUMN alone asks for the value, not shown.")
    ],
    reason: Annotated[str, typer.Option(help="Why, such as the number of a request; goes into the audit log.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: ServerOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Erase a person's rows from snapshots and all that was made from them, online store and ledger; say which models
    were trained on them, and what is not reached. Shows what would go, and asks."""
    column, given, value = entity.partition("=")
    if url:
        with server(url, state, config) as client:
            value = value if given else _asked_for()
            _erase(lambda dry: client.data.erase(column, value, reason, dry), dry_run, yes)
        return
    from mlops_ray.catalogue.erase import erase_person_from_data, find_person
    from mlops_ray.catalogue.person import Person

    settings = settings_of(state, config)
    store = open_store(settings)
    actor = cli_actor(store, settings)
    person = Person.of(column, value if given else _asked_for())

    def do(dry: bool) -> dict[str, Any]:
        if dry:
            return find_person(settings, store, person).shown()
        return erase_person_from_data(settings, store, actor, person, reason).shown()

    _erase(do, dry_run, yes)


def _asked_for() -> str:
    value: str = typer.prompt("Value (not shown)", hide_input=True)
    return value


def _erase(do: Callable[[bool], Mapping[str, Any]], dry_run: bool, yes: bool) -> None:
    """do: says what would go (True), or erases it (False)."""
    if dry_run or not yes:
        typer.echo(json.dumps(do(True), indent=2))
    if dry_run:
        return
    if not yes:
        typer.confirm("Erase all of it, for good?", abort=True)
    typer.echo(json.dumps(do(False), indent=2))


def _free(entries: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Mapping[str, Any]]:
    by_name = {_name(entry): entry for entry in entries}
    return [by_name[name] for name in names]


def _line(entry: Mapping[str, Any]) -> str:
    parts = [_name(entry), f"as of {entry['as_of'][:16]}", f"{entry['rows']:,} rows"]
    if entry["retired"] is not None:
        parts.append(f"retired by {entry['retired']['by']} at {entry['retired']['at']}")
    shared = f" ({entry['shared_bytes'] / _GB:.3f} shared)" if entry["shared_bytes"] else ""
    parts += [f"{_gigabytes(entry['bytes'])}{shared}", f"{entry['byte_days'] / _GB:.2f} GB-days"]
    parts += [f"{len(entry['training_sets'])} training sets", _models(entry)]
    parts += [f"also of {', '.join(entry['also_of'])}"] if entry["also_of"] else []
    return "  ".join([*parts, "last ingest"] if entry["is_last"] else parts)


def _name(entry: Mapping[str, Any]) -> str:
    return f"{entry['use_case']}@{entry['digest'][:12]}"


def _models(entry: Mapping[str, Any]) -> str:
    named = [f"{entry['use_case']}@{model['version']} ({model['state']})" for model in entry["models"]]
    return f"models {', '.join(named)}" if named else "no model"


def _gigabytes(size: int) -> str:
    return f"{size / _GB:.3f} GB"
