"""Worlds in which nothing changes, each generated from a seed: a past to learn a reference from, and years after it.

Values are normal with deviation 1 around a mean for each step of three hours and each column: what the day is like
(autoregressive), the hour of the day and of the week, and a trend. Labels are as probable as the answers say.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.monitoring.label_times import LabelTimes
from mlops_ray.use_case import Feature
from mlops_ray.use_case.window_spec import WindowSpec

BEGIN = np.datetime64("2024-01-01T00", "h")  # a Monday
START = datetime(2024, 1, 1, tzinfo=UTC)
# Means are the same for so many hours.
STEP_HOURS = 3
_Float = NDArray[np.float64]
_DIRECTIONS, _SHARES = ("a", "b", "c", "d"), (0.4, 0.3, 0.2, 0.1)
_MISSING = 0.05
# A replica writes its predictions away so often, and the file is there so long after, in minutes.
_SEGMENT_MIN, _UPLOAD_MIN = 15, 2


@dataclass(frozen=True)
class World:
    """per_day: rows in the past; traffic: how many times as many there are later, at the beginning and at the end.

    day_deviation, persistence: of what days are like. daily, weekly: amplitudes of the cycles of every other number.
    trend: of the first number over the past, in deviations; it then stays. new_ids: part of the identifiers' traffic
    that moves to new ones each day; 0 without such a column. clocks: of each replica, by how many seconds its clock is
    ahead. label_hours: after how long labels are known, of negatives and of positives. labelled: the share of the
    labels that ever come. complete_after_days: see `Monitoring`. round_hours: how often the endpoint's watch looks.
    segmented: numbers that are compared for each value of the category as well.
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
    clocks: tuple[float, ...] = (0.0,)
    label_hours: tuple[float, float] = (1.0, 1.0)
    labelled: float = 1.0
    complete_after_days: int = 90
    round_hours: int = 168
    segmented: tuple[str, ...] = ()

    @property
    def features(self) -> list[Feature]:
        names = [Feature(f"x{number}", "number") for number in range(self.numbers)]
        return [*names, Feature("c", "category"), *([Feature("id", "category")] if self.new_ids else [])]

    @property
    def windows(self) -> tuple[WindowSpec, WindowSpec]:
        """Five days of rows in the past, and a week."""
        return WindowSpec(rows=5 * self.per_day), WindowSpec(length=timedelta(days=7))

    @property
    def label_times(self) -> LabelTimes:
        return LabelTimes(complete_after=timedelta(days=self.complete_after_days))


@dataclass(frozen=True)
class Fault:
    """What changes at once: moved (of x1, in deviations), spread (of x1, a factor), swapped (two categories), gone (x1
    is missing), flipped (labels of the slice that is this part of the rows). within: x1 is moved only in the slice that
    is this part of the rows; 1: in all."""

    name: str
    moved: float = 0.0
    spread: float = 1.0
    swapped: bool = False
    gone: bool = False
    flipped: float = 0.0
    within: float = 1.0


CALM = Fault("calm")


@dataclass(frozen=True)
class Drawn:
    """A model's past, and the means of all time by steps. steps: of the past."""

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
    weight = np.exp(0.3 * means[:, -1:] * np.array([1.0, -1.0, 0.5, -0.5]) + np.log(_SHARES))
    return Drawn(
        world, means[:, :-1], weight / weight.sum(axis=1, keepdims=True), world.days * 24 // STEP_HOURS, random
    )


def past_rows(drawn: Drawn) -> pl.DataFrame:
    """Rows of the past by time: features, `probability` and `label`."""
    return _rows(drawn, 0, drawn.steps)


def later_rows(drawn: Drawn, first: int, last: int, fault: Fault = CALM, since: int = 0) -> pl.DataFrame:
    """The same of steps after the past; the fault is there from the step `since` on.

    known_at: when the label is, null where it never is. read_at: when the watch can read the row.
    """
    begin = drawn.steps + first
    return _rows(drawn, begin, drawn.steps + last, fault, max(0, since + drawn.steps - begin))


