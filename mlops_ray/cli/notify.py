"""The command `mlops-ray notify`: who is told of what."""

import json
import signal
from datetime import datetime
from typing import Annotated, Any

import typer

from mlops_ray.cli.governance import cli_actor
from mlops_ray.cli.options import (
    ConfigOption,
    JsonOption,
    ReasonOption,
    ServerOption,
    StateOption,
    echo_json,
)
from mlops_ray.cli.rollout import server
from mlops_ray.config import Settings, settings_of
from mlops_ray.errors import UnavailableError
from mlops_ray.governance.channels import Channels
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.dispatcher import Dispatcher
from mlops_ray.governance.events import SEVERITIES, Actor
from mlops_ray.governance.notifications import list_subscriptions, pause, resume, send_test, subscribe, unsubscribe
from mlops_ray.serving.subscriptions import described, waiting_by_id
from mlops_ray.show.text import printable

notify = typer.Typer(no_args_is_help=True, help="Notifications: which events go where.")
IdArgument = Annotated[str, typer.Argument(help="The subscription's id.")]


@notify.command("subscribe")
def subscribe_(
    channel: Annotated[
        str, typer.Argument(help="An https URL (a signed webhook), a URL of Apprise, env:NAME or file:/path.")
    ],
    use_case: Annotated[str | None, typer.Option(help="Only events of this use case.")] = None,
    type: Annotated[list[str] | None, typer.Option(help="Only this type; several times.")] = None,
    severity: Annotated[str, typer.Option(help=f"At least so severe: {', '.join(SEVERITIES)}.")] = "info",
    secret: Annotated[str, typer.Option(help="What signs: env:NAME or file:/path; else a new one is made.")] = "",
    as_json: JsonOption = False,
    url: ServerOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Send events to a channel from now on."""
    if url:
        with server(url, state, config) as client:
            made = client.subscriptions.create(channel, use_case, type or (), severity, secret)
        id, new_secret = made["subscription"]["id"], made["secret"]
    else:
        settings = settings_of(state, config)
        channels, store = Channels(settings.webhook_allowed_hosts), open_store(settings)
        actor = cli_actor(store, settings, "operate", use_case=use_case)
        stored = subscribe(store, actor, channels, channel, use_case, type or (), severity, secret)
        id, new_secret = stored.subscription.id, "" if secret else stored.secret
    if as_json:
        echo_json({"id": id, "secret": new_secret})
        return
    typer.echo(id)
    if new_secret:
        typer.echo(f"Its receiver checks signatures with {new_secret} (docs/notifications.md).", err=True)


@notify.command("list")
def list_(
    as_json: JsonOption = False, url: ServerOption = None, state: StateOption = None, config: ConfigOption = None
) -> None:
    """List subscriptions, and what waits for each."""
    if url:
        with server(url, state, config) as client:
            subscriptions = client.subscriptions.list()
    else:
        store = open_store(settings_of(state, config))
        backlog = waiting_by_id(store)
        subscriptions = [described(one, backlog) for one in list_subscriptions(store)]
    if as_json:
        echo_json(subscriptions)
        return
    if not subscriptions:
        typer.echo("Nobody is told of anything yet. `mlops-ray notify subscribe` changes that.")
    for found in subscriptions:
        typer.echo(_line(found))


@notify.command("pause")
def pause_(
    id: IdArgument, reason: ReasonOption = "", url: ServerOption = None, state: StateOption = None,
    config: ConfigOption = None,
) -> None:  # fmt: skip
    """Let what a subscription wants wait: nothing of it is lost."""
    if url:
        with server(url, state, config) as client:
            client.subscriptions.pause(id, reason)
    else:
        settings = settings_of(state, config)
        store = open_store(settings)
        pause(store, _actor(store, settings, id), id, reason)
    typer.echo(f"{id} is paused; `mlops-ray notify resume` sends what waits.")


@notify.command("resume")
def resume_(
    id: IdArgument, reason: ReasonOption = "", url: ServerOption = None, state: StateOption = None,
    config: ConfigOption = None,
) -> None:  # fmt: skip
    """Send what waits for a subscription, and what comes."""
    if url:
        with server(url, state, config) as client:
            client.subscriptions.resume(id, reason)
    else:
        settings = settings_of(state, config)
        store = open_store(settings)
        resume(store, _actor(store, settings, id), id, reason)
    typer.echo(f"{id} is sent what it wants again.")


@notify.command("unsubscribe")
def unsubscribe_(
    id: IdArgument, reason: ReasonOption = "", url: ServerOption = None, state: StateOption = None,
    config: ConfigOption = None,
) -> None:  # fmt: skip
    """End a subscription; what waits for it is dropped."""
    if url:
        with server(url, state, config) as client:
            client.subscriptions.end(id, reason)
    else:
        settings = settings_of(state, config)
        store = open_store(settings)
        unsubscribe(store, _actor(store, settings, id), id, reason)
    typer.echo(f"{id} is ended.")


@notify.command("test")
def send_test_(
    id: IdArgument, url: ServerOption = None, state: StateOption = None, config: ConfigOption = None
) -> None:
    """Send an event that never happened, now, and say whether it was taken."""
    if url:
        with server(url, state, config) as client:
            sent = client.subscriptions.test(id)
        if not sent["taken"]:
            raise UnavailableError(sent["error"])
        event = sent["event"]
    else:
        settings = settings_of(state, config)
        store = open_store(settings)
        event = send_test(store, _actor(store, settings, id), Channels(settings.webhook_allowed_hosts), id).id
    typer.echo(json.dumps({"taken": True, "id": event}))


@notify.command("run")
def run(state: StateOption = None, config: ConfigOption = None) -> None:
    """Deliver until Ctrl-C. The server does so as well; of several, one works and the others wait."""
    settings = settings_of(state, config)
    dispatcher = Dispatcher(open_store(settings), settings)
    signal.signal(signal.SIGTERM, lambda *_: dispatcher.stop())
    signal.signal(signal.SIGINT, lambda *_: dispatcher.stop())
    typer.echo("Delivering until Ctrl-C.")
    dispatcher.run()


def _actor(store: ControlStore, settings: Settings, id: str) -> Actor:
    """As who a subscription is changed: whoever operates its use case may, or all of them where it is of none."""
    use_case = next((one.use_case for one in list_subscriptions(store) if one.id == id), None)
    return cli_actor(store, settings, "operate", use_case=use_case)


def _line(found: dict[str, Any]) -> str:
    parts = [found["id"], found["channel"], found["use_case"] or "all use cases"]
    parts += [",".join(found["types"]) or "all types", f"from {found['minimum_severity']}"]
    if found["paused_at"]:
        parts.append(f"paused since {_moment(found['paused_at'])}")
    if waiting := found["waiting"]:
        parts += [f"{waiting['events']} waiting since {_moment(waiting['oldest'])}", waiting["error"]]
    return printable("  ".join(part for part in parts if part))


def _moment(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S}Z"
