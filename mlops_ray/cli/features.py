"""The commands `mlops-ray features`: the values that live endpoints read."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
import uuid6

from mlops_ray.cli.early_start import EarlyStart
from mlops_ray.cli.governance import cli_actor
from mlops_ray.cli.options import (
    CaseArgument,
    ConfigOption,
    DataOption,
    JsonOption,
    NameArgument,
    RepoOption,
    StateOption,
    echo_json,
    moment_of,
)
from mlops_ray.cli.run import MomentOption
from mlops_ray.config import settings_of
from mlops_ray.cost.meter import metered
from mlops_ray.errors import BudgetError, ConfigurationError, DataError, StalledError, UnavailableError
from mlops_ray.governance.control_store import open_store
from mlops_ray.operations.preconditions import expect_can_work
from mlops_ray.show.text import printable
from mlops_ray.use_case import load_use_case
from mlops_ray.use_case.loading import definitions_folder

features = typer.Typer(no_args_is_help=True, help="Features: the values that live endpoints read.")

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@features.command()
def refresh(
    use_case: CaseArgument,
    as_of: MomentOption = None,
    every: Annotated[
        str | None, typer.Option(help="Go on, once in this time, such as 15m or 1h, until Ctrl-C. [default: once]")
    ] = None,
    state: StateOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    feature_repo: RepoOption = None,
) -> None:
    """Take new data through ingest and features to the online store; models and versions stay as they are."""
    if every and as_of:
        raise ConfigurationError("--every takes what is new each time, so it does not go with --as-of. Leave one out.")
    interval = duration_of("--every", every) if every else None
    settings, case = settings_of(state, config, data), load_use_case(use_case)
    moment = moment_of("--as-of", as_of) if as_of else None
    expect_can_work(settings)
    with EarlyStart(settings, serving=False) as start:
        from rich.console import Console

        from mlops_ray.pipeline.progress import TerminalProgress
        from mlops_ray.pipeline.refresh import refresh as run

        repo = definitions_folder(use_case, feature_repo)

        progress, tag = TerminalProgress(Console(stderr=True)), str(uuid6.uuid7())

        def once() -> None:
            # Ray's workers outlive a round, and keep its name.
            with metered(settings, case.name, tag, may_end_process=True) as meter:
                found = run(case, settings, repo, moment, progress, start.ray, meter)
            typer.echo(json.dumps(asdict(found), indent=2))
            for version in found.versions:
                if version.why_not:
                    typer.secho(f"{case.name}@{version.version}: {version.why_not}", fg="yellow", err=True)

        if interval is None:
            once()
        else:
            again_and_again(once, interval)


def again_and_again(work: Callable[[], None], every: timedelta, rounds: int | None = None) -> None:
    """Do something once in each interval, and at once if it took longer; so many rounds, or for ever.

    A round whose data are wrong, whose stores are away, whose budget is spent or that made no progress is said and
    tried again in the next. Other errors end it.
    """
    while rounds is None or rounds > 0:
        started_s = time.monotonic()
        try:
            work()
        except (BudgetError, DataError, StalledError, UnavailableError) as error:
            typer.secho(f"{datetime.now(UTC).isoformat(timespec='seconds')} {error}", fg="red", err=True)
        rounds = rounds and rounds - 1
        if rounds != 0:
            time.sleep(max(0.0, every.total_seconds() - (time.monotonic() - started_s)))


def duration_of(option: str, text: str) -> timedelta:
    """A length of time such as 30s, 15m, 2h or 1d. Raises ConfigurationError naming the option if it is none."""
    found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    if found is None:
        raise ConfigurationError(f"{option} {ascii(text)[:60]} is no length of time. Examples: 30s, 15m, 2h, 1d.")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


@features.command("list")
def list_(as_json: JsonOption = False, state: StateOption = None, config: ConfigOption = None) -> None:
    """List the feature views that versions which serve read: keys, age of the newest value of its ttl, owner, users."""
    from mlops_ray.pipeline.feature_list import age_in_words, list_views

    settings, now = settings_of(state, config), datetime.now(UTC)
    found = list_views(settings, open_store(settings), now)
    if as_json:
        echo_json([one.to_json(now) for one in found])
        return
    for one in found:
        parts = [one.view.name, ", ".join(one.view.keys), age_in_words(one, now), one.owner or "no owner"]
        typer.echo(printable("  ".join([*parts, ", ".join(one.used_by), one.description]).rstrip()))


@features.command()
def show(
    view: Annotated[str, typer.Argument(metavar="VIEW", help="The name of a feature view.")],
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Show a feature view as JSON: definition, owner, who uses it, freshness, what its rows are like."""
    from mlops_ray.pipeline.feature_list import show_view

    settings, now = settings_of(state, config), datetime.now(UTC)
    found = show_view(settings, open_store(settings), view, now)
    typer.echo(json.dumps([one.to_json(now) for one in found], indent=2, default=str))


@features.command()
def parity(
    use_case: NameArgument,
    since: Annotated[str | None, typer.Option(help="Answered since, RFC 3339. [default: a day before the end]")] = None,
    until: Annotated[str | None, typer.Option(help="Answered before, RFC 3339. [default: now]")] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many predictions to sample.")] = 1_000,
    fail_above: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="If a greater part of the values differs: event parity.failed, and exit 1."),
    ] = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Compute features that were served again from their history, and show feature by feature what differs."""
    from mlops_ray.pipeline.served_parity import NothingServedError, report_failed, served_parity

    settings = settings_of(state, config)
    end = moment_of("--until", until) if until else datetime.now(UTC)
    start = moment_of("--since", since) if since else end - timedelta(days=1)
    try:
        found = served_parity(settings, use_case, start, end, rows)
    except NothingServedError as error:
        if fail_above is None:
            raise
        typer.echo(str(error))
        return
    typer.echo(json.dumps(found.to_json(), indent=2))
    for cause in found.causes:
        typer.secho(printable(cause), fg="yellow", err=True)
    if fail_above is not None:
        store = open_store(settings)
        if report_failed(store, found, fail_above, cli_actor(store, settings, "operate", use_case=use_case)):
            raise typer.Exit(1)
