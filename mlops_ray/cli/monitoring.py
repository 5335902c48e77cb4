"""The commands `mlops-ray drift`, `alarms` and `monitoring`: what monitoring sees, and how it looks."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from mlops_ray.artifacts import Artifacts
from mlops_ray.cli.governance import cli_actor
from mlops_ray.cli.options import (
    CaseArgument,
    ConfigOption,
    JsonOption,
    NameArgument,
    ReasonOption,
    StateOption,
    echo_json,
    moment_of,
)
from mlops_ray.config import Settings, settings_of
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.alarms import alarms_of, silence_alarm
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.monitoring_definitions import definition_of, definitions
from mlops_ray.show.text import printable
from mlops_ray.use_case import Monitoring, load_use_case

monitoring = typer.Typer(no_args_is_help=True, help="How predictions of a use case are watched, beside its models.")
alarms = typer.Typer(no_args_is_help=True, help="Alarms: what monitoring found, and who silenced it.")


def drift(
    use_case: NameArgument,
    windows: Annotated[
        int | None, typer.Option(min=1, help="So many of the last windows of each kind. [default: 5, 60 in the page]")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Write one HTML page with charts, which needs no network.")] = None,
    as_json: JsonOption = False,
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
    if as_json:
        from mlops_ray.monitoring.show.drift_view import drift as look

        echo_json(look(use_case, settings, windows or 5).numbers())
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
    as_json: JsonOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """List alarms that are not resolved, one a line."""
    from mlops_ray.monitoring.describe import alarm_lines

    found = alarms_of(open_store(settings_of(state, config)), use_case)
    shown = [alarm for alarm in found if everything or alarm.resolved_at is None]
    if as_json:
        echo_json(shown)
        return
    for line in alarm_lines(shown, datetime.now(UTC)):
        typer.echo(printable(line))
    if not shown:
        typer.echo("No alarm was ever raised." if everything else "No alarm stands.")


@alarms.command("show")
def show(
    use_case: NameArgument,
    alarm: Annotated[str, typer.Argument(help="The alarm's id, or its beginning.")],
    as_json: JsonOption = False,
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
    if as_json:
        echo_json(found[0])
        return
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


@monitoring.command("check")
def check(
    use_case: NameArgument, as_json: JsonOption = False, state: StateOption = None, config: ConfigOption = None
) -> None:
    """For a schedule or a pipeline of one's own: exit code 1 if an alarm stands that nobody silenced; `info` does not
    count."""
    now = datetime.now(UTC)
    found = alarms_of(open_store(settings_of(state, config)), use_case)
    standing = [alarm for alarm in found if alarm.is_open(now) and alarm.severity != "info"]
    if as_json:
        echo_json(standing)
    for alarm in () if as_json else standing:
        said = (
            f"{alarm.use_case}@{alarm.version} {alarm.severity} since {alarm.since:%Y-%m-%d %H:%M} UTC: {alarm.title}"
        )
        typer.secho(printable(said), fg="red", err=True)
    if standing:
        raise typer.Exit(1)
    if not as_json:
        typer.echo(f"No alarm of {use_case} stands.")


@monitoring.command("show")
def show_definition(
    use_case: NameArgument,
    as_json: Annotated[bool, typer.Option("--json", help="The definition alone, as JSON.")] = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Show how predictions are watched, who set it, and by which revision each version with traffic is judged."""
    from mlops_ray.monitoring.definition import described, find_sealed, in_force, versions_with_traffic
    from mlops_ray.monitoring.foreign_model import every_version

    settings = settings_of(state, config)
    store = open_store(settings)
    revision = definition_of(store, use_case)
    registry = every_version(settings, store)
    sealed = {
        version: find_sealed(registry, use_case, version) for version in versions_with_traffic(store, use_case) or ()
    }
    if as_json:
        typer.echo(json.dumps(in_force(revision, sealed).to_json(), indent=2))
        return
    for line in described(revision, sealed):
        typer.echo(printable(line))


