"""The budget of a search: trials, time, CPU and money, and which of them is spent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_ray.errors import ConfigurationError
from mlops_ray.training.trial import Spent, Trial
from mlops_ray.use_case import UseCase

if TYPE_CHECKING:
    from mlops_ray.config import Prices


@dataclass(frozen=True)
class Budget:
    """trials: of all candidates together. seconds, cpu_seconds, cost: None for as much as the trials take. prices: by
    which `cost` is counted, in their currency; None without it."""

    trials: int
    seconds: float | None = None
    cpu_seconds: float | None = None
    cost: float | None = None
    prices: Prices | None = None

    @classmethod
    def of(cls, use_case: UseCase, prices: Prices | None) -> Budget:
        """prices: of the settings. Raises ConfigurationError if what trials cost could not be said by them."""
        search = use_case.search
        trials = search.trials_per_candidate * len(use_case.candidates)
        if search.cost is None:
            return cls(trials, search.seconds, search.cpu_seconds)
        return cls(trials, search.seconds, search.cpu_seconds, search.cost, _expect_prices(use_case, prices))

    def ended_by(self, spent: Spent) -> str:
        """Which budget is spent, as it is told to people; "" while all of them last."""
        if self.seconds is not None and spent.seconds >= self.seconds:
            return f"seconds: its {self.seconds:g} seconds were over"
        if self.cpu_seconds is not None and spent.cpu_seconds >= self.cpu_seconds:
            return f"cpu_seconds: its {self.cpu_seconds:g} CPU seconds were spent"
        if self.cost is not None and self.prices is not None and (spent.cost or 0.0) >= self.cost:
            return f"cost: its {self.cost:g} {self.prices.currency} were spent"
        return f"trials: all {self.trials} trials were run" if spent.trials >= self.trials else ""

    def cuts(self, spent: Spent) -> bool:
        """Whether trials that still run are stopped; those that are the last of so many are not."""
        return self.ended_by(spent).partition(":")[0] in ("seconds", "cpu_seconds", "cost")

    def share(self, trials: Iterable[Trial], at_once: int) -> float:
        """Which part of the budget these trials have taken, of the one that they have taken most of."""
        taken = self.spent_by(trials)
        shares = [taken.trials / self.trials]
        if self.seconds is not None:
            shares.append(taken.seconds / (self.seconds * at_once))
        if self.cpu_seconds is not None:
            shares.append(taken.cpu_seconds / self.cpu_seconds)
        if self.cost is not None:
            shares.append((taken.cost or 0.0) / self.cost)
        return max(shares)

    def spent_by(self, trials: Iterable[Trial]) -> Spent:
        """seconds: added up, as if the trials had run one after another."""
        trials = list(trials)
        return Spent(
            len(trials),
            sum(trial.seconds for trial in trials),
            sum(trial.cpu_seconds for trial in trials),
            None if self.prices is None else _cost(trials, self.prices),
        )


def _cost(trials: Iterable[Trial], prices: Prices) -> float:
    # Imported where there is a budget of it: it takes SQLAlchemy, and every trial's worker imports this module.
    from mlops_ray.cost.prices import price
    from mlops_ray.cost.usage import Usage

    return price(Usage.sum_of(trial.used for trial in trials), prices).amounts[prices.currency]


def _expect_prices(use_case: UseCase, prices: Prices | None) -> Prices:
    """Of what every trial uses, and of GPUs where they hold some: a budget without them would hardly be spent."""
    begin = f"Search(cost={use_case.search.cost:g}) of {use_case.name} could not be counted: "
    if prices is None:
        raise ConfigurationError(
            f"{begin}the settings have no prices. Set `prices` (prices: {{currency: EUR, cpu_hour: 0.04}}), or leave "
            f"cost out of the search."
        )
    needed = {"cpu_hour": "every trial uses CPUs"}
    if any(use_case.search.resources_of(candidate.name).gpus for candidate in use_case.candidates):
        needed["gpu_hour"] = "its trials hold GPUs"
    for name, why in needed.items():
        if getattr(prices, name) is None:
            raise ConfigurationError(
                f"{begin}the settings' prices have no {name}, and {why}. Set `prices.{name}`, to 0 if it is free."
            )
    return prices
