"""The commands `mlops-ray drift` and `mlops-ray alarms`: what monitoring sees."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from mlops_ray.artifacts import Artifacts
from mlops_ray.cli.governance import cli_actor
from mlops_ray.cli.options import ConfigOption, NameArgument, StateOption, moment_of, printable, settings_of
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.alarms import alarms_of, silence_alarm
from mlops_ray.governance.control_store import open_store

alarms = typer.Typer(no_args_is_help=True, help="Alarms: what monitoring found, and who silenced it.")


def drift(
    use_case: NameArgument,
    windows: Annotated[
        int | None, typer.Option(min=1, help="So many of the last windows of each kind. [default: 5, 60 in the page]")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Write one HTML page with charts, which needs no network.")] = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Show what the drift actor has seen: windows with their verdicts, quality estimated and measured, alarms."""
    from mlops_ray.monitoring.describe import describe
    from mlops_ray.monitoring.watch_state import read_state

    settings = settings_of(state, config)
    if page is not None:
        _write_page(settings, use_case, page, windows)
        return
    known = alarms_of(open_store(settings), use_case)
    for line in describe(read_state(Artifacts(settings.artifacts), use_case), known, datetime.now(UTC), windows or 5):
        typer.echo(printable(line))


def _write_page(settings: Settings, use_case: str, page: Path, windows: int | None) -> None:
    from mlops_ray.monitoring.show.drift_view import WINDOWS, drift

    view = drift(use_case, settings, windows or WINDOWS)
    page.write_text(view.page(), encoding="utf-8")
    standing = sum(alarm.resolved_at is None for alarm in view.alarms)
    typer.echo(f"{page}: {len(view.versions)} versions of {use_case}, {standing} alarms stand.")


@alarms.command("list")
def list_(
    use_case: NameArgument,
    everything: Annotated[bool, typer.Option("--all", help="Resolved ones too.")] = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """List alarms that are not resolved, one a line."""
    from mlops_ray.monitoring.describe import alarm_lines

    found = alarms_of(open_store(settings_of(state, config)), use_case)
    shown = [alarm for alarm in found if everything or alarm.resolved_at is None]
    for line in alarm_lines(shown, datetime.now(UTC)):
        typer.echo(printable(line))
    if not shown:
        typer.echo("No alarm was ever raised." if everything else "No alarm stands.")


@alarms.command("show")
def show(
    use_case: NameArgument,
    alarm: Annotated[str, typer.Argument(help="The alarm's id, or its beginning.")],
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Show one alarm with its features, how far they moved, and rows to look at."""
    from mlops_ray.monitoring.describe import alarm_details

    found = [one for one in alarms_of(open_store(settings_of(state, config)), use_case) if one.id.startswith(alarm)]
    if len(found) != 1:
        raise ConfigurationError(
            f"{len(found)} alarms of {use_case} begin with {alarm!r}. `alarms list --all` has all."
        )
    for line in alarm_details(found[0], datetime.now(UTC)):
        typer.echo(printable(line))


@alarms.command("silence")
def silence(
    use_case: NameArgument,
    alarm: Annotated[str, typer.Argument(help="The alarm's id, or its beginning.")],
    reason: Annotated[str, typer.Option(help="Why; it goes into the audit log.")],
    until: Annotated[str, typer.Option(help="An RFC 3339 moment.")],
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Let nobody act on an alarm for a time: no rollback, no retraining."""
    end = moment_of("--until", until)
    settings = settings_of(state, config)
    store = open_store(settings)
    actor = cli_actor(store, settings, "operate", use_case=use_case)
    silenced = silence_alarm(store, actor, use_case, alarm, reason, end, datetime.now(UTC))
    typer.echo(f"Alarm {silenced.id} is silenced until {end:%Y-%m-%d %H:%M %Z}.")
