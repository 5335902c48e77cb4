"""The commands `mlops-ray retraining`: training again, now and in simulated time."""

import calendar
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mlops_ray.cli.governance import cli_actor
from mlops_ray.cli.options import (
    DEFAULT_URL,
    CaseArgument,
    ConfigOption,
    DataOption,
    JsonOption,
    PortOption,
    RepoOption,
    StateOption,
    UrlOption,
    echo_json,
    moment_of,
)
from mlops_ray.cli.rollout import key_from
from mlops_ray.cli.serve import console_line
from mlops_ray.config import Settings, absolute, settings_of
from mlops_ray.cost.processes import TAG
from mlops_ray.errors import ConfigurationError
from mlops_ray.operations.local_ray import ray_for
from mlops_ray.use_case import Monitoring, UseCase, load_use_case
from mlops_ray.use_case.loading import definitions_folder

if TYPE_CHECKING:
    from mlops_ray.retraining.backtest import Backtest
    from mlops_ray.retraining.replay import Progress

FromOption = Annotated[str, typer.Option("--from", help="The first day or month, such as 2013-02.")]
ToOption = Annotated[str, typer.Option("--to", help="The last day or month.")]
_WIDTH = 160

retraining = typer.Typer(no_args_is_help=True, help="Training again, now and in simulated time.")


