"""The commands `mlops-ray keys` and `mlops-ray audit`."""

import json
import os
import pwd
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from mlops_ray.cli.options import (
    ConfigOption,
    JsonOption,
    ReasonOption,
    ServerOption,
    StateOption,
    echo_json,
    moment_of,
)
from mlops_ray.cli.rollout import server
from mlops_ray.client import Client
from mlops_ray.config import Settings, settings_of
from mlops_ray.errors import ConfigurationError, ForbiddenError, IntegrityError, UnavailableError
from mlops_ray.governance import anchors
from mlops_ray.governance import audit as audit_log
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.development_keys import acting
from mlops_ray.governance.erasures import NOT_REACHED, erase_person, erase_reasons
from mlops_ray.governance.events import SYSTEM, Actor, read_events
from mlops_ray.governance.keys import KeyRecord, create_key, has_administrator, list_keys, revoke_key, rotate_key
from mlops_ray.governance.principals import ALL_USE_CASES, DEVELOPMENT, ROLES
from mlops_ray.governance.second_place import SecondPlace
from mlops_ray.serving.audit_log import result_of
from mlops_ray.serving.keys import person_named
from mlops_ray.show.text import printable

keys = typer.Typer(no_args_is_help=True, help="API keys: who may call, in which role.")
audit = typer.Typer(no_args_is_help=True, help="The audit log: everything that was done to keys and versions.")

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Name or id of the key.")]
PlaceOption = Annotated[str | None, typer.Option(help="File of the anchors. [default: the settings' audit_anchors]")]


@keys.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Who the key is for.")],
    role: Annotated[list[str], typer.Option(help=f"{', '.join(ROLES)}; can be given several times.")],
    use_case: Annotated[list[str] | None, typer.Option(help="Only on this one; several times. [default: all]")] = None,
    expires: Annotated[str | None, typer.Option(help="The key's end: an RFC 3339 moment. [default: never]")] = None,
    requests_per_s: Annotated[float | None, typer.Option(help="A limit of its own. [default: none]")] = None,
    person: Annotated[str | None, typer.Option(help="Whose it is, by another key of theirs. [default: NAME]")] = None,
    oidc_sub: Annotated[str | None, typer.Option(help="Whose it is, by the sub of their tokens.")] = None,
    as_json: JsonOption = False,
    url: ServerOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a key and print it, once."""
    use_cases, end = use_case or (ALL_USE_CASES,), moment_of("--expires", expires) if expires else None
    if url:
        with server(url, state, config) as client:
            made = client.keys.create(name, role, use_cases, end, requests_per_s, person, oidc_sub)
        key, secret = made["key"], made["secret"]
    else:
        settings = settings_of(state, config)
        whose, store = person_named(settings, person, oidc_sub), open_store(settings)
        actor = cli_actor(store, settings)
        stored = create_key(store, actor, name, role, use_cases, end, requests_per_s, person=whose)
        key, secret = KeyRecord(stored.principal, stored.created_at, None).shown(), stored.secret
    _show_once(key, secret, as_json)


@keys.command("list")
def list_(
    as_json: JsonOption = False, url: ServerOption = None, state: StateOption = None, config: ConfigOption = None
) -> None:
    """List all keys ever made, without their secrets."""
    if url:
        with server(url, state, config) as client:
            found = client.keys.list()
    else:
        settings = settings_of(state, config)
        store = open_store(settings)
        expect_reader(store, settings)
        found = [key.shown() for key in list_keys(store)]
    if as_json:
        echo_json(found)
        return
    for key in found:
        typer.echo(_key_line(key, datetime.now(UTC)))


@keys.command("revoke")
def revoke(
    key: KeyArgument,
    reason: ReasonOption,
    url: ServerOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Revoke a key."""
    if url:
        with server(url, state, config) as client:
            name = client.keys.revoke(key, reason)["name"]
    else:
        settings = settings_of(state, config)
        store = open_store(settings)
        name = revoke_key(store, cli_actor(store, settings), key, reason).name
    typer.echo(f"Key {name!r} is revoked; replicas refuse it within a minute.")


