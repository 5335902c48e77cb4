"""The command `mlops-ray upgrade`: the control store, after new software is installed."""

from typing import TYPE_CHECKING, Annotated

import typer

from mlops_ray.cli.governance import cli_actor
from mlops_ray.cli.options import ConfigOption, StateOption
from mlops_ray.config import Settings, settings_of
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.tables import SCHEMA_REVISION
from mlops_ray.show.text import printable

if TYPE_CHECKING:
    from mlops_ray.operations.outlook import Outlook


def upgrade(
    check: Annotated[bool, typer.Option("--check", help="Change nothing: say what would be done, and look.")] = False,
    despite_audit: Annotated[
        str, typer.Option("--despite-audit", metavar="REASON", help="Why, although the audit log is not what it was.")
    ] = "",
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Bring the control store to the schema of this software; what runs with the release before goes on."""
    from mlops_ray.operations.upgrade import upgrade as upgrade_store

    settings = settings_of(state, config)
    if check:
        _check(settings)
        return
    done = upgrade_store(settings, lambda store: cli_actor(store, settings), despite_audit)
    if done.before is None:
        typer.echo(f"The database was empty; it has schema {SCHEMA_REVISION} now.")
    elif done.before >= SCHEMA_REVISION:
        typer.echo(f"Nothing to do: the control store has schema {done.before}.")
    else:
        typer.echo(f"The control store was brought from schema {done.before} to {SCHEMA_REVISION}.")
        typer.echo(f"Software of schema {done.usable_from} goes on with it: replace it release by release.")
        if done.backup is not None:
            typer.echo(f"The file as it was: {done.backup}")


def _check(settings: Settings) -> None:
    from mlops_ray.operations.outlook import look

    store = ControlStore(settings.control_store)
    if store.is_file and not store.file.exists():
        typer.echo(f"There is no control store at {store.file} yet; the first command that needs one makes it.")
        return
    seen = look(settings, store)
    for line in _in_words(str(store), seen):
        typer.echo(printable(line))
    store.close()
    if seen.hindrances:
        raise ConfigurationError("Nothing would be upgraded. " + " ".join(one.said for one in seen.hindrances))


def _in_words(place: str, seen: "Outlook") -> list[str]:
    stands = {
        "empty": "is empty; any command makes its tables",
        "foreign": f"belongs to another program (alembic_version {seen.found!r})",
        "older": f"has schema {seen.found}, and this software needs {SCHEMA_REVISION}",
        "current": f"has schema {seen.found}, which this software needs",
        "newer": f"has schema {seen.found}; this software is the release before ({SCHEMA_REVISION})",
        "too new": f"has schema {seen.found}; this software is too old for it ({SCHEMA_REVISION})",
    }
    lines = [f"The control store {place} {stands[seen.standing]}."]
    lines += [f"  {one.revision}  {one.what}" for one in seen.migrations]
    lines += [f"{'! ' if one.hinders else ''}{one.what}: {one.said}" for one in seen.findings]
    if seen.migrations:
        lines.append(f"Afterwards software of schema {seen.usable_from} or newer can use it.")
    return lines
