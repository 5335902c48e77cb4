"""The commands `mlops-ray keys` and `mlops-ray audit`."""

import getpass
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from mlops_ray.cli.options import ConfigOption, StateOption, moment_of, printable, settings_of
from mlops_ray.errors import IntegrityError
from mlops_ray.governance import audit as audit_log
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import Actor, Event, read_events
from mlops_ray.governance.principals import (
    ALL_USE_CASES,
    DEVELOPMENT,
    ROLES,
    KeyRecord,
    create_key,
    list_keys,
    revoke_key,
)

keys = typer.Typer(no_args_is_help=True, help="API keys: who may call, in which role.")
audit = typer.Typer(no_args_is_help=True, help="The audit log: everything that was done to keys and versions.")

PlaceOption = Annotated[str | None, typer.Option(help="File of the anchors. [default: the settings' audit_anchors]")]


@keys.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Who the key is for.")],
    role: Annotated[list[str], typer.Option(help=f"{', '.join(ROLES)}; can be given several times.")],
    use_case: Annotated[list[str] | None, typer.Option(help="Only on this one; several times. [default: all]")] = None,
    expires: Annotated[str | None, typer.Option(help="The key's end: an RFC 3339 moment. [default: never]")] = None,
    requests_per_s: Annotated[float | None, typer.Option(help="A limit of its own. [default: none]")] = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a key and print it, once."""
    store = open_store(settings_of(state, config))
    made = create_key(
        store,
        cli_actor(),
        name,
        role,
        use_case or (ALL_USE_CASES,),
        moment_of("--expires", expires) if expires else None,
        requests_per_s,
    )
    typer.echo(made.secret)
    typer.echo("Keep it now: only its hash is stored, so nobody can show it again.", err=True)


@keys.command("list")
def list_(state: StateOption = None, config: ConfigOption = None) -> None:
    """List all keys ever made, without their secrets."""
    for key in list_keys(open_store(settings_of(state, config))):
        typer.echo(_key_line(key, datetime.now(UTC)))


@keys.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(help="Name or id of the key.")],
    reason: Annotated[str, typer.Option(help="Why; it goes into the audit log.")],
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Revoke a key."""
    principal = revoke_key(open_store(settings_of(state, config)), cli_actor(), key, reason)
    typer.echo(f"Key {principal.name!r} is revoked; replicas refuse it within a minute.")


@audit.command("verify")
def verify(state: StateOption = None, config: ConfigOption = None, place: PlaceOption = None) -> None:
    """Check that no event was changed, removed or cut off; exit code 1 if one was."""
    settings = settings_of(state, config)
    found = audit_log.verify_store(open_store(settings), place or settings.audit_anchors)
    if not found.ok:
        raise IntegrityError(f"The audit log is not what it was ({found.checked} events are intact). {found.problem}")
    typer.echo(f"{found.checked} events are intact.")
    if found.not_anchored:
        ids = ", ".join(found.not_anchored[:10]) + (", …" if len(found.not_anchored) > 10 else "")
        typer.echo(f"Not anchored yet: {len(found.not_anchored)} ({ids}). `mlops-ray audit anchor` does it.")


@audit.command("anchor")
def anchor(state: StateOption = None, config: ConfigOption = None, place: PlaceOption = None) -> None:
    """Write the hash of the last event to a second place, so that a cut-off end is seen. Run it at an interval."""
    settings = settings_of(state, config)
    where = place or settings.audit_anchors
    done = audit_log.anchor(open_store(settings), where)
    typer.echo(f"Event {done.seq} is anchored in {where}." if done else "Nothing new to anchor.")


@audit.command("show")
def show(
    use_case: Annotated[str | None, typer.Option(help="Only events of this use case.")] = None,
    type: Annotated[list[str] | None, typer.Option(help="Only this type; several times.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only events about this, such as 'key ci'.")] = None,
    after: Annotated[int, typer.Option(help="Only events behind this number.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    full: Annotated[bool, typer.Option(help="All fields, a line of JSON for each event.")] = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Show events in their order, one a line."""
    for event in read_events(open_store(settings_of(state, config)), after, use_case, type, subject, limit):
        typer.echo(json.dumps(event.to_json()) if full else _event_line(event))


@audit.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Write all events to a file as JSON lines."""
    typer.echo(f"{audit_log.export(open_store(settings_of(state, config)), file)} events are in {file}.")


def cli_actor() -> Actor:
    """Who a command acts as.

    Whoever can open the control store is its administrator, so that is the development principal, and the account on
    this machine stands in each event's payload.
    """
    try:
        account = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        account = "unknown"
    return Actor(DEVELOPMENT, ("admin",), account)


def _key_line(key: KeyRecord, now: datetime) -> str:
    principal = key.principal
    if key.revoked_at:
        status = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}Z"
    elif principal.expires_at:
        status = f"{'expired' if principal.expires_at <= now else 'until'} {principal.expires_at:%Y-%m-%d %H:%M}Z"
    else:
        status = "active"
    all_ = ALL_USE_CASES in principal.use_cases
    roles, use_cases = ",".join(principal.roles), "all use cases" if all_ else ",".join(principal.use_cases)
    return f"{principal.id}  {principal.name}  {roles}  {use_cases}  {status}"


def _event_line(event: Event) -> str:
    parts = [f"{event.seq:>6}", f"{event.time:%Y-%m-%d %H:%M:%S}Z", event.severity, event.type, event.subject]
    parts += [f"by {event.actor}", event.reason]
    return printable("  ".join(part for part in parts if part))