def _rows(drawn: Drawn, first: int, last: int, fault: Fault = CALM, sound: int = 0) -> pl.DataFrame:
    world, random = drawn.world, drawn.random
    step = first + np.repeat(np.arange(last - first), random.poisson(_rows_a_step(drawn, first, last)))
    faulty = step >= first + sound
    values = random.standard_normal((len(step), world.numbers + 1), dtype=np.float32)
    values[:, 1] *= np.where(faulty, fault.spread, 1.0)
    values += drawn.means[step]
    values[random.random(len(step)) < _MISSING, 0] = np.nan
    chosen = (random.random((len(step), 1)) > drawn.shares[step].cumsum(axis=1)[:, :-1]).sum(axis=1)
    values[:, 1] += fault.moved * (faulty if fault.within == 1 else faulty & (chosen == _SHARES.index(fault.within)))
    if fault.gone:
        values[faulty, 1] = np.nan
    if fault.swapped:
        chosen = np.where(faulty, np.array([3, 1, 2, 0])[chosen], chosen)
    probability = 1 / (1 + np.exp(-(values[:, -1] - 1)))
    label = random.random(len(step)) < probability
    if fault.flipped:
        label ^= faulty & (chosen == _SHARES.index(fault.flipped))
    micros = (step * STEP_HOURS + random.random(len(step)) * STEP_HOURS) * 3.6e9
    numbers = {f"x{at}": values[:, at] for at in range(world.numbers)}
    frame = pl.DataFrame({
        **numbers, "c": pl.Series(np.array(_DIRECTIONS)[chosen]), "probability": probability, "label": label,
        **_moments(world, micros.astype(np.int64), label, random),
    })  # fmt: skip
    if world.new_ids:
        frame = frame.with_columns(id=_identifiers(step * STEP_HOURS // 24, world, random))
    return frame.sort("time")


def _rows_a_step(drawn: Drawn, first: int, last: int) -> _Float:
    """How many are to be expected: as many as ever in the past, and then as the traffic grows."""
    world, later = drawn.world, len(drawn.means) - drawn.steps
    part = (np.arange(first, last) - drawn.steps) / max(1, later)
    low, high = np.log(world.traffic)
    return world.per_day / 24 * STEP_HOURS * np.where(part < 0, 1.0, np.exp(low + (high - low) * part))


def _moments(
    world: World, micros: NDArray[np.int64], label: NDArray[np.bool_], random: np.random.Generator
) -> dict[str, pl.Series]:
    """When rows were answered by the clocks of their replicas, when they can be read, and when their labels are known.

    Replicas write their files in turn, so some are read before others whose rows are older.
    """
    replica = random.integers(0, len(world.clocks), len(micros))
    length = _SEGMENT_MIN * 60 * 1_000_000
    turn = replica * length // len(world.clocks)
    written = ((micros - turn) // length + 1) * length + turn + _UPLOAD_MIN * 60 * 1_000_000
    known = micros + (np.where(label, world.label_hours[1], world.label_hours[0]) * 3.6e9).astype(np.int64)
    answered = micros + (np.array(world.clocks)[replica] * 1e6).astype(np.int64)
    comes = pl.Series(random.random(len(micros)) < world.labelled)
    moments = {"time": answered, "read_at": written if len(world.clocks) > 1 else micros, "known_at": known}
    found = {name: _dated(one) for name, one in moments.items()}
    return {**found, "known_at": found["known_at"].set(~comes, None)}


def _dated(micros: NDArray[np.int64]) -> pl.Series:
    moments = BEGIN.astype("datetime64[us]") + micros.astype("timedelta64[us]")
    return pl.Series(moments).dt.replace_time_zone("UTC")


def _identifiers(day: NDArray[np.int64], world: World, random: np.random.Generator) -> pl.Series:
    """Of 500 at a time; each day the part `new_ids` of them is replaced. Numbered in the order in which they come."""
    return pl.Series((day * 500 * world.new_ids).astype(int) + random.integers(0, 500, len(day))).cast(pl.String)


def begin_of(drawn: Drawn, step: int) -> datetime:
    """When a step after the past begins."""
    return START + timedelta(hours=(drawn.steps + step) * STEP_HOURS)
