"""The commands `mlops-ray cost`: what work used and cost, what it will, and what it may."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from mlops_ray.cli.governance import cli_actor, expect_reader
from mlops_ray.cli.options import (
    ConfigOption,
    JsonOption,
    NameArgument,
    StateOption,
    echo_json,
    expect_year,
)
from mlops_ray.config import Settings, settings_of
from mlops_ray.cost.estimate import estimate_until, in_words
from mlops_ray.cost.prices import NO_PRICES
from mlops_ray.cost.show import BYS, By, lines
from mlops_ray.cost.sizing import Advice, advise
from mlops_ray.cost.spending import Left, Spending, expect_cpu_price, following, month_name
from mlops_ray.cost.steps import StepName
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance import schedules
from mlops_ray.governance.budgets import WARN_AT, Budget, budget_of, list_budgets, set_budget, take_budget_away
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.declared_resources import Resources, declare_resources, resources_of
from mlops_ray.governance.usage import now, read_prices, read_usage
from mlops_ray.governance.versions import list_versions
from mlops_ray.show.text import figures, printable

cost = typer.Typer(no_args_is_help=True, help="Cost: what work used and cost, what it will, and what it may.")

MonthOption = Annotated[str | None, typer.Option(metavar="YYYY-MM", help="A month in UTC.")]
OptionalReason = Annotated[str, typer.Option(help="Why; goes into the audit log.")]


@cost.command()
def show(
    use_case: Annotated[str | None, typer.Argument(metavar="[USE_CASE]", help="Default: all.")] = None,
    by: Annotated[By, typer.Option(help=f"A line for each {', '.join(BYS)}.")] = "step",
    month: MonthOption = None,
    version: Annotated[int | None, typer.Option(help="With --by version: this one alone.")] = None,
    as_json: JsonOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Show what was used, and its cost by the prices that held when it was used.

    A step that made several versions counts in the line of each; trials are a part of the step `train`. By prediction:
    what the replicas cost that answered, by a thousand answers.
    """
    settings = settings_of(state, config)
    store = open_store(settings)
    expect_reader(store, settings, use_case)
    if by == "version" and use_case is None:
        raise ConfigurationError("--by version needs a use case. Name one: `mlops-ray cost show flights --by version`.")
    begin = _month("--month", month) if month else None
    rows = read_usage(store, use_case, begin, begin and following(begin))
    made = _keys_of_versions(settings, store, use_case, version) if by == "version" and use_case else {}
    found = lines(rows, read_prices(store), by, made)
    if as_json:
        typer.echo(json.dumps({"by": by, "month": month, "lines": [one.to_json() for one in found]}, indent=2))
        return
    for line in found:
        typer.echo(printable(str(line)))
    if not found:
        typer.echo("Nothing was measured. `mlops-ray run`, retrainings and endpoints are, from now on.")
    elif any(NO_PRICES in line.cost.unpriced for line in found):
        typer.secho("Some was used without prices. Set `prices` in the settings (docs/cost.md).", fg="yellow", err=True)


