"""The commands `mlops-ray serve` and `mlops-ray predict`: the endpoint, and a question to it."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from mlops_ray.cli.options import (
    DEFAULT_URL,
    CaseArgument,
    ConfigOption,
    DataOption,
    PortOption,
    RepoOption,
    StateOption,
    UrlOption,
    moment_of,
)
from mlops_ray.cli.rollout import key_from
from mlops_ray.cli.schedule import declare, start_scheduler_here
from mlops_ray.client import API_KEY_VARIABLE
from mlops_ray.config import Settings, absolute, settings_of
from mlops_ray.errors import DataError
from mlops_ray.governance.development_keys import APPROVER_KEY_FILE, credential
from mlops_ray.operations.local_ray import ray_for, stay_while_ray_lives
from mlops_ray.use_case import load_use_case
from mlops_ray.use_case.loading import definitions_folder


def serve(
    use_case: CaseArgument,
    state: StateOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    feature_repo: RepoOption = None,
    port: PortOption = None,
) -> None:
    """Serve the champion, and govern its retraining where the use case declares one, until Ctrl-C.

    On an existing cluster, deploy it there and return.
    """
    settings, case = settings_of(state, config, data, port), load_use_case(use_case)
    with ray_for(settings, serving=True) as own:
        from mlops_ray.pipeline.promises import declare_promises

        declare_promises(settings, case)
        serve_use_case = quiet_serving()
        typer.echo(f"{serve_use_case(settings, case.name)}/predict answers.")
        if case.retraining is not None:
            from mlops_ray.retraining.governor_actor import start_governor

            repo = definitions_folder(use_case, feature_repo)
            start_governor(case, settings, repo, use_case, config=config and absolute(config))
            typer.echo("The governor decides on retraining: `mlops-ray audit show` tells what, and why.")
        if declare(settings, case, use_case, feature_repo):
            start_scheduler_here(settings, config)
        if not os.environ.get(API_KEY_VARIABLE) and (key := credential(settings)):
            typer.echo(key_line(settings, key))
        typer.echo(console_line(settings))
        if own:
            typer.echo("Serving until Ctrl-C.")
            stay_while_ray_lives()


def predict(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    keys: Annotated[str, typer.Argument(help="Entity keys and event time as JSON: an object, or a list of them.")],
    as_of: Annotated[str | None, typer.Option(help="The request's moment. [default: now]")] = None,
    url: UrlOption = DEFAULT_URL,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Ask a served model for a prediction, with the key in MLOPS_RAY_API_KEY or the development key in `state`."""
    from mlops_ray.client import Client

    try:
        rows = json.loads(keys)
    except ValueError as error:
        raise DataError(f"The keys are not JSON: {error}.") from None
    with Client(url, api_key=key_from(state, config), deadline_s=15) as client:  # somebody sits and waits
        answer = client.predict(name, keys=rows, as_of=moment_of("--as-of", as_of) if as_of else None)
    typer.echo(json.dumps(answer.to_json(), indent=2))


def quiet_serving() -> Callable[[Settings, str], str]:
    """The function that serves; Serve's own messages about starting are left out."""
    from mlops_ray.serving.local import serve_use_case

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    return serve_use_case


def console_line(settings: Settings) -> str:
    """Where people look, and as whom: on a machine of one's own, who made a version approves it with another key."""
    address = settings.console_url.rstrip("/") or settings.url
    how = "sign in at your provider, or with a key" if settings.oidc_client_id else "sign in with the key"
    approver = Path(settings.state) / APPROVER_KEY_FILE
    if approver.is_file():
        how += f", to approve with the one in {approver}"
    return f"Console:  {address}/console (pages for people; {how})"


def key_line(settings: Settings, key: str) -> str:
    return f"Key:      {key} (this machine's development key, kept in {settings.state}/development_key)"
