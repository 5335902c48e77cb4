"""False alarms a month in worlds where nothing changes, and how long faults take to be found, by simulation.

    python benchmarks/drift/promise.py [WORLD ...]      # alone, without the other figures

Each world has several models, each with a past of its own, and 200 months after them in all. An alarm that is raised
about an endpoint is one, whichever question, feature or kind of window it is about. Intervals are of models, which is
what differs: the threshold of one may be too low for all its months.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from math import inf

import numpy as np

if __name__ == "__main__":
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[1]))
from drift.months import Model, Raised, model_of, raised_in
from drift.worlds import STEP_HOURS, Fault, World

Figures = Iterator[tuple[str, float, str]]
MODELS, MONTHS = 8, 25
_DAYS = {"day_deviation": 0.06, "persistence": 0.5}
WORLDS = (
    World("iid"),
    World("autocorrelated_days", **_DAYS),
    World("daily_cycle", daily=0.8, **_DAYS),
    World("weekly_cycle", daily=0.5, weekly=0.5, **_DAYS),
    World("growing_traffic", traffic=(1.0, 50.0), daily=0.8, **_DAYS),
    World("shrinking_traffic", traffic=(1.0, 0.02), daily=0.8, **_DAYS),
    World("fifty_times_the_traffic", traffic=(50.0, 50.0), daily=0.8, per_day=200, **_DAYS),
    World("trend_in_the_reference", trend=0.5, **_DAYS),
    World("new_identifiers", new_ids=0.01, **_DAYS),
    World("300_features", numbers=298, **_DAYS),
    World("short_reference", days=90, **_DAYS),
)
FAULTS = (
    Fault("mean_shift_0.2", moved=0.2),
    Fault("mean_shift_0.5", moved=0.5),
    Fault("scale_1.5", spread=1.5),
    Fault("swapped_category", swapped=True),
    Fault("missing_feature", gone=True),
    Fault("flipped_labels_of_a_slice", flipped=True),
)
# A fault begins after two weeks, and is waited for until six weeks after.
_FAULT_MONTHS, _FAULT_STEP = 2, 14 * 24 // STEP_HOURS
_FAULT_MODELS, _ONSETS = 6, 5
_ABOUT = {"swapped_category": "c", "flipped_labels_of_a_slice": "concept"}


def figures(worlds: Sequence[World] = WORLDS, faults: Sequence[Fault] = FAULTS) -> Figures:
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1)) as processes:
        for world in worlds:
            models, months = _share(world)
            found = list(processes.map(_alarms, [world] * models, range(models), [months] * models))
            rates = np.array(found) / months
            yield f"false_alarms_per_month_{world.name}", float(rates.mean()), f"of {models * months} months"
            low, high = _interval(rates)
            yield f"false_alarms_per_month_{world.name}_low", low, "95 % interval"
            yield f"false_alarms_per_month_{world.name}_high", high, "95 % interval"
        if faults:
            yield from _delays(faults, processes)


def _share(world: World) -> tuple[int, int]:
    """Models and months of each; 200 months in all."""
    return (4, 50) if world.numbers > 100 else (MODELS, MONTHS)


def _alarms(world: World, seed: int, months: int) -> int:
    return sum(one.new for one in raised_in(model_of(world, months, seed), months))


def _interval(rates: np.ndarray) -> tuple[float, float]:
    """Of the mean, by resampled models (Efron, "Bootstrap methods", 1979, percentiles)."""
    drawn = np.random.default_rng(0).choice(rates, (4000, len(rates))).mean(axis=1)
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def _delays(faults: Sequence[Fault], processes: ProcessPoolExecutor) -> Figures:
    """The median over models and onsets, at the traffic of the past in a world with autocorrelated days."""
    world = WORLDS[1]
    found = list(
        processes.map(_delays_of, [world] * _FAULT_MODELS, range(100, 100 + _FAULT_MODELS), [faults] * _FAULT_MODELS)
    )
    for fault in faults:
        hours = np.array([delay for one in found for delay in one[fault.name]])
        seen = f"{np.isfinite(hours).sum()} of {len(hours)} found"
        yield f"delay_h_{fault.name}", float(np.median(hours)), f"hours, median; {seen}"


def _delays_of(world: World, seed: int, faults: Sequence[Fault]) -> dict[str, list[float]]:
    model = model_of(world, _FAULT_MONTHS, seed)
    return {fault.name: [_delay(model, fault, onset) for onset in range(_ONSETS)] for fault in faults}


def _delay(model: Model, fault: Fault, onset: int) -> float:
    """Hours from the fault to the first alarm that names what is wrong; infinite if there is none in six weeks.

    An alarm that stands already and spreads to it is one as well.
    """
    since = _FAULT_STEP + 3 * onset
    for one in raised_in(model, _FAULT_MONTHS, fault, since):
        if one.step > since and _ABOUT.get(fault.name, "x1") in _about(one):
            return (one.step - since) * STEP_HOURS
    return inf


def _about(raised: Raised) -> set[str]:
    return {"concept"} if raised.question == "concept" else {finding.column for finding in raised.verdict.findings}


def main(names: Sequence[str]) -> None:
    chosen = [world for world in WORLDS if not names or world.name in names]
    for name, value, unit in figures(chosen, FAULTS if not names or "faults" in names else ()):
        print(f"figure monitoring.{name} {value:.4g} {unit}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