@retraining.command()
def backtest(
    use_case: CaseArgument,
    start: FromOption,
    end: ToOption,
    policy: Annotated[str, typer.Option(help="Policies, with commas between them.")] = "never,monthly,drift",
    window_rows: Annotated[int | None, typer.Option(help="Windows of so many predictions. [default: as now]")] = None,
    false_alarm_days: Annotated[int | None, typer.Option(help="Days to a false alarm. [default: as now]")] = None,
    cool_down_days: Annotated[float | None, typer.Option(help="Between retrainings. [default: declared]")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often, from other random numbers.")] = 3,
    output: Annotated[str | None, typer.Option(help="Folder of the result. [default: <state>/backtests]")] = None,
    as_json: JsonOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Replay the past under each policy, and compare: quality by week, retrainings, CPU hours, alarms.

    Policies: never, weekly, monthly (by the clock alone), drift (as the use case declares), data, prediction, concept
    (as declared, with those alarms alone). The training set is the champion's; candidate and parameters are chosen, for
    each seed, by what was known at the first day. Predictions are watched as they are now (`monitoring show`).
    """
    settings = settings_of(state, config)
    case = _watched(settings, load_use_case(use_case), window_rows, false_alarm_days)
    begin, until = _span(start, end)
    cool_down = None if cool_down_days is None else timedelta(days=cool_down_days)
    names = list(dict.fromkeys(name.strip() for name in policy.split(",")))
    with ray_for(settings):
        from mlops_ray.retraining.backtest import backtest as replay_policies
        from mlops_ray.retraining.policies import find_policy
        from mlops_ray.retraining.recorded import recorded

        policies = {name: find_policy(case, name, cool_down) for name in names}
        found = recorded(settings, case)
        span = begin, min(until, found.as_of)
        result = replay_policies(found.url, case, found.features, *span, policies, seeds)
    _show(result, Path(output or f"{settings.state}/backtests").absolute(), as_json)


@retraining.command("run")
def retrain(
    use_case: CaseArgument,
    id: Annotated[str, typer.Option(help="What the governor calls it.")],
    as_of: Annotated[str, typer.Option(help="Nothing known later enters: an RFC 3339 moment.")],
    state: StateOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    feature_repo: RepoOption = None,
) -> None:
    """Train again and compare with the champion, as the governor orders it. The version waits beside the champion."""
    settings, case = settings_of(state, config, data), load_use_case(use_case)
    moment = moment_of("--as-of", as_of)
    os.environ[TAG] = id  # before Ray: its workers are told by it whose they are
    with ray_for(settings):
        from mlops_ray.retraining.retrain import retrain as run

        result = run(case, settings, definitions_folder(use_case, feature_repo), id, moment)
    typer.echo(json.dumps(result.to_json(), indent=2))
    if result.outcome == "failed":
        raise typer.Exit(1)


@retraining.command()
def ask(
    use_case: CaseArgument,
    as_of: Annotated[str, typer.Option(help="Nothing known later enters: an RFC 3339 moment.")],
    state: StateOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    feature_repo: RepoOption = None,
) -> None:
    """Ask the governor for a retraining, as its schedule does, and wait for the end; exit code 1 if it failed.

    Its limits hold: without enough new labels, or in its cool-down, there is none, and it says why.
    """
    from mlops_ray.governance.control_store import open_store

    settings, case = settings_of(state, config, data), load_use_case(use_case)
    moment, store = moment_of("--as-of", as_of), open_store(settings)
    actor = cli_actor(store, settings, "operate", use_case=case.name)
    with ray_for(settings):
        from mlops_ray.retraining.asked import ask_for_retraining
        from mlops_ray.retraining.new_labels import NewLabels
        from mlops_ray.retraining.ray_launchers import find_launcher

        repo, file = definitions_folder(use_case, feature_repo), config and absolute(config)
        launcher = find_launcher(case, settings, repo, use_case, file)
        rows = NewLabels(settings, case.name)
        asked = ask_for_retraining(case, settings, store, launcher, rows, actor, moment)
    typer.echo(json.dumps(asdict(asked), indent=2))
    if asked.outcome == "failed":
        raise typer.Exit(1)


@retraining.command()
def replay(
    use_case: CaseArgument,
    start: FromOption,
    end: ToOption,
    speed: Annotated[float, typer.Option(help="Simulated seconds in each real one.")] = 86_400.0,
    step_s: Annotated[float, typer.Option(help="Rows of so many simulated seconds go in one request.")] = 0.0,
    url: UrlOption = DEFAULT_URL,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Send recorded rows to a live endpoint in simulated time, and their labels once they are known."""
    from mlops_ray.client import Client
    from mlops_ray.retraining.replay import Replay, questions, recorded_rows

    if not speed > 0 or step_s < 0:
        raise ConfigurationError(
            f"--speed is {speed:g} and --step-s {step_s:g}: give a speed above 0 and a step from 0."
        )
    settings, case = settings_of(state, config), load_use_case(use_case)
    begin, until = _span(start, end)
    frame, features = recorded_rows(settings, case)
    asked = questions(frame, begin, until, timedelta(seconds=step_s))
    with Client(url, api_key=key_from(state, config)) as client:
        Replay(client, case.name, features, speed).run(asked, _tell)


@retraining.command()
def rehearse(
    use_case: CaseArgument,
    start: FromOption,
    end: ToOption,
    state: StateOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    feature_repo: RepoOption = None,
    port: PortOption = None,
    plant: Annotated[str | None, typer.Option(help="A fault, such as hour=1@2013-12-11: off by one deviation.")] = None,
) -> None:
    """Serve the champion, replay recorded rows, and let drift be found and answered, all in simulated time; then end.

    It shows the alarm, the governor's decision, the retraining and its challenger, which waits for approval.
    """
    # In simulated time a day lasts a second, so the ledger is moved on often; and beside what serves, which takes a
    # CPU, there is one for each step of the pipeline.
    faster = {"ledger_rotate_s": 1.0}
    settings = settings_of(state, config, data, port).model_copy(update=faster)
    settings = settings.model_copy(update={"num_cpus": settings.num_cpus + 2})
    case, (begin, until) = load_use_case(use_case), _span(start, end)
    with ray_for(settings, serving=True):
        from mlops_ray.retraining.rehearsal import rehearse as play
        from mlops_ray.retraining.replay import Planted

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        planted = None if plant is None else Planted(*_fault(plant))
        done = play(
            case, settings, definitions_folder(use_case, feature_repo), use_case, begin, until, typer.echo, planted
        )
    typer.echo(f"Decide:   mlops-ray serve {case.name}, then the alarm and what waits stand first at the console.")
    typer.echo(console_line(settings))
    if done.finished is not None and done.finished.payload["outcome"] == "failed":
        raise typer.Exit(1)


def _show(result: "Backtest", folder: Path, as_json: bool) -> None:
    from mlops_ray.retraining.chart import blind_lines, page, table

    folder.mkdir(parents=True, exist_ok=True)
    name = f"{result.use_case}-{result.start:%Y-%m-%d}-{result.end:%Y-%m-%d}"
    (folder / f"{name}.json").write_text(json.dumps(result.to_json(), indent=1))
    (folder / f"{name}.html").write_text(page(result))
    if as_json:
        echo_json(result.to_json())
        return
    console = Console()
    (console if console.is_terminal else Console(width=_WIDTH)).print(table(result))
    for line in (line for report in result.policies for line in blind_lines(report)):
        typer.echo(line)
    typer.echo(f"Chart: {folder / name}.html\nAll of it: {folder / name}.json")


def _tell(progress: "Progress") -> bool:
    typer.echo(f"{progress.now:%Y-%m-%d %H:%M} UTC: {progress.predictions:,} predictions, {progress.labels:,} labels")
    return True


def _watched(settings: Settings, case: UseCase, window_rows: int | None, false_alarm_days: int | None) -> UseCase:
    """The use case as it is watched: as was set beside its models, else as it declares; and as the options say."""
    from mlops_ray.governance.control_store import open_store
    from mlops_ray.governance.monitoring_definitions import definition_of
    from mlops_ray.monitoring.definition import as_watched
    from mlops_ray.use_case.window_spec import WindowSpec

    case = as_watched(case, definition_of(open_store(settings), case.name))
    wanted: Monitoring = case.monitoring
    if window_rows is not None:
        minimum = min(window_rows, WindowSpec(rows=10**6).minimum_rows)
        wanted = replace(wanted, windows=(WindowSpec(rows=window_rows, minimum_rows=minimum),))
    if false_alarm_days is not None:
        wanted = replace(wanted, false_alarm_days=false_alarm_days)
    return replace(case, monitoring=wanted)


def _span(start: str, end: str) -> tuple[datetime, datetime]:
    """From the beginning of the first day or month to the end of the last, UTC."""
    (begin, _), (_, until) = _period("--from", start), _period("--to", end)
    if begin >= until:
        raise ConfigurationError(f"--from {start} is not before --to {end}.")
    return begin, until


def _period(option: str, text: str) -> tuple[datetime, datetime]:
    parts: Sequence[str] = text.split("-")
    try:
        numbers = [int(part) for part in parts]
        year, month, day = numbers if len(numbers) == 3 else (*numbers, 1)
        begin = datetime(year, month, day, tzinfo=UTC)
        days = 1 if len(numbers) == 3 else calendar.monthrange(begin.year, begin.month)[1]
    except (ValueError, TypeError):
        raise ConfigurationError(f"{option} {text!r} is no day or month. Example: 2013-02 or 2013-02-28.") from None
    return begin, begin + timedelta(days=days)


def _fault(text: str) -> tuple[str, float, datetime]:
    """feature=deviations@day"""
    feature, _, rest = text.partition("=")
    amount, _, day = rest.partition("@")
    try:
        return feature, float(amount), _period("--plant", day)[0]
    except ValueError:
        raise ConfigurationError(f"--plant {text!r} is no fault. Example: hour=1@2013-12-11.") from None
