"""False alarms a month in worlds where nothing changes, and how long faults take to be found, by simulation.

    python benchmarks/run.py monitoring:daily_cycle,faults     # one world, and how soon faults are found

Each world has several models, each with a past of its own, and 200 months after them in all. An alarm that is raised
about an endpoint is one, whichever question, feature or kind of window it is about.

What has been simulated is kept (see `outcomes`): whoever stops it goes on from there. All of it takes about an hour of
one core's time, half of which is for learning references and 300 features.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from drift.months import WAITED_HOURS, alarms, delays
from drift.outcomes import Outcomes, processes
from drift.worlds import Fault, World
from scipy.stats import chi2

Figures = Iterator[tuple[str, float, str]]
CODE = ("worlds", "endpoint", "months")
_DAYS = {"day_deviation": 0.06, "persistence": 0.5}
AUTOCORRELATED = World("autocorrelated_days", **_DAYS)
SEGMENTS = World("segments", segmented=("x0", "x1", "x2", "x3", "x4"), **_DAYS)
WORLDS = (
    World("iid"),
    AUTOCORRELATED,
    World("daily_cycle", daily=0.8, **_DAYS),
    World("weekly_cycle", daily=0.5, weekly=0.5, **_DAYS),
    World("growing_traffic", traffic=(1.0, 50.0), daily=0.8, per_day=100, **_DAYS),
    World("shrinking_traffic", traffic=(1.0, 0.02), daily=0.8, **_DAYS),
    World("fifty_times_the_traffic", traffic=(50.0, 50.0), daily=0.8, per_day=100, numbers=12, **_DAYS),
    World("trend_in_the_reference", trend=0.5, **_DAYS),
    World("new_identifiers", new_ids=0.01, **_DAYS),
    World("several_replicas", clocks=(0.0, 90.0, -60.0), daily=0.5, round_hours=24, **_DAYS),
    World("labels_by_class", label_hours=(1.0, 72.0), round_hours=24, **_DAYS),
    World("some_labels", label_hours=(1.0, 72.0), labelled=0.85, complete_after_days=14, round_hours=24, **_DAYS),
    SEGMENTS,
    World("300_features", numbers=299, **_DAYS),
    World("short_reference", days=90, **_DAYS),
)
FAULTS = (
    Fault("mean_shift_0.2", moved=0.2),
    Fault("mean_shift_0.5", moved=0.5),
    Fault("scale_1.5", spread=1.5),
    Fault("swapped_category", swapped=True),
    Fault("missing_feature", gone=True),
    Fault("flipped_labels_of_a_slice", flipped=0.4),
)
# With 85 % of the labels, and as long as the others could still come.
SOME_LABELS = (
    Fault("flipped_labels_of_a_slice_85_percent", flipped=0.4),
    Fault("flipped_labels_of_a_tenth_85_percent", flipped=0.1),
)
# A tenth of the rows has moved: the mean of all has by 0.05.
IN_A_SEGMENT = (Fault("mean_shift_0.5_in_a_segment", moved=0.5, within=0.1),)
_FAULTY = ((AUTOCORRELATED, FAULTS), (replace(AUTOCORRELATED, labelled=0.85), SOME_LABELS), (SEGMENTS, IN_A_SEGMENT))
_MONTHS = 200
_FAULT_MODELS, _ONSETS = 6, 5


def false_alarms(world: World) -> Figures:
    models, months = _share(world)
    with processes() as some:
        found = Outcomes(some, CODE).of(alarms, [(world, seed, months) for seed in range(models)])
    counts = np.array([len(one) for one in found])
    low, high = interval(counts, months)
    name, unit = f"false_alarms_per_month_{world.name}", f"of {models * months} months, {models} models"
    yield name, float(counts.sum()) / (models * months), unit
    yield f"{name}_low", low, "95 % interval"
    yield f"{name}_high", high, "95 % interval"


def found_faults() -> Figures:
    """The median delay over models and onsets, at the traffic of the past in a world with autocorrelated days."""
    with processes() as some:
        known = Outcomes(some, CODE)
        for world, faults in _FAULTY:
            given = [(world, 100 + seed, _ONSETS, faults) for seed in range(_FAULT_MODELS)]
            found = [one for onsets in known.of(delays, given) for one in onsets]
            for fault in faults:
                hours = np.array([one[fault.name] for one in found])
                seen = int((hours < WAITED_HOURS).sum())
                yield f"delay_h_{fault.name}", float(np.median(hours)), f"hours, median; {seen} of {len(hours)} found"
                yield f"found_{fault.name}", seen / len(hours), "within six weeks"


def _share(world: World) -> tuple[int, int]:
    """Models and months of each; 200 months in all."""
    models = 5 if world.numbers > 100 else 10
    return models, _MONTHS // models


def interval(counts: np.ndarray, months: int) -> tuple[float, float]:
    """Of the rate a month, by what is wider: of a count (Garwood, "Fiducial limits for the Poisson distribution",
    1936), or of resampled models (Efron, "Bootstrap methods", 1979, percentiles), as the threshold of one may be too
    low for all its months."""
    total, all_months = int(counts.sum()), months * len(counts)
    low = chi2.ppf(0.025, 2 * total) / 2 if total else 0.0
    high = chi2.ppf(0.975, 2 * total + 2) / 2
    drawn = np.random.default_rng(0).choice(counts, (4000, len(counts))).sum(axis=1)
    return (
        float(min(low, np.quantile(drawn, 0.025))) / all_months,
        float(max(high, np.quantile(drawn, 0.975))) / all_months,
    )
