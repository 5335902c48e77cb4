"""The commands `mlops-ray backup`: one point of all state, kept elsewhere, and put back."""

import json
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from mlops_ray.cli.governance import cli_actor
from mlops_ray.cli.options import ConfigOption, JsonOption, StateOption, moment_of
from mlops_ray.config import Settings, absolute, settings_of
from mlops_ray.errors import ConfigurationError, IntegrityError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, Actor
from mlops_ray.show.text import printable

if TYPE_CHECKING:
    from mlops_ray.operations.backup.manifest import Manifest
    from mlops_ray.operations.backup.place import Place

# operations.backup is imported inside the functions, as it is by nobody else: it imports pyarrow's file systems.

backup = typer.Typer(
    no_args_is_help=True,
    help="Backups: control store, MLflow, Feast, artifacts and ledger, as they were at one moment.",
)

PlaceOption = Annotated[
    str | None,
    typer.Option("--place", help="Folder or object-store URL of the backups. [default: setting `backups`]"),
]
PointArgument = Annotated[str, typer.Argument(metavar="BACKUP", help="Its id, the beginning of it, or `latest`.")]


@backup.command("create")
def create_(
    place: PlaceOption = None,
    references: Annotated[
        bool, typer.Option("--references", help="Of the artifacts' data keep digests only, not the files.")
    ] = False,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="Go on with the place of an installation that is no more, after its restore."),
    ] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Then delete old backups, as `backup prune` does.")] = False,
    due: Annotated[
        str | None,
        typer.Option(help="Of a schedule: wait for who is at work, and let one do that began since this moment."),
    ] = None,
    as_json: JsonOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Copy all state as it is now; what runs goes on. What the place has already is not copied again."""
    from mlops_ray.operations.backup.create import create
    from mlops_ray.operations.backup.retention import Keep
    from mlops_ray.operations.backup.retention import prune as prune_place

    settings = settings_of(state, config)
    there, actor = _place(settings, place), _actor(settings)
    moment = moment_of("--due", due) if due else None
    made = create(settings, actor, there, data=not references, take_over=take_over, due=moment)
    if as_json:
        told = _json_of(made.id, made.manifest) | {"copied_files": made.copied, "copied_bytes": made.copied_bytes}
        typer.echo(json.dumps(told, indent=2))
    elif moment and not made.is_new:
        typer.echo(f"Backup {made.id} was made since {moment:%Y-%m-%d %H:%M:%S} UTC, when this one was due.")
    else:
        for line in (
            f"Backup {made.id}",
            *_in_words(made.manifest),
            f"New in it: {_files(made.copied, made.copied_bytes)}.",
        ):
            typer.echo(printable(line))
    if prune:
        gone = prune_place(settings, actor, there, Keep(), waits=moment is not None)
        typer.echo(f"Deleted {len(gone.points)} old backups, and {_files(gone.files, gone.bytes)}.", err=as_json)


@backup.command("list")
def list_(
    place: PlaceOption = None, as_json: JsonOption = False, state: StateOption = None, config: ConfigOption = None
) -> None:
    """Show the backups of a place, the oldest first, and those that did not finish; exit code 1 if one cannot be read,
    as its manifest was damaged."""
    settings = settings_of(state, config)
    there = _place(settings, place)
    found = {id: _manifest_or_why(there, id, settings) for id in there.points()}
    unread = {id: why for id, why in found.items() if isinstance(why, str)}
    unfinished = there.unfinished()
    if as_json:
        told = {
            "backups": [_json_of(id, manifest) for id, manifest in found.items() if not isinstance(manifest, str)],
            "cannot_be_read": [{"id": id, "why": why} for id, why in unread.items()],
            "unfinished": [{"begun_at": one.begun_at, "host": one.host} for one in unfinished],
        }
        typer.echo(json.dumps(told, indent=2))
    else:
        for id, one in found.items():
            typer.echo(printable(f"{id}  {f'cannot be read: {one}' if isinstance(one, str) else _in_short(one)}"))
        for left in unfinished:
            begun = f"{left.begun_at or left.name} on {left.host or 'an unknown host'}"
            typer.echo(printable(f"{begun}: is being made, or was killed. It is no backup."))
    if unread:
        raise typer.Exit(1)


@backup.command("verify")
def verify_(
    point: PointArgument = "latest",
    place: PlaceOption = None,
    as_json: JsonOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Read a backup and compare each file with its digest, and the signature if the settings name a public key; exit
    code 1 if anything is not as it was written. Damaged content is moved to `damaged/`, so that the next backup copies
    it anew."""
    from mlops_ray.operations.backup.verify import verify

    settings = settings_of(state, config)
    there = _place(settings, place)
    id = there.resolve(point)
    manifest = there.manifest(id, settings)
    found = verify(there, manifest)
    if as_json:
        told = {"problems": found.problems, "set_aside": found.set_aside}
        typer.echo(json.dumps(_json_of(id, manifest) | told, indent=2))
    if found.problems:
        raise IntegrityError(
            f"Backup {id} is not what was written ({len(found.problems)} files): {printable(found.problems[0])} "
            f"{printable(found.next_step)}"
        )
    if not as_json:
        for line in (f"Backup {id} is whole.", *_in_words(manifest)):
            typer.echo(printable(line))


