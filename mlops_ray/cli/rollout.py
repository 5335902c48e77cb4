"""The command `mlops-ray rollout`: lets a new version in step by step, and out again, through the server's routes."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from mlops_ray.cli.options import (
    DEFAULT_URL,
    ConfigOption,
    JsonOption,
    NameArgument,
    ReasonOption,
    StateOption,
    UrlOption,
    echo_json,
)
from mlops_ray.client import Client
from mlops_ray.config import settings_of
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.development_keys import DEVELOPMENT_KEY_FILE

RevisionOption = Annotated[
    int | None,
    typer.Option(help="What `status` showed when this was decided; by default what is live now. Later, it is refused."),
]

rollout = typer.Typer(
    no_args_is_help=True,
    help="Rollouts: shadow, canary, promotion, rollback. The key is MLOPS_RAY_API_KEY, or the development key.",
)


@rollout.command()
def start(
    model: NameArgument,
    version: Annotated[int, typer.Argument(help="The registered version that comes in.")],
    plan: Annotated[str | None, typer.Option(help="Steps and rules (YAML); see docs/rollout.md.")] = None,
    reason: ReasonOption = "",
    revision: RevisionOption = None,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Begin a rollout: the version is loaded by every replica, then the first step is in force."""
    with server(url, state, config) as client:
        _show_changed(client.rollouts.start(model, version, _plan(plan), revision, reason), as_json)


@rollout.command()
def status(
    model: NameArgument,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Show what is live, how far the rollout is, and what was counted in this step."""
    with server(url, state, config) as client:
        found = client.rollouts.status(model)
    if as_json:
        echo_json(found)
    else:
        _show(found)


def _told(
    name: str, does: str, which: str, shall: str, tell: Callable[[Client], Callable[..., dict[str, Any]]]
) -> None:
    """A command by which somebody tells a rollout something, on the revision that they saw."""

    def command(
        model: NameArgument,
        to: Annotated[int | None, typer.Option(help=shall)] = None,
        reason: ReasonOption = "",
        revision: RevisionOption = None,
        as_json: JsonOption = False,
        url: UrlOption = DEFAULT_URL,
        state: StateOption = None,
        config: ConfigOption = None,
    ) -> None:
        with server(url, state, config) as client:
            target = _target(client, model, to, which)
            _show_changed(tell(client)(model, target, reason, revision), as_json)

    rollout.command(name, help=does)(command)


_told(
    "pause",
    "Let the rollout go no step on by itself; what is wrong with its version still ends it.",
    "comes in",
    "The version whose rollout it is.",
    lambda client: client.rollouts.pause,
)
_told(
    "resume",
    "Let a rollout that was paused go on by itself again.",
    "comes in",
    "The version whose rollout it is.",
    lambda client: client.rollouts.resume,
)
_told(
    "promote",
    "Make the version that comes in champion now. Given again, it changes nothing.",
    "comes in",
    "The version that shall be champion afterwards.",
    lambda client: client.rollouts.promote,
)
_told(
    "rollback",
    "Let one version answer everything: end the rollout, or go back to an earlier champion. Given again, it changes "
    "nothing.",
    "stays or returns",
    "The version that shall answer everything afterwards.",
    lambda client: client.rollouts.roll_back,
)


def key_from(state: str | None, config: str | None, file_name: str = DEVELOPMENT_KEY_FILE) -> str | None:
    """The key in MLOPS_RAY_API_KEY, or else the development key of an embedded set-up, if there is one."""
    folder = settings_of(state, config).state
    file = Path(folder) / file_name
    return os.environ.get("MLOPS_RAY_API_KEY") or (file.read_text().strip() if file.is_file() else None)


def _plan(file: str | None) -> Any:
    if file is None:
        return {}
    try:
        return yaml.safe_load(Path(file).read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"Plan {file} cannot be read: {error}") from error


def _target(client: Client, model: str, to: int | None, what: str) -> int:
    """The version that was named: one that the command found out would be another when it is given again."""
    if to is not None:
        return to
    shown = client.rollouts.status(model)
    champion, previous, running = shown["champion"], shown["previous"], shown["rollout"]
    if what == "comes in":
        choices = [running["version"]] if running else []
    else:
        choices = [champion] if running else [previous] if previous else []
    hint = f"--to {choices[0]['version']}" if choices else "nothing; `status` shows what is live"
    raise ConfigurationError(f"Name the version that {what}, so that the command is safe to repeat. There is: {hint}.")


def server(url: str, state: str | None, config: str | None, file_name: str = DEVELOPMENT_KEY_FILE) -> Client:
    """A client of the server, for somebody who sits and waits. file_name: of the development key, where no other is
    given. Raises ConfigurationError without a key."""
    key = key_from(state, config, file_name)
    if key is None:
        raise ConfigurationError(
            "There is no credential: set MLOPS_RAY_API_KEY, or give the folder with the development key (--state)."
        )
    return Client(url, attempts=3, deadline_s=15, api_key=key)


def _show_changed(shown: dict[str, Any], as_json: bool) -> None:
    if as_json:
        echo_json(shown)
        return
    if not shown["changed"]:
        typer.echo("Nothing was changed: it is so already.")
    _show(shown)


def _show(state: dict[str, Any]) -> None:
    champion, previous, running = state["champion"], state["previous"], state["rollout"]
    typer.echo(f"Champion: version {champion['version']} since {state['champion_since']}")
    if previous:
        typer.echo(f"Previous: version {previous['version']}")
    if running:
        steps, at = running["plan"]["steps"], running["step"]
        paused = f", paused since {running['paused_at']}" if running["paused_at"] else ""
        typer.echo(f"Rollout:  version {running['version']['version']}, {running['state']}{paused}")
        for number, step in enumerate(steps):
            mark = "→" if running["state"] == "running" and number == at else " "
            typer.echo(f"        {mark} {step['route']} {step['share']:.0%} for {step['hold_s']:g} s")
        typer.echo(f"Counted:  {json.dumps(state['progress'])}")
    for replica in state["replicas"]:
        failed = f", failed: {'; '.join(replica['failed'].values())}" if replica["failed"] else ""
        loading = "".join(
            f", loads version {version} for {how['seconds']:.0f} s {how['trouble']}".rstrip()
            for version, how in replica["loading"].items()
        )
        typer.echo(
            f"Replica:  {replica['id']} answers with version {replica['serving']} on revision {replica['revision']} of "
            f"{state['revision']}, heard {replica['silent_s']:.0f} s ago{loading}{failed}"
        )