@cost.command("estimate")
def estimate_(
    use_case: NameArgument,
    until: Annotated[StepName, typer.Option(help="The last step that runs.")] = "materialize",
    as_json: JsonOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Say what a run in which every step runs will use and cost, from earlier ones, within bounds for 8 runs of 10."""
    settings = settings_of(state, config)
    store = open_store(settings)
    expect_reader(store, settings, use_case)
    found = estimate_until(read_usage(store, use_case, kinds=("step",)), until, settings.prices)
    if as_json:
        typer.echo(json.dumps({"use_case": use_case, "estimate": found and found.to_json()}, indent=2))
    else:
        typer.echo(in_words(use_case, found))


@cost.command()
def advice(
    use_case: NameArgument, as_json: JsonOption = False, state: StateOption = None, config: ConfigOption = None
) -> None:
    """Say what steps, trials and replicas should ask for, by what they have used. `cost apply` declares it."""
    settings = settings_of(state, config)
    store = open_store(settings)
    expect_reader(store, settings, use_case)
    found = advise(read_usage(store, use_case))
    if as_json:
        typer.echo(json.dumps([one.to_json() for one in found], indent=2))
        return
    for one in found:
        typer.echo(_advice_line(one))
    if not found:
        typer.echo(f"Nothing of {use_case} has run long enough to advise on.")


@cost.command()
def apply(
    use_case: NameArgument,
    reason: OptionalReason = "",
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A step, or endpoint. Default: all.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take back what was declared: the code decides again.")] = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Declare what is advised: it holds from the next run, and for an endpoint from its next deployment on."""
    settings = settings_of(state, config)
    store = open_store(settings)
    actor = cli_actor(store, settings, "operate", use_case=use_case)
    known = resources_of(store, use_case)
    wanted = dict.fromkeys(known, Resources()) if undo else {
        one.name: one.advised for one in advise(read_usage(store, use_case))
    }  # fmt: skip
    if unknown := set(only or ()) - wanted.keys():
        raise ConfigurationError(
            f"For {sorted(unknown)[0]!r} there is nothing to declare (there is for: {', '.join(wanted) or 'nothing'})."
        )
    chosen = {name: resources for name, resources in wanted.items() if not only or name in only}
    changed = declare_resources(store, actor, use_case, chosen, reason)
    for name in changed:
        typer.echo(f"{name:14} {_in_words(known.get(name, Resources()))} -> {_in_words(chosen[name])}")
    if not changed:
        typer.echo("Nothing changes.")


@cost.command()
def budget(
    use_case: Annotated[str | None, typer.Argument(metavar="[USE_CASE]", help="Default: all.")] = None,
    amount: Annotated[float | None, typer.Option(help="What a month may cost; 0 lets nothing run.")] = None,
    currency: Annotated[str | None, typer.Option(help="[default: that of the settings' prices]")] = None,
    month: MonthOption = None,
    warn_at: Annotated[
        float | None, typer.Option(help=f"The share of it at which an event warns. [default: {WARN_AT}]")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take it away.")] = False,
    reason: OptionalReason = "",
    as_json: JsonOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Set what a use case may cost, in each month or with --month in one; without --amount, show it and what is spent.

    A run is stopped when it is spent, and goes on after it was raised. What serves is counted and never stopped.
    """
    settings = settings_of(state, config)
    store = open_store(settings)
    if month:
        _month("--month", month)
    if amount is None and not remove and (month or currency or warn_at is not None):
        raise ConfigurationError("--month, --currency and --warn-at are of a budget that is set. Give --amount, too.")
    if amount is None and not remove:
        expect_reader(store, settings, use_case)
        _show_budgets(store, settings, use_case, as_json)
        return
    if use_case is None:
        raise ConfigurationError("Whose budget? Name the use case.")
    if amount is not None and remove:
        raise ConfigurationError("--amount sets a budget and --remove takes it away. Give one of them.")
    actor = cli_actor(store, settings, "approve", use_case=use_case)
    if amount is None:
        gone = take_budget_away(store, actor, use_case, month or "", reason)
        typer.echo(f"{use_case} has no budget{f' for {month}' if month else ''}{'' if gone else ', and had none'}.")
        return
    priced_in = settings.prices.currency if settings.prices else None
    chosen = WARN_AT if warn_at is None else warn_at
    wanted = Budget(use_case, month or "", amount, currency or priced_in or "", chosen)
    _expect_sensible(wanted, priced_in)
    if settings.prices is not None:
        expect_cpu_price(settings.prices, use_case)
    set_budget(store, actor, wanted, reason)
    typer.echo(f"{use_case} may cost {figures(amount)} {wanted.currency} in {month or 'each month'}.")
    own = budget_of(store, use_case, month_name(now(store)))
    if not month and own is not None and own.month:
        typer.echo(f"This month ({own.month}) keeps its own: {figures(own.amount)} {own.currency}.")
    if not (list_versions(store, use_case) or schedules.list_schedules(store, use_case) or _was_used(store, use_case)):
        typer.secho(f"Nothing is known of {use_case} yet. Mistyped?", fg="yellow", err=True)


def outlook(settings: Settings, use_case: str, until: StepName) -> str:
    """What a run that begins now is expected to cost, and whether the month's budget has as much left."""
    store = open_store(settings)
    found = estimate_until(read_usage(store, use_case, kinds=("step",)), until, settings.prices)
    text, left = in_words(use_case, found), Spending(store, use_case, settings.prices, "").left()
    if left is None:
        return text
    of = left.budget
    rest = f"{figures(left.amount)} of {figures(of.amount)} {of.currency}"
    text += f" Of this month's budget {rest} are left{left.cost.lacks}."
    if found is not None and found.cost is not None and (found.cost.high or found.cost.middle) > left.amount:
        text += " It may not be enough: the run would be stopped, and could go on after it was raised."
    return text


def _keys_of_versions(
    settings: Settings, store: ControlStore, use_case: str, version: int | None
) -> dict[str, list[str]]:
    """The keys of the steps that made each version; of one that was made before there was a meter none."""
    from mlops_ray.registry.trace import read_lineage

    numbers = [one.version for one in list_versions(store, use_case)]
    if version is not None and version not in numbers:
        raise ConfigurationError(f"{use_case} has no version {version}. There are: {numbers or 'none'}.")
    chosen = numbers if version is None else [version]
    return {str(number): read_lineage(settings, use_case, number)[1].step_keys for number in chosen}


def _was_used(store: ControlStore, use_case: str) -> bool:
    return bool(read_usage(store, use_case, kinds=("step", "replica")))


def _show_budgets(store: ControlStore, settings: Settings, use_case: str | None, as_json: bool) -> None:
    found = list_budgets(store, use_case)
    if as_json:
        lefts = [_left(store, settings, one) for one in found]
        echo_json([asdict(one) | {"spent": left and left.spent} for one, left in zip(found, lefts, strict=True)])
        return
    for one in found:
        amount = f"{figures(one.amount)} {one.currency}, warns at {one.warn_at:.0%}"
        line = f"{one.use_case}  {one.month or 'each month'}  {amount}"
        left = _left(store, settings, one)
        if left is not None:
            line += f"; {figures(left.spent)} spent in {left.month}{left.cost.lacks}"
        typer.echo(printable(line))
    if not found:
        typer.echo("No budget is set: `mlops-ray cost budget USE_CASE --amount ...` sets one.")


def _left(store: ControlStore, settings: Settings, budget: Budget) -> Left | None:
    """Of the budget that holds in this month; None for another."""
    left = Spending(store, budget.use_case, settings.prices, "").left()
    return None if left is None or left.budget != budget else left


def _expect_sensible(wanted: Budget, priced_in: str | None) -> None:
    if not (math.isfinite(wanted.amount) and wanted.amount >= 0):
        raise ConfigurationError(f"--amount is {wanted.amount}. Give 0 or more.")
    if not 0 < wanted.warn_at <= 1:
        raise ConfigurationError(f"--warn-at is {wanted.warn_at}. Give a share above 0, up to 1.")
    if not re.fullmatch("[A-Z]{3}", wanted.currency):
        given = f"--currency is {wanted.currency!r}" if wanted.currency else "No currency is known"
        raise ConfigurationError(f"{given}. Give three letters, such as EUR, or set `prices` in the settings.")
    if wanted.currency != priced_in:
        has = f"are in {priced_in}" if priced_in else "are not set"
        raise ConfigurationError(
            f"A budget in {wanted.currency} could not be compared with what runs cost: the settings' prices {has}. Set "
            f"`prices` in {wanted.currency}, or the budget in their currency."
        )


def _month(option: str, text: str) -> datetime:
    try:
        if not re.fullmatch(r"\d{4}-\d{2}", text):
            raise ValueError
        month = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        raise ConfigurationError(f"{option} {ascii(text)[:60]} is no month. Example: 2026-11.") from None
    expect_year(option, text, month.year)
    return month


def _advice_line(one: Advice) -> str:
    shown: Sequence[tuple[str, Resources]] = (("asked", one.asked), ("used", one.used), ("advised", one.advised))
    return f"{one.name:14} " + "; ".join(f"{word} {_in_words(of)}" for word, of in shown) + f" ({one.samples} measured)"


def _in_words(of: Resources) -> str:
    parts = [f"{of.cpus:g} CPUs"] if of.cpus is not None else []
    parts += [f"{of.memory_mb} MB"] if of.memory_mb is not None else []
    parts += [f"{of.min_replicas} to {of.max_replicas} replicas"] if of.min_replicas is not None else []
    return ", ".join(parts) or "nothing"