@backup.command("restore")
def restore_(
    point: PointArgument = "latest",
    place: PlaceOption = None,
    data_from: Annotated[
        str, typer.Option(help="Artifact root of the files that the backup only has digests of. [default: as it was]")
    ] = "",
    as_json: JsonOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Put a backup into the empty place that --state or the settings file describe, after all of it was verified."""
    from mlops_ray.operations.backup.restore import restore

    settings = settings_of(state, config)
    done = restore(settings, _place(settings, place), point, data_from and absolute(data_from))
    if as_json:
        told = _json_of(done.id, done.manifest) | {"ended_subscriptions": done.subscriptions, "upgrade": done.upgrade}
        typer.echo(json.dumps(told, indent=2))
        return
    lines = [f"Backup {done.id} was restored into {settings.state}", *_in_words(done.manifest)]
    if done.subscriptions:
        lines.append(f"Subscriptions ended, as their channels were not in it: {', '.join(done.subscriptions)}")
    if done.upgrade:
        lines.append("Its control store is an older release's: run `mlops-ray upgrade`, or the release that made it.")
    for line in (*lines, "Now: `mlops-ray audit verify`, `mlops-ray doctor`, and the keys and secrets named above."):
        typer.echo(printable(line))


@backup.command("prune")
def prune_(
    place: PlaceOption = None,
    days: Annotated[int, typer.Option(help="Of so many days the newest.")] = 14,
    weeks: Annotated[int, typer.Option(help="Of so many weeks the newest.")] = 8,
    months: Annotated[int, typer.Option(help="Of so many months the newest.")] = 12,
    as_json: JsonOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Delete backups beyond the newest of each of the last days, weeks and months that have one, and what only they
    had. The newest backup stays."""
    from mlops_ray.operations.backup.retention import Keep, prune

    settings = settings_of(state, config)
    done = prune(settings, _actor(settings), _place(settings, place), Keep(days, weeks, months))
    if as_json:
        typer.echo(json.dumps({"deleted": done.points, "files": done.files, "bytes": done.bytes}, indent=2))
    else:
        typer.echo(f"Deleted {len(done.points)} backups, and {_files(done.files, done.bytes)} that only they had.")


def _place(settings: Settings, given: str | None) -> "Place":
    from mlops_ray.operations.backup.place import Place

    where = absolute(given) if given else settings.backups
    if not where:
        raise ConfigurationError("Where do backups lie? Give --place, or the setting 'backups': a folder or a URL.")
    return Place(where)


def _actor(settings: Settings) -> Actor:
    """Of an older schema keys cannot be read as they are now: whoever can open the store may copy it, unrecorded."""
    from mlops_ray.operations.backup.create import expect_store

    store = ControlStore(settings.control_store)
    expect_store(store)
    try:
        return cli_actor(store, settings, "operate") if store.schema().standing() == "current" else SYSTEM
    finally:
        store.close()


def _manifest_or_why(place: "Place", id: str, settings: Settings) -> "Manifest | str":
    try:
        return place.manifest(id, settings)
    except (ConfigurationError, IntegrityError) as error:
        return str(error)


def _in_short(manifest: "Manifest") -> str:
    size = _files(len(manifest.items), sum(one.bytes for one in manifest.items))
    return f"event {manifest.events}, {size}, release {manifest.release}"


def _json_of(id: str, manifest: "Manifest") -> dict[str, object]:
    return {
        "id": id,
        "made_at": manifest.made_at,
        "release": manifest.release,
        "schema": manifest.schema,
        "events": manifest.events,
        "last_hash": manifest.last_hash,
        "files": len(manifest.items),
        "bytes": sum(one.bytes for one in manifest.items),
        "only_digests": sum(not one.here for one in manifest.items),
        "databases": dict(manifest.databases),
        "predictions_until": dict(manifest.predictions),
        "not_in_it": list(manifest.not_in_it),
    }


def _in_words(manifest: "Manifest") -> list[str]:
    made = datetime.fromisoformat(manifest.made_at)
    lines = [
        f"The point: {made:%Y-%m-%d %H:%M:%S} UTC, event {manifest.events} of the audit log.",
        f"In it: {_files(len(manifest.items), sum(one.bytes for one in manifest.items))}.",
    ]
    if only := sum(not one.here for one in manifest.items):
        lines.append(f"Of {only:,} of them only the digest: they must be there when it is restored.")
    lines += [
        f"Predictions of {name}: all that were acknowledged until {at}." for name, at in manifest.predictions.items()
    ]
    return [*lines, "Not in it:", *(f"- {one}" for one in manifest.not_in_it)]


def _files(number: int, size: int) -> str:
    return f"{number:,} files of {size / 1e6:,.1f} MB"
