"""The commands `mlops-ray schedule`: what is due by the clock, and what became of it."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlops_ray.cli.governance import cli_actor
from mlops_ray.cli.options import (
    CaseArgument,
    ConfigOption,
    DataOption,
    JsonOption,
    NameArgument,
    ReasonOption,
    RepoOption,
    StateOption,
    echo_json,
    moment_of,
)
from mlops_ray.config import DATA_VARIABLE, Settings, absolute, settings_file, settings_of
from mlops_ray.cost.history import ordered
from mlops_ray.cost.meter import ORDER
from mlops_ray.cost.prices import priced
from mlops_ray.cost.usage import Usage
from mlops_ray.errors import ConfigurationError, MlopsRayError, UseCaseError
from mlops_ray.governance import schedule_runs, schedules
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.usage import now as database_clock
from mlops_ray.governance.usage import read_prices
from mlops_ray.operations.local_ray import ray_for, stay_while_ray_lives
from mlops_ray.show.text import printable
from mlops_ray.use_case import OPERATIONS, Operation, Schedule, UseCase, load_use_case
from mlops_ray.use_case.loading import definitions_folder
from mlops_ray.use_case.schedule import due_moments

if TYPE_CHECKING:
    from mlops_ray.governance.schedule_runs import Run
    from mlops_ray.governance.schedules import Declared

schedule = typer.Typer(no_args_is_help=True, help="Schedules: what is due by the clock, and what became of it.")

OperationArgument = Annotated[Operation, typer.Argument(metavar="OPERATION", help=f"{', '.join(OPERATIONS)}.")]
_MOST = 10_000  # runs of one backfill
_ASKS_ABOVE = 100


@schedule.command()
def start(
    use_case: Annotated[list[str], typer.Argument(metavar="USE_CASE...", help="Files, or names in use_cases/.")],
    state: StateOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    feature_repo: RepoOption = None,
) -> None:
    """Carry out the schedules of these use cases, as they declare them now, beside those of others.

    On an existing cluster (RAY_ADDRESS) start that and return; else stay until Ctrl-C. `mlops-ray serve` does so, too.
    """
    settings = settings_of(state, config, data)
    for reference in use_case:
        case = load_use_case(reference)
        if not declare(settings, case, reference, feature_repo):
            raise ConfigurationError(f"Use case {case.name} declares no schedules. Add schedules={{...}} to it.")
    with ray_for(settings, gives_way=False) as own:
        start_scheduler_here(settings, config)
        if own:
            typer.echo("Carried out until Ctrl-C.")
            stay_while_ray_lives()


def declare(settings: Settings, case: UseCase, reference: str, feature_repo: str | None) -> bool:
    """Write down what the use case declares to be due, so that the scheduler finds it; whether it declares anything, or
    did before."""
    store = open_store(settings)
    if not case.schedules and not schedules.list_schedules(store, case.name):
        return False
    # Whoever runs it may have another folder; in a submitted job, which has Ray's, the next job is sent the same files.
    in_folder = reference if reference.endswith(".py") else f"use_cases/{reference}.py"
    file, repo = absolute(in_folder), str(definitions_folder(reference, feature_repo))
    actor = cli_actor(store, settings, "operate", use_case=case.name)
    wanted = tuple(
        schedules.Wanted(operation, one.cron, one.time_zone or case.zone(), one.catch_up)
        for operation, one in case.schedules.items()
    )
    schedules.declare(store, actor, case.name, file, repo, wanted)
    return True


def start_scheduler_here(settings: Settings, config: str | None) -> None:
    """In the Ray that this process is connected to."""
    from mlops_ray.operations.scheduler_actor import start_scheduler

    start_scheduler(settings, _file(config))
    typer.echo("What is due is carried out: `mlops-ray schedule list` tells when, `schedule history` how it went.")


@schedule.command("list")
def list_(
    use_case: Annotated[str | None, typer.Argument(metavar="[USE_CASE]", help="Default: all.")] = None,
    as_json: JsonOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """List schedules, one a line: when each is due next, and how its last run ended."""
    store, now = open_store(settings_of(state, config)), datetime.now(UTC)
    found = schedules.list_schedules(store, use_case)
    if as_json:
        echo_json([_listed(store, one, now) for one in found])
        return
    for one in found:
        last = schedule_runs.runs(store, one.use_case, one.operation, limit=1)
        typer.echo(printable(_line(one, last[0] if last else None, now)))
    if not found:
        typer.echo("Nothing is scheduled. `mlops-ray schedule start USE_CASE` carries out what a use case declares.")


@schedule.command()
def pause(
    use_case: NameArgument,
    operation: OperationArgument,
    reason: ReasonOption,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Start no run of it until `resume`; one that runs goes on, and what falls due meanwhile is skipped."""
    settings = settings_of(state, config)
    store = open_store(settings)
    actor = cli_actor(store, settings, "operate", use_case=use_case)
    earlier = schedules.pause(store, actor, use_case, operation, reason)
    who = f" already, by {earlier.actor} on {_shown(earlier.time)}: {earlier.reason}" if earlier else "."
    typer.echo(printable(f"{operation} of {use_case} is paused{who}"))


