"""Months of a world, judged as an endpoint's predictions are: which alarms are raised, and when."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import polars as pl
from drift.worlds import (
    BEGIN,
    CALM,
    STEP_HOURS,
    Counted,
    Drawn,
    Fault,
    World,
    begin_of,
    count,
    draw,
    past_rows,
    reliability_between,
)
from numpy.typing import NDArray

from mlops_ray.monitoring.alarms import Alarm, step
from mlops_ray.monitoring.build_reference import build_reference
from mlops_ray.monitoring.judging import judge, judge_concept
from mlops_ray.monitoring.looks import Gathered, look
from mlops_ray.monitoring.recalibration import UNTAUGHT, Lived, taught
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.row_sample import RowSample
from mlops_ray.monitoring.seasons import LENGTHS, season_of, with_cell_counts
from mlops_ray.monitoring.verdicts import Question, Verdict
from mlops_ray.monitoring.windows import Window
from mlops_ray.use_case.window_spec import WindowSpec

QUESTIONS: tuple[Question, ...] = ("data", "prediction", "concept")
SPECS = (WindowSpec(rows=5_000), WindowSpec(length=timedelta(days=7)))


@dataclass
class Model:
    """A reference, and what comes after it."""

    drawn: Drawn
    reference: Reference


@dataclass(frozen=True)
class Raised:
    """An alarm: after which step, about what, and what was found. new: not one that stood and became worse."""

    step: int
    question: Question
    verdict: Verdict
    new: bool


@dataclass
class _Standing:
    """As `version_watch` keeps it: the open alarm of each kind and question, and what was learned from calm windows."""

    alarms: dict[tuple[str, Question], Alarm] = field(default_factory=dict)
    lived: dict[tuple[str, Question], Lived] = field(default_factory=dict)


def model_of(world: World, months: int, seed: int) -> Model:
    drawn = draw(world, months, seed)
    rows = past_rows(drawn)
    return Model(drawn, build_reference(rows, "time", world.features, SPECS, rows, ["c"]))


def raised_in(model: Model, months: int, fault: Fault = CALM, since: int = 0) -> tuple[Raised, ...]:
    """All alarms of these months, in order: when they were raised, and when they became worse."""
    counted = count(model.drawn, model.reference, months, fault, since)
    looks = [(one, spec) for spec in SPECS for one in _looks(model, counted, spec)]
    return tuple(_raised(model, counted, sorted(looks, key=lambda one: one[0].last)))


@dataclass(frozen=True)
class _Steps:
    """A window of whole steps, and which they are."""

    first: int
    last: int
    window: Window


def _raised(model: Model, counted: Counted, looks: list[tuple[_Steps, WindowSpec]]) -> Iterator[Raised]:
    standing = _Standing()
    for one, spec in looks:
        for question in QUESTIONS:
            at = (spec.name, question)
            verdict = _verdict(model, counted, one, spec, question, standing.lived.get(at, UNTAUGHT))
            already = any(open_about == question for _, open_about in standing.alarms)
            stepped = step(standing.alarms.pop(at, None), verdict)
            if stepped.alarm is not None and stepped.alarm.resolved is None:
                standing.alarms[at] = stepped.alarm
            standing.lived[at] = taught(standing.lived.get(at, UNTAUGHT), verdict, stepped)
            told = stepped.event == "worsened" or (stepped.event == "opened" and not already)
            if told and verdict.acts:
                yield Raised(one.last, question, verdict, stepped.event == "opened")


def _verdict(
    model: Model, counted: Counted, one: _Steps, spec: WindowSpec, question: Question, lived: Lived
) -> Verdict:
    window, reference = one.window, model.reference
    if question == "concept":
        told = reliability_between(counted, reference, one.first, one.last)
        return judge_concept(told, window.start, window.end, reference, spec.name, lived=lived)
    return judge(window, reference, spec.name, question, lived=lived)


def _looks(model: Model, counted: Counted, spec: WindowSpec) -> Iterator[_Steps]:
    shortest = model.reference.windows[spec.name].shortest
    below = {name: np.pad(cells.cumsum(axis=0), ((1, 0), (0, 0))) for name, cells in counted.cells.items()}
    waiting: Gathered | None = None
    begun = 0
    for number, (first, last) in enumerate(_ends(counted.rows, spec)):
        window = _window(model, counted, below, first, last)
        found = look(waiting, window, spec, number, shortest)
        begun = begun if waiting is not None else first
        waiting = found.waiting
        if found.window is not None:
            yield _Steps(begun, last, found.window)


def _ends(rows: NDArray[np.int64], spec: WindowSpec) -> Iterator[tuple[int, int]]:
    """The steps of each window; one by rows ends with the step in which it is full."""
    if spec.length is not None:
        steps = spec.length // timedelta(hours=STEP_HOURS)
        yield from ((first, first + steps) for first in range(0, len(rows) - steps + 1, steps))
        return
    assert spec.rows is not None
    first, filled = 0, 0
    for step_of, here in enumerate(rows.tolist()):
        filled += here
        if filled >= spec.rows:
            yield first, step_of + 1
            first, filled = step_of + 1, 0


def _window(model: Model, counted: Counted, below: dict[str, NDArray[np.int64]], first: int, last: int) -> Window:
    drawn, reference = model.drawn, model.reference
    columns = {
        name: with_cell_counts(sketch, below[name][last] - below[name][first])
        for name, sketch in reference.columns.items()
    }
    hours = BEGIN + (drawn.steps + first) * STEP_HOURS + np.arange((last - first) * STEP_HOURS)
    of_hours = np.repeat(counted.rows[first:last] / STEP_HOURS, STEP_HOURS)
    seasons = {
        season: np.rint(np.bincount(season_of(hours, season), of_hours, length)).astype(np.int64)
        for season, length in LENGTHS.items()
    }
    rows = int(counted.rows[first:last].sum())
    return Window(
        begin_of(drawn, first), begin_of(drawn, last), rows, 0, columns, seasons, RowSample(0, pl.DataFrame())
    )