@keys.command("rotate")
def rotate(
    key: KeyArgument,
    until: Annotated[str, typer.Option(help="Until when the old one counts beside it: an RFC 3339 moment.")],
    reason: ReasonOption,
    as_json: JsonOption = False,
    url: ServerOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Replace a key by another of the same person, name and roles, and print it, once."""
    end = moment_of("--until", until)
    if url:
        with server(url, state, config) as client:
            made = client.keys.rotate(key, end, reason)
        shown, secret = made["key"], made["secret"]
    else:
        settings = settings_of(state, config)
        store = open_store(settings)
        stored = rotate_key(store, cli_actor(store, settings), key, end, reason)
        shown, secret = KeyRecord(stored.principal, stored.created_at, None).shown(), stored.secret
    _show_once(shown, secret, as_json)


def _show_once(key: Mapping[str, Any], secret: str, as_json: bool) -> None:
    if as_json:
        echo_json({"key": key, "secret": secret})
    else:
        typer.echo(secret)
    typer.echo("Keep it now: only its hash is stored, so nobody can show it again.", err=True)


@audit.command("verify")
def verify(
    as_json: JsonOption = False,
    url: ServerOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
    place: PlaceOption = None,
) -> None:
    """Check that no event was changed, removed or cut off, and that the tables hold what the events say; exit code 1 if
    not."""
    if url:
        with server(url, state, config) as client:
            found = client.audit.verify()
    else:
        settings = settings_of(state, config)
        store = open_store(settings)
        expect_reader(store, settings)
        if store.schema().standing() == "newer":
            raise ConfigurationError("The control store was upgraded to the next release. Verify with that one.")
        found = result_of(audit_log.verify_store(store, _with_place(settings, place)))
    if as_json:
        echo_json(found)
    _show_found(found, as_json)


def _show_found(found: Mapping[str, Any], told: bool) -> None:
    """told: that it is said already, if it is good."""
    if "error" in found:
        raise UnavailableError(f"The audit log could not be verified: {found['error']}")
    if not found["ok"]:
        what = f"The audit log is not what it was ({found['checked']} events are intact). {found['problem']}"
        raise IntegrityError(what)
    if told:
        return
    typer.echo(f"{found['checked']} events are intact.")
    if count := found["not_anchored_events"]:
        ids = ", ".join(found["not_anchored"][:10]) + (", …" if count > 10 else "")
        typer.echo(f"Not anchored yet: {count} ({ids}). `mlops-ray audit anchor` does it.")
    typer.echo(f"The tables hold what they say: {', '.join(found['compared'])}.")
    typer.echo("Not found would be:")
    for limit in found["limits"]:
        typer.echo(printable(f"- {limit}"))


@audit.command("anchor")
def anchor(state: StateOption = None, config: ConfigOption = None, place: PlaceOption = None) -> None:
    """Write number, hash and Merkle root of the last event outside, so that a cut-off end is seen, and bring to the
    second place what it lacks. Who serves does it every five minutes."""
    settings = _with_place(settings_of(state, config), place)
    done = anchors.anchor(open_store(settings), settings)
    if done is None:
        typer.echo("Nothing new to anchor.")
        return
    second = f" and {SecondPlace(settings.audit_second_place)}" if settings.audit_second_place else ""
    typer.echo(printable(f"Event {done.seq} is anchored in {settings.audit_anchors}{second}."))


def _with_place(settings: Settings, place: str | None) -> Settings:
    return settings.model_copy(update={"audit_anchors": place}) if place else settings


@audit.command("show")
def show(
    use_case: Annotated[str | None, typer.Option(help="Only events of this use case.")] = None,
    type: Annotated[list[str] | None, typer.Option(help="Only this type; several times.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only events about this, such as 'key ci'.")] = None,
    after: Annotated[int, typer.Option(help="Only events behind this number.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    full: Annotated[bool, typer.Option("--full", "--json", help="All fields, a line of JSON for each event.")] = False,
    url: ServerOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Show events in their order, one a line."""
    if url:
        with server(url, state, config) as client:
            found = client.audit.events(after, use_case, type or (), subject, limit)
    else:
        settings = settings_of(state, config)
        store = open_store(settings)
        expect_reader(store, settings, use_case)
        found = [event.to_json() for event in read_events(store, after, use_case, type, subject, limit)]
    for event in found:
        typer.echo(json.dumps(event) if full else _event_line(event))


@audit.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    url: ServerOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Write all events to a file as JSON lines."""
    if url:
        with server(url, state, config) as client:
            count = audit_log.write_lines(_all_events(client), file)
    else:
        settings = settings_of(state, config)
        store = open_store(settings)
        expect_reader(store, settings)
        count = audit_log.export(store, file)
    typer.echo(f"{count} events are in {file}.")


def _all_events(client: Client) -> Iterator[dict[str, Any]]:
    last = 0
    while found := client.audit.events(last):
        yield from found
        last = found[-1]["seq"]


@audit.command("erase")
def erase(
    reason: Annotated[str, typer.Option(help="Why, such as the number of a request; goes into the audit log.")],
    event: Annotated[list[int] | None, typer.Option(help="Only the reason of this event; several times.")] = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Erase what tells of a person, whose name or id it asks for, from events and tables; the chain still holds."""
    settings = settings_of(state, config)
    store = open_store(settings)
    actor = cli_actor(store, settings)
    if event:
        done = erase_reasons(store, actor, event, reason)
    else:
        done = erase_person(store, actor, typer.prompt("Name or id (not shown)", hide_input=True), reason)
    typer.echo(f"{done.texts} texts of {done.events} events, and {done.rows} rows, say {done.pseudonym} now.")
    typer.echo(f"Not reached: {'; '.join(NOT_REACHED)}.")


def cli_actor(store: ControlStore, settings: Settings, *roles: str, use_case: str | None = None) -> Actor:
    """Who a command acts as, which needs one of `roles` (or admin) on `use_case`; None: on the platform.

    It is whose key is in MLOPS_RAY_API_KEY. Without one: the only user of an embedded set-up; or, where no key is an
    administrator's, as before the first one, whoever can open the control store. Their account on this machine stands
    in the event's payload. Raises ForbiddenError otherwise.
    """
    secret = os.environ.get("MLOPS_RAY_API_KEY")
    actor = acting(store, settings, secret, use_case)
    where = f" on {use_case}" if use_case else ""
    if actor == SYSTEM and not has_administrator(store):
        return replace(actor, os_user=_account())
    if not {*roles, "admin"}.intersection(actor.roles):
        who = "you gave none" if actor == SYSTEM else f"{actor.name} does not carry it"
        raise ForbiddenError(
            f"This needs a key with the role {' or '.join(dict.fromkeys((*roles, 'admin')))}{where}, and {who}. "
            f"Set MLOPS_RAY_API_KEY."
        )
    return actor if actor.id and actor.id != DEVELOPMENT else replace(actor, os_user=_account())


def expect_reader(store: ControlStore, settings: Settings, use_case: str | None = None) -> None:
    """Raise ForbiddenError if a key is given that may not audit. Whoever can open the control store needs none."""
    if os.environ.get("MLOPS_RAY_API_KEY"):
        cli_actor(store, settings, "audit", use_case=use_case)


def _account() -> str:
    """As the machine knows it: environment variables say what their user wants."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container whose user has no name
        return str(os.getuid())


def _key_line(key: Mapping[str, Any], now: datetime) -> str:
    revoked_at, expires_at = (key[name] and datetime.fromisoformat(key[name]) for name in ("revoked_at", "expires_at"))
    if revoked_at:
        status = f"{'revoked' if revoked_at <= now else 'replaced, until'} {revoked_at:%Y-%m-%d %H:%M}Z"
    elif expires_at:
        status = f"{'expired' if expires_at <= now else 'until'} {expires_at:%Y-%m-%d %H:%M}Z"
    else:
        status = "active"
    all_ = ALL_USE_CASES in key["use_cases"]
    roles, use_cases = ",".join(key["roles"]), "all use cases" if all_ else ",".join(key["use_cases"])
    whose = f"of {key['person']}" if key["person"] != key["id"] else ""
    return printable("  ".join(part for part in (key["id"], key["name"], roles, use_cases, status, whose) if part))


def _event_line(event: Mapping[str, Any]) -> str:
    moment = datetime.fromisoformat(event["time"])
    parts = [f"{event['seq']:>6}", f"{moment:%Y-%m-%d %H:%M:%S}Z", event["severity"], event["type"], event["subject"]]
    parts += [f"by {event['actor']}", event["reason"]]
    return printable("  ".join(part for part in parts if part))
