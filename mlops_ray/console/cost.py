"""Cost: what a use case has cost this month against its budget, and what a version cost to make.

A month of an endpoint is thousands of rows, which take longer to add up than a page may wait.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from mlops_ray.config import Settings
from mlops_ray.console.beside import ReadBeside
from mlops_ray.console.rendering import made_elsewhere
from mlops_ray.cost.estimate import estimate_until, in_words
from mlops_ray.cost.prices import Cost, priced
from mlops_ray.cost.show import Line, lines
from mlops_ray.cost.spending import Verdict, following, judge, month_name, spent_of_each
from mlops_ray.cost.totals import read_totals
from mlops_ray.governance.budgets import Budget, budget_of, budgets_of_month
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.usage import month_of, now, read_prices, read_usage
from mlops_ray.show.charts import bars
from mlops_ray.show.text import figures

RUNS = 10


@dataclass(frozen=True)
class Spent:
    """Of a month so far. budget: None without one, and then no verdict. spent: without trials, which are a part of the
    step `train`."""

    name: str
    spent: Cost
    budget: Budget | None
    verdict: Verdict | None

    @property
    def against(self) -> float | None:
        """What of it counts against the budget: in the budget's currency."""
        return None if self.budget is None else self.spent.amounts.get(self.budget.currency, 0.0)


@dataclass(frozen=True)
class Month(Spent):
    """runs: the latest first. served: by version, what answers cost. next: what a run would, in words."""

    steps: tuple[Line, ...]
    runs: tuple[Line, ...]
    served: tuple[Line, ...]
    next: str


class Costs(ReadBeside[Month]):
    """Of months so far, by use case."""

    again_s, wait_s = 60.0, 0.0

    def __init__(self, settings: Settings, store: ControlStore):
        super().__init__("costs", lambda use_case: month_of_case(settings, store, use_case))


class Budgets(ReadBeside[dict[str, Spent]]):
    """What was spent of those that there are, read of all at once: a sum of each would keep Python busy for seconds."""

    again_s = 60.0

    def __init__(self, store: ControlStore):
        super().__init__("budgets", lambda _: nearly_spent(store))

    def nearly_spent(self) -> dict[str, Spent] | None:
        """Of each use case whose budget warns or is spent; None while that is being read for the first time."""
        return self.of([_EVERY]).get(_EVERY)


_EVERY = ""


def nearly_spent(store: ControlStore) -> dict[str, Spent]:
    begin = month_of(now(store))
    budgets = budgets_of_month(store, month_name(begin))
    if not budgets:
        return {}
    spent = spent_of_each(store, begin)
    found = {name: _against(begin, spent.get(name, Cost()), budget) for name, budget in budgets.items()}
    return {name: one for name, one in found.items() if one.verdict in ("warn", "stop")}


def _against(begin: datetime, spent: Cost, budget: Budget | None) -> Spent:
    verdict = None if budget is None else judge(spent.amounts.get(budget.currency, 0.0), budget)
    return Spent(month_name(begin), spent, budget, verdict)


def month_of_case(settings: Settings, store: ControlStore, use_case: str) -> Month:
    begin = month_of(now(store))
    end = following(begin)
    steps, tables = read_usage(store, use_case, kinds=("step",)), read_prices(store)
    rows = [row for row in steps if begin <= row.since < end]
    rows += read_totals(store, use_case, begin, end, ("replica", "service"))
    spent = priced(rows, tables)
    runs = list(dict.fromkeys(row.run for row in rows if row.kind == "step"))[-RUNS:]
    return Month(
        **vars(_against(begin, spent, budget_of(store, use_case, month_name(begin)))),
        steps=tuple(lines(rows, tables, "step", {})),
        runs=tuple(lines([row for row in rows if row.run in runs], tables, "run", {})[::-1]),
        served=tuple(lines(rows, tables, "prediction", {})),
        next=in_words(use_case, estimate_until(steps, "materialize", settings.prices)),
    )


@dataclass(frozen=True)
class Made:
    """What a version cost to make: in one line, and by step."""

    whole: Line
    steps: tuple[Line, ...]


def made_for(store: ControlStore, use_case: str, version: int, keys: Sequence[str]) -> Made | None:
    """keys: of the steps that made it. None where nothing was measured."""
    rows = read_usage(store, use_case, kinds=("step",), keys=keys) if keys else []
    tables = read_prices(store) if rows else {}
    whole = lines(rows, tables, "version", {str(version): keys})
    return Made(whole[0], tuple(lines(rows, tables, "step", {}))) if whole else None


def chart(found: Sequence[Line]) -> Markup:
    """A bar for each line: its cost, or its CPU hours where not all have a cost in one currency. The table of the same
    lines stands below it."""
    currencies = {currency for line in found for currency in line.cost.amounts}
    if len(currencies) == 1 and all(line.cost.amounts for line in found):
        (currency,) = currencies
        values, unit = [line.cost.amounts[currency] for line in found], currency
    else:
        values, unit = [line.usage.cpu_s / 3600 for line in found], "CPU h"
    drawn = [(line.name, value, f"{figures(value)} {unit}") for line, value in zip(found, values, strict=True)]
    return made_elsewhere(bars(drawn, max(values, default=0.0)))