@monitoring.command("set")
def set_(
    use_case: NameArgument,
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A use case's .py, or JSON.")] = None,
    reason: ReasonOption = "",
    as_sealed: Annotated[bool, typer.Option(help="Instead of FILE: as each model was sealed.")] = False,
    seen: Annotated[int | None, typer.Option("--revision", help="Only if this one holds now.")] = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Watch predictions so from the next window on, without a new model. Needs the role operate.

    Where versions need an approval, somebody else approves it first (`mlops-ray approvals rules`).
    """
    from mlops_ray.governance.policy_changes import PolicyChange
    from mlops_ray.monitoring.definition import set_monitoring
    from mlops_ray.monitoring.foreign_model import every_version

    if (file is None) != as_sealed:
        raise ConfigurationError("Give a FILE, or --as-sealed for what each model was sealed with.")
    settings = settings_of(state, config)
    store = open_store(settings)
    actor = cli_actor(store, settings, "operate", use_case=use_case)
    wanted = None if file is None else _definition(file)
    made = set_monitoring(store, every_version(settings, store), actor, use_case, wanted, reason, seen)
    if isinstance(made, PolicyChange):
        typer.echo(
            printable(f"Monitoring of {use_case} stays as it is until somebody else has approved change {made.id}:")
        )
        typer.echo(f"  mlops-ray approvals approve-rules {made.id}")
        return
    typer.echo(printable(f"Monitoring of {use_case} is at revision {made.revision}, from the next window on."))


@monitoring.command("history")
def history(
    use_case: NameArgument, as_json: JsonOption = False, state: StateOption = None, config: ConfigOption = None
) -> None:
    """List who set it when and why, and what changed, the newest last."""
    from mlops_ray.monitoring.definition import history_lines

    found = definitions(open_store(settings_of(state, config)), use_case)
    if as_json:
        echo_json(found)
        return
    for line in history_lines(found):
        typer.echo(printable(line))


@monitoring.command("backtest")
def backtest(
    use_case: NameArgument,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A use case's .py, or JSON. [default: what holds]")
    ] = None,
    start: Annotated[str | None, typer.Option("--from", help="An RFC 3339 moment. [default: 90 days ago]")] = None,
    end: Annotated[str | None, typer.Option("--to", help="An RFC 3339 moment. [default: now]")] = None,
    as_json: JsonOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Run a definition over the recorded predictions and labels: what would have alarmed, beside what did."""
    from mlops_ray.monitoring.backtest_report import backtest_of, plain_report, report_lines
    from mlops_ray.monitoring.foreign_model import every_version

    settings, now = settings_of(state, config), datetime.now(UTC)
    until = moment_of("--to", end) if end else now
    begin = moment_of("--from", start) if start else until - timedelta(days=90)
    store = open_store(settings)
    wanted = None if file is None else _definition(file)
    found = backtest_of(settings, store, every_version(settings, store), use_case, wanted, begin, until)
    if as_json:
        echo_json(plain_report(found))
        return
    for line in report_lines(found):
        typer.echo(printable(line))


@monitoring.command("reference")
def reference(
    use_case: CaseArgument,
    table: Annotated[Path, typer.Argument(help="Rows that the model was not trained on: Parquet or CSV.")],
    model: Annotated[Path, typer.Option(help="The model as ONNX.")],
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Watch a model that was trained elsewhere: seal it with a reference of a table, as a version of its use case."""
    import polars as pl

    from mlops_ray.monitoring.foreign_model import record_foreign

    settings, case = settings_of(state, config), load_use_case(use_case)
    store = open_store(settings)
    actor = cli_actor(store, settings, "operate", use_case=case.name)
    try:
        rows = pl.read_csv(table, try_parse_dates=True) if table.suffix == ".csv" else pl.read_parquet(table)
        content = model.read_bytes()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigurationError(f"{table} or {model} cannot be read: {error}.") from error
    made = record_foreign(settings, store, actor, case, content, rows)
    typer.echo(
        printable(f"Version {made.version} of {case.name} is watched by {rows.height:,} rows ({made.ref.digest}).")
    )


def _definition(file: Path) -> Monitoring:
    """Of a use case's file what it declares, its slices with it. Raises ConfigurationError if it cannot be read."""
    if file.suffix == ".py":
        case = load_use_case(str(file))
        declared = case.monitoring
        return declared if declared.slices is not None else replace(declared, slices=case.slices)
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{file} is no JSON file: {error}.") from error
    if not isinstance(found, dict):
        raise ConfigurationError(f"{file} holds no JSON object. `monitoring show --json` has the form.")
    return Monitoring.from_json(found)
