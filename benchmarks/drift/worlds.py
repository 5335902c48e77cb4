"""Worlds in which nothing changes, each generated from a seed: a past to learn a reference from, and years after it.

Values are normal with deviation 1 around a mean for each hour and column: what the day is like (autoregressive), the
hour of the day and of the week, and a trend. The past is drawn row by row. Of the time after it only what sketches
count is drawn, from the same distributions, so two hundred months take a minute.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import ndtr

from mlops_ray.monitoring.reference import PREDICTION, Reference
from mlops_ray.monitoring.reliability import Reliability
from mlops_ray.monitoring.sketches import NumericSketch
from mlops_ray.use_case import Feature

BEGIN = np.datetime64("2024-01-01T00", "h")  # a Monday
START = datetime(2024, 1, 1, tzinfo=UTC)
_Float = NDArray[np.float64]
# Means are the same for so many hours, and what is counted later is drawn for as many at once.
STEP_HOURS = 3
_DIRECTIONS = ("a", "b", "c", "d")
_MISSING = 0.05


@dataclass(frozen=True)
class World:
    """per_day: rows in the past; traffic: how many times as many there are later, at the beginning and at the end.

    day_deviation, persistence: of what days are like. daily, weekly: amplitudes of the cycles of every other number.
    trend: of the first number over the past, in deviations; it then stays. new_ids: part of the identifiers' traffic
    that moves to new ones each day; 0 without such a column.
    """

    name: str
    numbers: int = 28
    days: int = 240
    per_day: int = 1000
    day_deviation: float = 0.0
    persistence: float = 0.0
    daily: float = 0.0
    weekly: float = 0.0
    trend: float = 0.0
    traffic: tuple[float, float] = (1.0, 1.0)
    new_ids: float = 0.0

    @property
    def features(self) -> list[Feature]:
        names = [Feature(f"x{number}", "number") for number in range(self.numbers)]
        return [*names, Feature("c", "category"), *([Feature("id", "category")] if self.new_ids else [])]


@dataclass(frozen=True)
class Fault:
    """What changes at once: moved (of x1, in deviations), spread (of x1, a factor), swapped (two categories), gone (x1
    is missing), flipped (labels of the slice c=a)."""

    name: str
    moved: float = 0.0
    spread: float = 1.0
    swapped: bool = False
    gone: bool = False
    flipped: bool = False


CALM = Fault("calm")


@dataclass(frozen=True)
class Drawn:
    """A model's past, and the means of all time by steps of three hours. steps: of the past."""

    world: World
    means: _Float
    shares: _Float
    steps: int
    random: np.random.Generator = field(repr=False)


