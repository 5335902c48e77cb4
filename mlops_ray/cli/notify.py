"""The command `mlops-ray notify`: who is told of what."""

import json
import signal
from typing import Annotated

import typer

from mlops_ray.cli.governance import cli_actor
from mlops_ray.cli.options import ConfigOption, StateOption, printable, settings_of
from mlops_ray.governance.channels import Channels
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.dispatcher import Dispatcher
from mlops_ray.governance.events import SEVERITIES
from mlops_ray.governance.notifications import (
    list_subscriptions,
    send_test,
    subscribe,
    unsubscribe,
    waiting,
)

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
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Send events to a channel from now on."""
    settings = settings_of(state, config)
    channels = Channels(settings.webhook_allowed_hosts)
    store = open_store(settings)
    actor = cli_actor(store, settings, "operate", use_case=use_case)
    made = subscribe(store, actor, channels, channel, use_case, type or (), severity, secret)
    typer.echo(made.subscription.id)
    if made.secret and not secret:
        typer.echo(f"Its receiver checks signatures with {made.secret} (docs/notifications.md).", err=True)


@notify.command("list")
def list_(state: StateOption = None, config: ConfigOption = None) -> None:
    """List subscriptions, and what waits for each."""
    store = open_store(settings_of(state, config))
    backlog = {one.subscription: one for one in waiting(store)}
    subscriptions = list_subscriptions(store)
    if not subscriptions:
        typer.echo("Nobody is told of anything yet. `mlops-ray notify subscribe` changes that.")
    for found in subscriptions:
        shown = found.shown()
        parts = [found.id, str(shown["channel"]), found.use_case or "all use cases"]
        parts += [",".join(found.types) or "all types", f"from {found.minimum_severity}"]
        if one := backlog.get(found.id):
            parts += [f"{one.events} waiting since {one.oldest:%Y-%m-%d %H:%M:%S}Z", one.error]
        typer.echo(printable("  ".join(part for part in parts if part)))


@notify.command("unsubscribe")
def unsubscribe_(id: IdArgument, state: StateOption = None, config: ConfigOption = None) -> None:
    """End a subscription; what waits for it is dropped."""
    settings = settings_of(state, config)
    store = open_store(settings)
    found = unsubscribe(store, cli_actor(store, settings, "operate"), id)
    typer.echo(f"{found.id} is ended.")


@notify.command("test")
def send_test_(id: IdArgument, state: StateOption = None, config: ConfigOption = None) -> None:
    """Send an event that never happened, now, and say whether it was taken."""
    settings = settings_of(state, config)
    store = open_store(settings)
    event = send_test(store, cli_actor(store, settings, "operate"), Channels(settings.webhook_allowed_hosts), id)
    typer.echo(json.dumps({"taken": True, "id": event.id}))


@notify.command("run")
def run(state: StateOption = None, config: ConfigOption = None) -> None:
    """Deliver until Ctrl-C. The server does so as well; of several, one works and the others wait."""
    settings = settings_of(state, config)
    dispatcher = Dispatcher(open_store(settings), settings)
    signal.signal(signal.SIGTERM, lambda *_: dispatcher.stop())
    signal.signal(signal.SIGINT, lambda *_: dispatcher.stop())
    typer.echo("Delivering until Ctrl-C.")
    dispatcher.run()
