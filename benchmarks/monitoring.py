"""Drift detection: how fast, how often wrong, how often right, beside Evidently and NannyML at their defaults.

The promise, false alarms a month about an endpoint, is simulated in `drift/promise.py`. Here false alarms and power are
counted for single windows: an alarm is at least one drifted column. See `PARTS`: each world is one.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from statistics import NormalDist

import numpy as np
import polars as pl
from drift import promise, rivals
from drift.flights_rows import TIME, flights
from drift.moved import WAYS, moved
from drift.streams import FEATURES, PER_DAY, stream, variance_of_mean
from numpy.typing import NDArray

from mlops_ray.monitoring.build_reference import build_reference
from mlops_ray.monitoring.detectors import KolmogorovSmirnov
from mlops_ray.monitoring.judging import judge, judge_concept
from mlops_ray.monitoring.quality import quality_by_window
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.verdicts import Verdict
from mlops_ray.monitoring.windows import Window, WindowState, add
from mlops_ray.use_case import Feature
from mlops_ray.use_case.window_spec import WindowSpec

HERE = Path(__file__).parent
SPEC = WindowSpec(rows=5000)
WEEK = WindowSpec(length=timedelta(days=7))
END = datetime(2100, 1, 1, tzinfo=UTC)
SHIFT = 0.2
# A column that is as far apart in less of the ways to deal weeks out has moved.
UNLIKELY = 0.01
SIDE_BY_SIDE = 5
Figures = Iterator[tuple[str, float, str]]


@dataclass(frozen=True)
class Flights:
    """The year's rows; reference: of `training`, January to August. held_out: September to December."""

    rows: pl.DataFrame
    features: Sequence[Feature]
    training: pl.DataFrame
    held_out: pl.DataFrame
    reference: Reference


@cache
def flown() -> Flights:
    rows, features = flights()
    year = rows.with_columns(month=pl.col(TIME).dt.month())
    training, held_out = (year.filter(part).drop("month") for part in (pl.col("month") < 9, pl.col("month") >= 9))
    return Flights(rows, features, training, held_out, build_reference(training, TIME, features, [SPEC]))


def speed() -> Figures:
    """Feature values a second of one core's time, from frames of 20,000 rows in memory to windows of 5,000.

    Reading segments, leaving out repetitions and committing are not in it.
    """
    reference, rows = flown().reference, flown().held_out
    answered = rows.with_columns(request_id=pl.int_range(pl.len()).cast(pl.String), row=pl.lit(0))
    segments = [answered[start : start + 20_000] for start in range(0, len(rows), 20_000)]
    state, best = WindowState(SPEC, reference.empty_columns(), reference.sample_rows), np.inf
    for _ in range(3):
        started = time.process_time()
        for segment in segments:
            state = add(state, segment, moments(segment, TIME), END).state
        best = min(best, time.process_time() - started)
    yield "values_per_s_in_memory", len(rows) * len(reference.columns) / best, "values/s"


def ledger_to_windows() -> Figures:
    """From segments on disk to committed windows of two kinds, with ids, repetitions and labels, in one process.

    50,000 predictions a second of 40 replicas in compressed time, with 100 features; then 1,000 features; then 100
    endpoints in one process.
    """
    for ending, features, rows, endpoints in (
        ("", 100, 1_000_000, 1),
        ("_1000_features", 1000, 100_000, 1),
        ("_100_endpoints", 100, 25_000, 100),
    ):
        with tempfile.TemporaryDirectory() as folder:
            given = [folder, str(features), str(rows), str(endpoints)]
            command = [sys.executable, HERE / "drift" / "ledger_to_windows.py", *given]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        yield f"values_per_s{ending}", found["values_per_s"], "values/s and core, from segments to committed windows"
        yield f"peak_mb{ending}", found["peak_mb"], "MB"
        yield f"idle_round_cpu_s{ending}", found["idle_round_cpu_s"], "s and endpoint"