@schedule.command()
def resume(
    use_case: NameArgument,
    operation: OperationArgument,
    reason: ReasonOption,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Start what is due from now on, and what waited when it was paused."""
    from mlops_ray.operations.due import decide

    settings = settings_of(state, config)
    store = open_store(settings)
    actor = cli_actor(store, settings, "operate", use_case=use_case)
    schedule_runs.resume(store, actor, use_case, operation, reason, decide)
    typer.echo(f"{operation} of {use_case} goes on. `schedule backfill` makes up for what was skipped.")


@schedule.command()
def remove(
    use_case: NameArgument,
    reason: ReasonOption,
    operation: Annotated[Operation | None, typer.Argument(metavar="[OPERATION]", help="Default: all.")] = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Let it be due no more, as of a use case that was renamed or deleted; what runs goes on.

    `start` declares again what the use case's file says.
    """
    settings = settings_of(state, config)
    store = open_store(settings)
    schedules.remove(store, cli_actor(store, settings, "operate", use_case=use_case), use_case, operation, reason)
    typer.echo(f"{operation or 'Nothing'} of {use_case} is due {'no more' if operation else 'any more'}.")


@schedule.command()
def run(
    use_case: CaseArgument,
    operation: OperationArgument,
    due: Annotated[
        str | None, typer.Option(help="For which moment: RFC 3339, not in the future. [default: now]")
    ] = None,
    ordered: Annotated[str | None, typer.Option(hidden=True, help="As the scheduler started it.")] = None,
    state: StateOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    feature_repo: RepoOption = None,
) -> None:
    """Carry one run out here, whether it is scheduled or not, and write down how it went; exit code 1 if it failed.

    A run that has succeeded is not repeated, so that Airflow, Dagster or cron may call this as often as they like.
    """
    from mlops_ray.operations.carry_out import Work, carry_out, execute
    from mlops_ray.operations.due import due_before

    settings = settings_of(state, config, data)
    store = open_store(settings)
    now = database_clock(store)
    moment = moment_of("--due", due) if due else now
    if ordered is None and moment > now:
        raise ConfigurationError(f"--due {due} lies in the future. Give the moment that it is due at, or leave it out.")
    if ordered is None:
        case = load_use_case(use_case)
        cli_actor(store, settings, "operate", use_case=case.name)
        found: Run | None = schedule_runs.ask(store, case.name, operation, moment)
    elif (found := schedule_runs.find_submission(store, operation, moment, ordered)) is not None:
        case = _case_of_order(store, found, use_case)
    if found is None or found.state == "succeeded":
        typer.echo(f"{operation} of {use_case} for {moment.isoformat()}: nothing to do, it has ended already.")
        return
    declared = next((one for one in schedules.list_schedules(store, case.name) if one.operation == operation), None)
    since = due_before(declared, moment) if declared is not None else None
    repo = str(definitions_folder(use_case, feature_repo))
    work = Work(use_case, repo, settings.state, settings.data, _file(config), since)
    limit = case.schedules[operation].time_limit if operation in case.schedules else Schedule.time_limit
    told = partial(execute, {DATA_VARIABLE: settings.data, ORDER: _order(found)}, limit)
    carry_out(store, found, work, told, wait=ordered is not None)
    (ended,) = schedule_runs.at(store, case.name, operation, moment)
    typer.echo(printable(_run_line(ended)), err=True)
    if ended.state == "failed":
        raise typer.Exit(1)


@schedule.command()
def backfill(
    use_case: NameArgument,
    operation: OperationArgument,
    reason: ReasonOption,
    start: Annotated[str, typer.Option("--from", help="The first moment: RFC 3339.")],
    end: Annotated[str, typer.Option("--to", help="Before this moment: RFC 3339.")],
    cancel: Annotated[bool, typer.Option("--cancel", help="Skip what still waits of it instead.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Make up for what was due from one moment on and before another, the oldest first, between what is due now.

    What has succeeded is not repeated; what was skipped, failed, or lies before the schedule was declared, is run.
    Above 100 runs it asks.
    """
    from mlops_ray.operations.due import due_between

    settings = settings_of(state, config)
    store = open_store(settings)
    begin, until = moment_of("--from", start), min(moment_of("--to", end), database_clock(store))
    if begin >= until:
        raise ConfigurationError(f"--from {start} is not before --to {end} and now. Nothing was due.")
    actor = cli_actor(store, settings, "operate", use_case=use_case)
    if cancel:
        count = schedule_runs.cancel_backfill(store, actor, use_case, operation, begin, until, reason)
        typer.echo(f"{count} runs that waited to be made up for are skipped.")
        return
    with store.reading() as connection:
        declared = schedules.find_schedule(connection, use_case, operation)
    moments = list(islice(due_between(declared, begin, until), _MOST + 1))
    if len(moments) > _MOST:
        raise ConfigurationError(f"More than {_MOST:,} runs were due from {start} to {end}. Give a shorter time.")
    if len(moments) > _ASKS_ABOVE and not yes:
        typer.echo(f"{len(moments):,} runs were due, the first {_shown(moments[0])}, the last {_shown(moments[-1])}.")
        typer.confirm("Carry out what has not succeeded of them?", abort=True)
    asked = schedule_runs.backfill(store, actor, use_case, operation, moments, reason)
    typer.echo(f"{len(asked)} of {len(moments)} runs wait now; the others have succeeded, wait or run.")


@schedule.command()
def history(
    use_case: NameArgument,
    operation: Annotated[Operation | None, typer.Argument(metavar="[OPERATION]", help="Default: all.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="So many of the latest.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, one object a line.")] = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """List runs, the oldest first: when each was due, what became of it, how long it took, and what all attempts at it
    have used and cost, where they are measured."""
    store = open_store(settings_of(state, config))
    found, tables = schedule_runs.runs(store, use_case, operation, limit), read_prices(store)
    for one in found:
        rows = ordered(store, use_case, _order(one))
        used, price = Usage.sum_of(row.quantities for row in rows), priced(rows, tables)
        if as_json:
            of_run = {"duration_s": one.duration_s, "cpu_s": used.cpu_s, "cost": price.to_json()}
            typer.echo(json.dumps(asdict(one) | of_run, default=str))
        else:
            costs = f"{used.cpu_s:,.1f} CPU s  {price}" if rows else ""
            typer.echo(printable(_run_line(one, costs)))
    if not found and not as_json:
        typer.echo("Nothing was due yet.")


def _case_of_order(store: ControlStore, run: "Run", reference: str) -> UseCase:
    """What the file declares. Where that is nothing or another use case the run has failed, and this raises why."""
    try:
        case = load_use_case(reference)
        if case.name != run.use_case:
            raise UseCaseError(
                f"{reference} now declares {case.name}, not {run.use_case}, whose schedules still stand. `mlops-ray "
                f"schedule remove {run.use_case}` takes them away."
            )
    except MlopsRayError as error:
        schedule_runs.end(store, run, False, str(error))
        raise
    return case


def _file(config: str | None) -> str | None:
    """The settings file for a process that is begun in another folder."""
    file = settings_file(config)
    return file and absolute(file)


def _line(one: "Declared", last: "Run | None", now: datetime) -> str:
    following = _following(one, now)
    due = f"due {_shown(following)}" if isinstance(following, datetime) else f"never due: {following}"
    due = f"paused since {_shown(one.paused_at)}" if one.paused_at else due
    ended = f"last {_shown(last.due_at)} {last.state}" if last else "no run yet"
    missed = "catches up" if one.catch_up else "skips what it missed"
    return "  ".join([one.use_case, one.operation, f"{one.cron!r} {one.time_zone}", missed, due, ended])


def _listed(store: ControlStore, one: "Declared", now: datetime) -> dict[str, Any]:
    """As JSON: as it is declared, when it is due next or by which problem never, and its last run, None where there was
    none."""
    last, following = schedule_runs.runs(store, one.use_case, one.operation, limit=1), _following(one, now)
    due_at, problem = (following, None) if isinstance(following, datetime) else (None, following)
    return vars(one) | {"due_at": due_at, "problem": problem, "last_run": last[0] if last else None}


def _following(one: "Declared", now: datetime) -> datetime | str:
    """When it is due next, or why never, as where a release of before took in what this one does not."""
    try:
        return next(due_moments(one.cron, one.time_zone, max(one.decided_until, now)))
    except UseCaseError as error:
        return str(error)


def _order(run: "Run") -> str:
    """By which what its attempts have used is found again, whatever they are started by."""
    return f"schedule {run.name}"


def _run_line(one: "Run", costs: str = "") -> str:
    took = "" if one.duration_s is None else f"{one.duration_s:,.1f} s"
    attempts = f"attempt {one.attempt}" if one.attempt > 1 else ""
    parts = [one.operation, one.due_at.isoformat(), one.state, one.cause, took, costs, attempts, one.detail]
    return "  ".join(part for part in parts if part)


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
