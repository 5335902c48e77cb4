"""Estimate: what a run will use and cost, from what earlier ones did, with an interval that covers 8 runs of 10.

Of n earlier totals x the next one is expected, as Student's t has it for a log-normal quantity, within
exp(mean(log x) ± t(n - 1, 0.925) s sqrt(1 + 1/n)), with the standard deviation s of log x (Hahn and Meeker,
"Statistical intervals", 1991, section 4.7). Deviations: it is the interval for 85 of 100, as with totals that are not
log-normal the one for 80 covers less (77 of 100 where they are uniform); and s is 3 % at least, as a few runs may be
alike by chance.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlops_ray.config import Prices
from mlops_ray.cost.history import PastRun, past_runs
from mlops_ray.cost.meter import AROUND
from mlops_ray.cost.prices import price
from mlops_ray.cost.steps import STEPS, StepName
from mlops_ray.cost.usage import Usage
from mlops_ray.governance.usage import Used
from mlops_ray.show.text import figures

_COVERS = 0.85
_LATEST = 30
_ENOUGH_RUNS = 2
_LEAST_SPREAD = 0.03


@dataclass(frozen=True)
class Interval:
    """low and high: None where one earlier run says nothing of how far others are from it."""

    middle: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Estimate:
    """Of one run. runs: how many earlier ones it is from. cost: in `currency`, by the prices of today; None without
    any. unpriced: the prices that are missing for what was used."""

    runs: int
    cpu_s: Interval
    wall_s: Interval
    cost: Interval | None
    currency: str | None
    unpriced: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def estimate(runs: Sequence[PastRun], steps: Collection[str], prices: Prices | None) -> Estimate | None:
    """Of a run in which all these steps run, from the latest 30; None if one of them has never ended.

    Runs that ran them all count as wholes; where there are too few, each step is estimated by itself, and the sum of
    their intervals is wider than need be.
    """
    whole = [run for run in runs if all(step in run.steps for step in steps)][-_LATEST:]
    if len(whole) >= _ENOUGH_RUNS:
        samples = [[sum((run.steps[step] for step in steps), Usage()) for run in whole]]
    else:
        samples = [[run.steps[step] for run in runs if step in run.steps][-_LATEST:] for step in steps]
    if not samples or not all(samples):
        return None

    def summed(of: Callable[[Usage], float]) -> Interval:
        return _sum([interval([of(one) for one in several]) for several in samples])

    def amount(usage: Usage) -> float:
        return sum(price(usage, prices).amounts.values())

    unpriced = {name for several in samples for one in several for name in price(one, prices).unpriced}
    return Estimate(
        min(len(several) for several in samples),
        summed(lambda usage: usage.cpu_s),
        summed(lambda usage: usage.wall_s),
        None if prices is None else summed(amount),
        None if prices is None else prices.currency,
        tuple(sorted(unpriced)),
    )


def estimate_until(rows: Iterable[Used], until: StepName, prices: Prices | None) -> Estimate | None:
    """Of a run whose last step is `until`. rows: of the steps of all earlier ones of its use case."""
    wanted = (*STEPS[: STEPS.index(until) + 1], AROUND)
    return estimate(past_runs(rows), wanted, prices)


def in_words(use_case: str, found: Estimate | None) -> str:
    """For a person; found: None where nothing is known yet."""
    if found is None:
        return f"Cost: not known before {use_case} has run once in full."
    if found.cost is None:
        what = _range(found.cpu_s, "CPU seconds")
        return f"Cost: {what} from {_runs(found.runs)}, if every step runs; no prices are set."
    lacks = f" (without {', '.join(found.unpriced)})" if found.unpriced else ""
    what = f"{_range(found.cost, found.currency or '')}{lacks}, {_range(found.cpu_s, 'CPU seconds')}"
    return f"Cost: {what}, from {_runs(found.runs)}, if every step runs."


def _range(of: Interval, unit: str) -> str:
    bounds = "" if of.low is None or of.high is None else f" ({figures(of.low, 3)} to {figures(of.high, 3)})"
    return f"{figures(of.middle, 3)} {unit}{bounds}"


def _runs(count: int) -> str:
    return f"{count} earlier run{'' if count == 1 else 's'}"


def interval(values: Sequence[float]) -> Interval:
    """Of the next value after these, which are not negative. Where some are 0 it lies between 0 and what the others
    say, and their mean is expected."""
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # few commands need it

    if not any(values):
        return Interval(0.0, 0.0, 0.0)
    positive = [value for value in values if value > 0]
    if len(positive) < len(values):
        return Interval(sum(values) / len(values), 0.0, max(interval(positive).high or 0.0, *positive))
    logs = np.log(values)
    middle, count = float(logs.mean()), len(values)
    if count < 2:
        return Interval(math.exp(middle), None, None)
    spread = max(float(logs.std(ddof=1)), _LEAST_SPREAD)
    half = float(stdtrit(count - 1, (1 + _COVERS) / 2)) * spread * math.sqrt(1 + 1 / count)
    half = min(half, 50.0)  # two runs that are worlds apart: the number must stay one
    return Interval(math.exp(middle), math.exp(middle - half), math.exp(middle + half))


def _sum(parts: Sequence[Interval]) -> Interval:
    lows, highs = [part.low for part in parts], [part.high for part in parts]
    return Interval(
        sum(part.middle for part in parts),
        None if None in lows else sum(low for low in lows if low is not None),
        None if None in highs else sum(high for high in highs if high is not None),
    )