def moments(rows: pl.DataFrame, name: str) -> NDArray[np.datetime64]:
    return rows[name].cast(pl.Datetime("us")).to_physical().to_numpy().astype("datetime64[us]")


def windows(reference: Reference, rows: pl.DataFrame, name: str) -> tuple[Window, ...]:
    return add(WindowState(SPEC, reference.empty_columns()), rows, moments(rows, name), END).finished


def judged(reference: Reference, rows: pl.DataFrame, name: str) -> list[Verdict]:
    return [judge(window, reference, SPEC.name) for window in windows(reference, rows, name)]


def share(verdicts: Sequence[Verdict]) -> float:
    return float(np.mean([verdict.answer == "drift" for verdict in verdicts]))


def on_flights() -> Figures:
    yield from resampled_false_alarms(flown().rows, flown().features)
    yield from held_out_false_alarms(flown())
    yield from labels(flown())


def resampled_false_alarms(rows: pl.DataFrame, features: Sequence[Feature]) -> Figures:
    """1,000 windows of flights, from stretches of 12 days that alternate with those of the reference.

    Reference and windows have the same seasons and no row in common. Windows begin at random in a stretch and are
    contiguous, so blocks are as long as a window, 5.4 days. They overlap: the interval is of resampled stretches.
    """
    stretch = (pl.col(TIME).dt.epoch("d") - pl.col(TIME).dt.epoch("d").min()) // 12
    numbered = rows.with_columns(stretch=stretch)
    reference = build_reference(numbered.filter(stretch % 2 == 0), TIME, features, [SPEC])
    others = numbered.filter(stretch % 2 == 1).partition_by("stretch", maintain_order=True)
    random = np.random.default_rng(0)
    alarms = []
    for part in others:
        starts = random.integers(0, max(1, len(part) - SPEC.rows), 1000 // len(others) + 1)
        found = [judged(reference, part[start : start + SPEC.rows], TIME) for start in starts]
        alarms.append(np.mean([verdict.answer == "drift" for one in found for verdict in one]))
    drawn = random.choice(alarms, (2000, len(alarms))).mean(axis=1)
    yield "false_alarm_rate", float(np.mean(alarms)), "of 1,000 windows"
    yield "false_alarm_rate_low", float(np.quantile(drawn, 0.025)), "of windows"
    yield "false_alarm_rate_high", float(np.quantile(drawn, 0.975)), "of windows"
    yield "false_alarm_rate_stated", reference.windows[SPEC.name].features[-1].rate, "of windows"


def held_out_false_alarms(year: Flights) -> Figures:
    """All contiguous windows of September to December, with a reference of January to August, as they are.

    Power: with one number shifted by 0.2 of its deviations, for each number; and for those alone in which such a shift
    of the reference itself makes more than windows differ by. In the others it is what happens every week.
    """
    reference, training, rows = year.reference, year.training, year.held_out
    calm, calibration = windows(reference, rows, TIME), reference.windows[SPEC.name].features[-1]
    before = [judge(window, reference, SPEC.name) for window in calm]
    yield "false_alarm_rate_held_out", share(before), f"of {len(calm)} windows"
    yield "false_alarm_rate_held_out_stated", calibration.rate, "of windows, on average over models"
    yield "false_alarm_rate_held_out_stated_high", calibration.rate_high, "of windows, at most, for this model"
    yield from drifted_columns(year, before)
    found, clear = [], []
    normals = {normal.column: normal for normal in calibration.normals if normal.family == "values"}
    for feature in year.features:
        if feature.kind == "number":
            deviation = reference.columns[feature.name].deviation  # type: ignore[union-attr]
            off = pl.col(feature.name).cast(pl.Float64) + SHIFT * deviation
            verdicts = judged(reference, rows.with_columns(off), TIME)
            found.append(np.mean([feature.name in {f.column for f in verdict.findings} for verdict in verdicts]))
            moved = reference.columns[feature.name].empty()
            moved.update(training.select(off).to_series().to_numpy())
            alone = KolmogorovSmirnov().statistic(reference.columns[feature.name], moved)
            clear.append(normals[feature.name].score(alone) > calibration.thresholds["values"])
    yield "power_flights", float(np.mean(found)), f"of windows and {len(found)} features"
    yield "power_flights_clear", float(np.mean(np.array(found)[clear])), f"of windows, {sum(clear)} of these features"


def drifted_columns(year: Flights, verdicts: Sequence[Verdict]) -> Figures:
    """Of the numbers that alarm in September to December: have they moved? And the windows in which others alarm.

    What is stated is how often calm windows alarm, and those of a column that has moved are not calm.
    """
    numbers = {feature.name for feature in year.features if feature.kind == "number"}
    named = [{finding.column for finding in verdict.findings} for verdict in verdicts]
    later, have_moved = year.rows[TIME].dt.month() >= 9, set()
    for column in sorted(numbers & set().union(*named)):
        found = moved(year.rows, TIME, column, later)
        yield f"held_out_distance_{column}", found.distance, "Kolmogorov-Smirnov, all of the two parts of the year"
        yield f"held_out_distance_{column}_dealt", found.largest, f"the largest of {WAYS:,} ways to deal the weeks out"
        yield f"held_out_chance_{column}", found.chance, f"of {WAYS:,} ways to deal the weeks out"
        have_moved |= {column} if found.chance < UNLIKELY else set()
    calm = float(np.mean([bool(columns - have_moved) for columns in named]))
    yield "false_alarm_rate_held_out_unmoved", calm, f"of {len(named)} windows"


def power_bound(deviation: float, columns: int, rate: float) -> float:
    """Power for `SHIFT` of the best test there is, where means of windows have this known deviation and are normal.

    It may be wrong with the chance `rate` over all columns, in either direction.
    """
    normal = NormalDist()
    limit = normal.inv_cdf(1 - rate / (2 * columns))
    return 1 - normal.cdf(limit - SHIFT / deviation)


def synthetic() -> Figures:
    """20 features, windows of 5,000 rows, a reference of 1,000 days of 1,000 rows; how much days differ is varied.

    With days that differ by 0.06 deviations, no test reaches a power of 0.95 (see `power_bound`).
    """
    for deviation, ending in ((0.03, ""), (0.045, "_days_0.045"), (0.06, "_days_0.06")):
        reference = build_reference(stream(1000, deviation, 1), "time", FEATURES, [SPEC])
        fresh = [stream(1000, deviation, seed) for seed in range(2, 7)]
        alarms = [verdict for rows in fresh for verdict in judged(reference, rows, "time")]
        yield f"false_alarm_rate_synthetic{ending}", share(alarms), f"of {len(alarms):,} windows"
        found = [
            verdict.answer == "drift" and verdict.findings[0].column == f"x{seed}"
            for seed, rows in enumerate(fresh)
            for verdict in judged(reference, rows.with_columns(pl.col(f"x{seed}") + np.float32(SHIFT)), "time")
        ]
        yield f"power{ending}", float(np.mean(found)), f"of {len(found):,} windows, the feature named first"
        means = np.sqrt(deviation**2 * variance_of_mean(SPEC.rows // PER_DAY) + 1 / SPEC.rows)
        yield (
            f"power_bound{ending}",
            power_bound(float(means), len(FEATURES), reference.windows[SPEC.name].features[-1].rate),
            "of windows",
        )


def side_by_side() -> Figures:
    """Evidently's drift preset with its defaults, on whole windows.

    Its own verdict is a window of which at least half the columns drifted; that at least one did, which is what our
    verdict says, stands beside it. Both have the reference prepared before, each as it can be: Evidently has its data
    set, of which a report takes what it needs anew, and ours is of the sealed model. So the ratio says what a window
    costs each as it comes, and not how fast the arithmetic is. About six minutes, most of them Evidently's.
    """
    reference, training, held_out = flown().reference, flown().training, flown().held_out
    names = [feature.name for feature in flown().features]
    calm = [held_out[start : start + 5000] for start in range(0, len(held_out) - 5000, 5000)][:SIDE_BY_SIDE]
    theirs = evidently(training.select(names), [window.select(names) for window in calm])
    by_rule = [2 * len(one["columns"]) >= len(names) for one in theirs]
    yield "false_alarm_rate_evidently", float(np.mean(by_rule)), f"of {len(calm)} windows, half the columns: its rule"
    any_column = [bool(one["columns"]) for one in theirs]
    yield "false_alarm_rate_evidently_any_column", float(np.mean(any_column)), f"of {len(calm)} windows"
    ours = share([verdict for window in calm for verdict in judged(reference, window, TIME)])
    yield "false_alarm_rate_same_windows", ours, f"of {len(calm)} windows"
    started = time.perf_counter()
    for window in calm:
        judged(reference, window, TIME)
    seconds = (time.perf_counter() - started) / len(calm)
    yield "speedup_vs_evidently", float(np.median([one["seconds"] for one in theirs])) / seconds, "x, a whole window"
    old = stream(100, 0.03, 1)
    shifted = stream(5 * SIDE_BY_SIDE, 0.03, 2).with_columns(pl.col("x3") + np.float32(SHIFT))
    parts = [shifted[start : start + 5000].drop("time") for start in range(0, len(shifted), 5000)]
    found = evidently(old.drop("time"), parts)
    named = [True for one in found if "x3" in one["columns"]]
    yield "power_evidently_column", len(named) / len(found), f"of {len(parts)} windows, x3 among the drifted columns"


def evidently(reference: pl.DataFrame, parts: Sequence[pl.DataFrame]) -> list[dict]:
    python = rivals.environment("evidently")
    with tempfile.TemporaryDirectory() as folder:
        reference.write_parquet(Path(folder) / "reference.parquet")
        for number, part in enumerate(parts):
            part.write_parquet(Path(folder) / f"window_{number:03}.parquet")
        command = [python, "-W", "ignore", HERE / "drift" / "evidently_side.py", folder]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


def labels(year: Flights) -> Figures:
    """A model of January to May, its reference from June to August, and the weeks from September to December."""
    scored = score(year.rows.with_columns(month=pl.col(TIME).dt.month()), year.features)
    past, weeks = (scored.filter(part) for part in (pl.col("month").is_between(6, 8), pl.col("month") >= 9))
    reference = build_reference(past, "time", year.features, [WEEK], past, ["origin", "carrier"])
    errors, covered, _ = estimated_and_true(reference, weeks)
    yield "estimated_auc_mae", float(np.mean(errors)), f"ROC AUC, {len(errors)} weeks"
    yield "estimated_auc_coverage", float(np.mean(covered)), "of weeks"
    until = past.select(pl.col("time").max()).item()
    told = build_reference(past, "time", year.features, [WEEK], told_by(past, until), ["origin", "carrier"])
    errors, covered, early = estimated_and_true(told, weeks)
    yield "estimated_auc_mae_delayed", float(np.mean(errors)), f"ROC AUC, {len(errors)} weeks"
    yield "estimated_auc_coverage_delayed", float(np.mean(covered)), "of weeks"
    yield "early_labels_auc_mae", float(np.mean(early)), f"ROC AUC, {len(early)} weeks"
    for flipped in (0.0, 0.1, 0.2):
        flips = pl.Series(np.random.default_rng(0).random(len(weeks)) < flipped)
        changed = weeks.with_columns(label=pl.when(flips).then(~pl.col("label")).otherwise("label"))
        yield f"concept_alarms_flipped_{flipped}", concept_alarms(reference, changed), "of weeks"


def told_by(rows: pl.DataFrame, until: pl.Expr | datetime) -> pl.DataFrame:
    """With the labels that are told by then: of late flights after three days, of others after an hour."""
    delay = pl.when("label").then(pl.duration(days=3)).otherwise(pl.duration(hours=1))
    return rows.with_columns(label=pl.when(pl.col("time") + delay <= until).then("label"))


def estimated_and_true(reference: Reference, weeks: pl.DataFrame) -> tuple[list[float], list[bool], list[float]]:
    """Of each week how far the estimate is from the ROC AUC of all labels, whether that is in its interval, and how far
    the ROC AUC of the labels is that are told by the end of the week."""
    assert reference.estimator is not None
    edges = reference.reliability["all"].edges
    errors, covered, early = list[float](), list[bool](), list[float]()
    for quality in quality_by_window(weeks, timedelta(days=7), edges):
        rows = weeks.filter(pl.col("time").is_between(quality.start, quality.end, closed="left"))
        window = reference.columns["prediction"].empty()
        window.update(rows["probability"].to_numpy())
        estimated = reference.estimator.estimate(window)  # type: ignore[arg-type]
        if quality.rows >= WEEK.minimum_rows and estimated.low is not None and estimated.high is not None:
            true = quality["roc_auc"].value
            errors.append(abs(estimated.value - true))
            covered.append(estimated.low <= true <= estimated.high)
            (told,) = quality_by_window(told_by(rows, quality.end), timedelta(days=7), edges)
            early.append(abs(told["roc_auc"].value - true))
    return errors, covered, early


def score(year: pl.DataFrame, features: Sequence[Feature]) -> pl.DataFrame:
    from sklearn.ensemble import HistGradientBoostingClassifier

    columns = [
        pl.col(f.name).rank("dense").cast(pl.Float64) if f.kind == "category" else pl.col(f.name).cast(pl.Float64)
        for f in features
    ]
    matrix = year.select(columns).fill_null(np.nan).to_numpy()
    known = year.select((pl.col("month") <= 5) & pl.col("late").is_not_null()).to_series().to_numpy()
    late = year["late"].fill_null(False).to_numpy()
    model = HistGradientBoostingClassifier(max_iter=150, learning_rate=0.08, random_state=0)
    probability = model.fit(matrix[known], late[known]).predict_proba(matrix)[:, 1]
    return year.rename({TIME: "time", "late": "label"}).with_columns(
        probability=probability, request_id=pl.int_range(pl.len()).cast(pl.String).str.zfill(9), row=pl.lit(0)
    )


def concept_alarms(reference: Reference, weeks: pl.DataFrame) -> float:
    by_week: dict[datetime, dict] = {}
    for quality in quality_by_window(
        weeks, timedelta(days=7), reference.reliability["all"].edges, ["origin", "carrier"]
    ):
        by_week.setdefault(quality.start, {})[quality.slice] = quality.reliability
    verdicts = [
        judge_concept(slices, start, start + timedelta(days=7), reference, WEEK.name)
        for start, slices in by_week.items()
    ]
    return share([verdict for verdict in verdicts if verdict.answer != "not enough data"])


def memory() -> Figures:
    """100 million predictions of two columns through windows whose state is written and read at each batch.

    The watch itself, with its references, verdicts and labels, is not in it.
    """
    command = [sys.executable, HERE / "drift" / "memory.py", str(100_000_000)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    yield "peak_mb_windows_1m", float(printed[0]), "MB"
    yield "peak_mb_windows_100m", float(printed[2]), "MB"


PARTS: dict[str, Callable[[], Figures]] = {
    **{world.name: partial(promise.false_alarms, world) for world in promise.WORLDS},
    "faults": promise.found_faults,
    "rivals": rivals.false_alarms,
    "rivals_on_faults": rivals.found_faults,
    "speed": speed,
    "ledger_to_windows": ledger_to_windows,
    "flights": on_flights,
    "synthetic": synthetic,
    "side_by_side": side_by_side,
    "memory": memory,
}