def draw(world: World, months: int, seed: int) -> Drawn:
    """The means of each step, [steps, numbers + 1], the last of the answers' logits; shares of categories."""
    random = np.random.default_rng(seed)
    days = world.days + months * 30
    level = np.zeros((days, world.numbers + 2))
    noise = random.normal(0, world.day_deviation * np.sqrt(1 - world.persistence**2), level.shape)
    for day in range(1, days):
        level[day] = world.persistence * level[day - 1] + noise[day]
    hour = np.arange(0, days * 24, STEP_HOURS)
    means = level[hour // 24]
    phase = random.uniform(0, 2 * np.pi, means.shape[1])
    cyclic = np.arange(means.shape[1]) % 2 == 1
    means += cyclic * world.daily * np.sin(2 * np.pi * hour[:, None] / 24 + phase)
    means += cyclic * world.weekly * np.sin(2 * np.pi * hour[:, None] / 168 + phase)
    means[:, 0] += world.trend * np.minimum(1.0, hour / (24 * world.days))
    weight = np.exp(0.3 * means[:, -1:] * np.array([1.0, -1.0, 0.5, -0.5]) + np.log([0.4, 0.3, 0.2, 0.1]))
    return Drawn(
        world, means[:, :-1], weight / weight.sum(axis=1, keepdims=True), world.days * 24 // STEP_HOURS, random
    )


def past_rows(drawn: Drawn) -> pl.DataFrame:
    """Rows of the past by time: features, `probability` and `label`."""
    world, random, steps = drawn.world, drawn.random, drawn.steps
    step = np.repeat(np.arange(steps), random.poisson(world.per_day / 24 * STEP_HOURS, steps))
    return _rows(drawn, step)


def later_rows(drawn: Drawn, days: int) -> pl.DataFrame:
    """The same of the first days after the past, at the traffic of the past."""
    steps, per_step = days * 24 // STEP_HOURS, drawn.world.per_day / 24 * STEP_HOURS
    return _rows(drawn, drawn.steps + np.repeat(np.arange(steps), drawn.random.poisson(per_step, steps)))


def _rows(drawn: Drawn, step: NDArray[np.int64]) -> pl.DataFrame:
    world, random = drawn.world, drawn.random
    values = random.standard_normal((len(step), world.numbers + 1), dtype=np.float32) + drawn.means[step]
    numbers = {f"x{at}": values[:, at].astype(np.float32) for at in range(world.numbers)}
    numbers["x0"] = np.where(random.random(len(step)) < _MISSING, np.nan, numbers["x0"])
    chosen = (random.random((len(step), 1)) > drawn.shares[step].cumsum(axis=1)[:, :-1]).sum(axis=1)
    probability = 1 / (1 + np.exp(-(values[:, -1] - 1)))
    inside = (random.random(len(step)) * STEP_HOURS * 3.6e9).astype("timedelta64[us]")
    moment = (BEGIN + step * STEP_HOURS).astype("datetime64[us]") + inside
    frame = pl.DataFrame({"time": moment, **numbers, "c": np.array(_DIRECTIONS)[chosen], "probability": probability})
    if world.new_ids:
        frame = frame.with_columns(id=pl.Series(_identifiers(step * STEP_HOURS // 24, world, random)))
    return frame.with_columns(label=pl.Series(random.random(len(step)) < probability)).sort("time")


def _identifiers(day: NDArray[np.int64], world: World, random: np.random.Generator) -> list[str]:
    """Of 500 at a time; each day the part `new_ids` of them is replaced. Numbered in the order in which they come."""
    return [f"i{number}" for number in (day * 500 * world.new_ids).astype(int) + random.integers(0, 500, len(day))]


@dataclass(frozen=True)
class Counted:
    """What sketches count in each step after the past. rows [steps]; cells: by column, [steps, cells]; told: of labels
    by slice, `rows`, `predicted`, `positives` [steps, bins]."""

    rows: NDArray[np.int64]
    cells: dict[str, NDArray[np.int64]]
    told: dict[str, tuple[_Float, _Float, _Float]]


def count(drawn: Drawn, reference: Reference, months: int, fault: Fault = CALM, since: int = 0) -> Counted:
    """Draw what is counted in `months`; the fault is there from the step `since` on."""
    world, random, steps = drawn.world, drawn.random, months * 30 * 24 // STEP_HOURS
    later = slice(drawn.steps, drawn.steps + steps)
    first, last = np.log(world.traffic)
    times = np.exp(first + (last - first) * np.arange(steps) / steps)
    rows = random.poisson(world.per_day / 24 * STEP_HOURS * times)
    faulty, none = np.arange(steps) >= since, np.zeros(steps)
    cells = {}
    for at in range(world.numbers):
        name, mean, wide, gone = f"x{at}", drawn.means[later, at], none + 1, none + (_MISSING if at == 0 else 0)
        if at == 1:
            mean, wide = mean + fault.moved * faulty, np.where(faulty, fault.spread, 1.0)
            gone = np.where(faulty & fault.gone, 1.0, gone)
        cells[name] = _numbers(rows, mean, wide, gone, reference.columns[name], random)
    shares = drawn.shares[later]
    swapped = shares[:, [3, 1, 2, 0]] if fault.swapped else shares
    cells["c"] = np.pad(random.multinomial(rows, np.where(faulty[:, None], swapped, shares)), ((0, 0), (0, 2)))
    if world.new_ids:
        cells["id"] = _id_cells(rows, world, reference, random)
    cells[PREDICTION] = _numbers(rows, drawn.means[later, -1] - 1, none + 1, none, _logits(reference), random)
    flipped = faulty & fault.flipped
    return Counted(rows, cells, _labels(cells[PREDICTION], shares[:, 0], flipped, reference, random))


def _numbers(
    rows: NDArray[np.int64], mean: _Float, wide: _Float, gone: _Float, sketch: object, random: np.random.Generator
) -> NDArray[np.int64]:
    assert isinstance(sketch, NumericSketch)
    edges = sketch.edges.astype(np.float64)
    below = ndtr((edges[None, :] - mean[:, None]) / wide[:, None])
    parts = np.diff(below, axis=1, prepend=0.0, append=1.0) * (1 - gone[:, None])
    whole = np.clip(np.concatenate([parts, gone[:, None]], axis=1), 0, 1)
    return random.multinomial(rows, whole / whole.sum(axis=1, keepdims=True))


def _logits(reference: Reference) -> NumericSketch:
    sketch = reference.columns[PREDICTION]
    assert isinstance(sketch, NumericSketch)
    edges = np.clip(sketch.edges.astype(np.float64), 1e-9, 1 - 1e-9)
    return NumericSketch.with_edges(np.log(edges / (1 - edges)))


def _id_cells(
    rows: NDArray[np.int64], world: World, reference: Reference, random: np.random.Generator
) -> NDArray[np.int64]:
    categories = reference.columns["id"].categories  # type: ignore[union-attr]
    number = np.array([int(name[1:]) for name in categories])
    found = np.zeros((len(rows), len(categories) + 2), dtype=np.int64)
    for step, rows_of_step in enumerate(rows):
        oldest = int((world.days + step * STEP_HOURS // 24) * 500 * world.new_ids)
        alive = np.flatnonzero((number >= oldest) & (number < oldest + 500))
        drawn = random.integers(0, 500, rows_of_step)
        np.add.at(found[step], alive[drawn[drawn < len(alive)]], 1)
        found[step, -2] = (drawn >= len(alive)).sum()
    return found


def _labels(
    cells: NDArray[np.int64],
    share: _Float,
    flipped: NDArray[np.bool_],
    reference: Reference,
    random: np.random.Generator,
) -> dict[str, tuple[_Float, _Float, _Float]]:
    """By the bins of the reference's reliability; all answers of a cell of the prediction sketch are taken as alike."""
    sketch, edges = reference.columns[PREDICTION], reference.reliability["all"].edges
    assert isinstance(sketch, NumericSketch)
    ends = np.concatenate([[0.0], sketch.edges.astype(np.float64), [1.0]])
    middle = (ends[1:] + ends[:-1]) / 2
    into = np.zeros((len(middle), len(edges) + 1))
    into[np.arange(len(middle)), np.searchsorted(edges, middle)] = 1.0
    of_slice = random.binomial(cells[:, :-1], share[:, None])
    chance = np.where(flipped[:, None], 1 - middle[None, :], middle[None, :])
    ups = random.binomial(of_slice, chance)
    others = cells[:, :-1] - of_slice
    all_ups = ups + random.binomial(others, np.broadcast_to(middle, others.shape))
    return {
        name: tuple(part @ into for part in (counts, counts * middle, positive))  # type: ignore[misc]
        for name, counts, positive in (("all", cells[:, :-1], all_ups), ("c=a", of_slice, ups))
    }


def reliability_between(counted: Counted, reference: Reference, first: int, last: int) -> dict[str, Reliability]:
    edges = reference.reliability["all"].edges
    return {
        name: Reliability(edges, *(part[first:last].sum(axis=0) for part in parts))
        for name, parts in counted.told.items()
    }


def begin_of(drawn: Drawn, step: int) -> datetime:
    """When a step after the past begins."""
    return START + timedelta(hours=(drawn.steps + step) * STEP_HOURS)
