"""Spending: what a use case has cost this month, against its budget."""

import logging
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Literal

from mlops_ray.config import Prices
from mlops_ray.cost.prices import PRICED, Cost, priced
from mlops_ray.errors import BudgetError, ConfigurationError
from mlops_ray.governance.budgets import Budget, budget_of, say_exceeded, say_warned
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.usage import Kind, month_of, now, read_prices, used_under_prices
from mlops_ray.show.text import figures


@dataclass(frozen=True)
class Left:
    """Of a budget in a month, such as "2026-11". cost: what was used in it, in whichever currencies."""

    budget: Budget
    month: str
    cost: Cost

    @property
    def spent(self) -> float:
        return self.cost.amounts.get(self.budget.currency, 0.0)

    @property
    def amount(self) -> float:
        return self.budget.amount - self.spent

    def __str__(self) -> str:
        """What is spent, in words."""
        return f"{figures(self.spent)} of {figures(self.budget.amount)} {self.budget.currency}{self.cost.lacks}"


Verdict = Literal["go on", "warn", "stop"]

_logger = logging.getLogger(__name__)


def judge(spent: float, budget: Budget) -> Verdict:
    """Whether a run may go on when this is spent, in the budget's currency. A budget of 0 stops everything."""
    if spent >= budget.amount:
        return "stop"
    return "warn" if spent >= budget.warn_at * budget.amount else "go on"


def month_name(moment: datetime) -> str:
    return f"{month_of(moment):%Y-%m}"


def following(month: datetime) -> datetime:
    """The beginning of the month after the one that begins then."""
    return month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)


def spent_in(store: ControlStore, use_case: str, month: datetime) -> Cost:
    """In the month that begins then, by all that works for a use case; trials are part of their runs' steps."""
    return spent_of_each(store, month, use_case).get(use_case, Cost())


def spent_of_each(store: ControlStore, month: datetime, use_case: str | None = None) -> dict[str, Cost]:
    """As `spent_in`, of all use cases for which something was used, or of one."""
    kinds: tuple[Kind, ...] = ("step", "replica", "service")
    sums, tables = used_under_prices(store, use_case, month, following(month), kinds, PRICED), read_prices(store)
    return {name: priced(ones, tables) for name, ones in groupby(sums, key=lambda one: one.use_case)}


class Spending:
    """Watches one run's use case. Runs at the same time see what the others have written."""

    def __init__(self, store: ControlStore, use_case: str, prices: Prices | None, run: str):
        self._store, self._use_case, self._prices, self._run = store, use_case, prices, run

    def expect_something_left(self) -> None:
        """Raise BudgetError if the month's budget is spent, ConfigurationError if it cannot be judged."""
        found = self.left()
        if found is None:
            return
        budget = found.budget
        if self._prices is None or self._prices.currency != budget.currency:
            has = "no prices" if self._prices is None else f"prices in {self._prices.currency}"
            raise ConfigurationError(
                f"The budget of {self._use_case} is in {budget.currency}, and the settings have {has}: what a run "
                f"costs could not be compared with it. Set `prices` in {budget.currency}, or set the budget anew "
                f"(`mlops-ray cost budget`)."
            )
        expect_cpu_price(self._prices, self._use_case)
        if (why := self._decide(found)) is not None:
            raise BudgetError(why)

    def left(self) -> Left | None:
        """What is left of the budget of this month; None without one."""
        month = month_of(now(self._store))
        budget = budget_of(self._store, self._use_case, month_name(month))
        if budget is None:
            return None
        return Left(budget, month_name(month), spent_in(self._store, self._use_case, month))

    def decide(self) -> str | None:
        """Why the run has to stop, None if it has not. What calls for an event is recorded."""
        found = self.left()
        return None if found is None else self._decide(found)

    def _decide(self, found: Left) -> str | None:
        budget, spent, month = found.budget, found.spent, found.month
        verdict = judge(spent, budget)
        if verdict == "go on":
            return None
        if budget.warned_for != month:
            _logger.warning("Of the budget of %s for %s, %s are spent.", self._use_case, month, found)
            say_warned(self._store, budget, month, spent)
        if verdict == "warn":
            return None
        say_exceeded(self._store, budget, month, spent, self._run)
        of = f"{self._use_case} --month {budget.month}" if budget.month else self._use_case
        return (
            f"The budget of {self._use_case} for {month} is spent: {found}. What has ended is kept. Raise it "
            f"(`mlops-ray cost budget {of} --amount ...`) and run the same again: it goes on from there."
        )


def expect_cpu_price(prices: Prices, use_case: str) -> None:
    """Raise ConfigurationError if what every run uses has no price."""
    if prices.cpu_hour is None:
        raise ConfigurationError(
            f"A budget of {use_case} could not be judged: the settings' prices have no cpu_hour, which every run uses. "
            f"Set `prices.cpu_hour`, to 0 if it is free."
        )
