"""Backtest: what would have become of the past under each policy? Replayed with simulated time, in parallel on Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from math import sqrt
from typing import Any

import numpy as np
import polars as pl
import ray
from numpy.typing import NDArray

from mlops_ray.artifacts import read_parquet
from mlops_ray.errors import DataError
from mlops_ray.evaluation.comparison import compare
from mlops_ray.features.columns import LABEL, PREDICTION_TIME
from mlops_ray.governance.events import plain
from mlops_ray.monitoring.answers import answer_columns
from mlops_ray.monitoring.label_fit import LabelFit
from mlops_ray.monitoring.quality import Quality, quality_by_window
from mlops_ray.retraining.chosen import choose
from mlops_ray.retraining.policy import WEEK
from mlops_ray.retraining.simulation import BlindSpot, Raised, Retrained, Scenario, Simulated, simulate
from mlops_ray.tasks.days import days_of
from mlops_ray.tasks.estimate import Estimate, interval
from mlops_ray.tasks.evaluation import Measured
from mlops_ray.training.trial import Trial
from mlops_ray.use_case import Feature, Parameters, Retraining, UseCase

SEEDS = 3


@dataclass(frozen=True)
class WeekQuality:
    """Of the predictions of one week, which begins on a Thursday, as 1970 did, by `Run.metric`. about: what the labels
    are like (see `Task.about`)."""

    start: datetime
    rows: int
    about: Mapping[str, Any]
    quality: Measured


@dataclass(frozen=True)
class Run:
    """What a policy did and was worth with one seed, which the choice of the model and each fit begin from.

    quality: over the whole period, by `metric`: the use case's, if it is one of windows. difference: from the first
    policy with the same seed, in the use case's metric, with its interval over days; above 0 is better. None for the
    first one itself. blind: questions that the policy listens to and that could raise no alarm, by champion.
    """

    seed: int
    metric: str
    quality: Measured
    difference: Estimate | None
    weeks: tuple[WeekQuality, ...]
    retrainings: tuple[Retrained, ...]
    alarms: tuple[Raised, ...]
    decisions: tuple[Mapping[str, Any], ...]
    cpu_hours: float
    blind: tuple[BlindSpot, ...] = ()

    @property
    def promoted(self) -> int:
        return sum(one.outcome == "better" for one in self.retrainings)


@dataclass(frozen=True)
class PolicyReport:
    """A policy over all seeds. difference: the mean of the runs', see `over_seeds`; None for the first policy."""

    policy: str
    declared: Retraining
    runs: tuple[Run, ...]
    difference: Estimate | None


@dataclass(frozen=True)
class Chosen:
    """What all policies train with one seed, chosen by what was known at the start."""

    seed: int
    candidate: str
    parameters: Parameters


@dataclass(frozen=True)
class Backtest:
    """start, end: of the predictions; each policy answered the same `rows`, with each of the `chosen`. metric: of
    differences."""

    use_case: str
    metric: str
    chosen: tuple[Chosen, ...]
    start: datetime
    end: datetime
    rows: int
    policies: tuple[PolicyReport, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values: moments in RFC 3339, spans of time as text."""
        found: dict[str, Any] = plain(asdict(self))
        return found


def backtest(
    url: str,
    use_case: UseCase,
    features: Sequence[Feature],
    start: datetime,
    end: datetime,
    policies: Mapping[str, Retraining],
    seeds: int = SEEDS,
) -> Backtest:
    """Replay the training set at `url` under each policy, with each seed in a task of its own. Ray must be running.

    What is trained is chosen for each seed on the labels that were known at `start`: `choose`. Raises DataError if the
    training set has no rows before or after the start.
    """
    rows = _rows(read_parquet(url), start, end)
    first = use_case.search.seed
    cases = [replace(use_case, search=replace(use_case.search, seed=first + number)) for number in range(seeds)]
    choice, simulation = ray.remote(num_cpus=1)(_choose), ray.remote(num_cpus=1)(_simulate)
    trials = [choice.remote(url, case, tuple(features), start) for case in cases]
    # The longest first: who has more to train is started before those that have nothing to do.
    order = sorted(policies, key=lambda name: (policies[name].every is None and not policies[name].alarms, name))
    running = {
        (name, number): simulation.remote(
            url, case, tuple(features), trials[number], (start, end), name, policies[name]
        )
        for name in order
        for number, case in enumerate(cases)
    }
    done = {name: [ray.get(running[name, number]) for number in range(seeds)] for name in policies}
    beside = next(iter(done.values()))
    reports = [_report(rows, cases, done[name], policies[name], beside) for name in policies]
    chosen = [Chosen(c.search.seed, t.candidate, t.parameters) for c, t in zip(cases, ray.get(trials), strict=True)]
    return Backtest(use_case.name, use_case.metric, tuple(chosen), start, end, len(rows), tuple(reports))


def over_seeds(estimates: Sequence[Estimate], widest: float = 1.0) -> Estimate:
    """The mean of one difference over seeds, with an interval for other days and other seeds.

    All seeds are judged on the same days, so that more of them make the days no more certain: the variance is the mean
    one over days, and that of the mean over seeds. Degrees of freedom are Satterthwaite's ("An approximate distribution
    of estimates of variance components", Biometrics Bulletin 2, 1946). Without an interval where one has none. widest:
    the largest difference that there can be.
    """
    values, count = [one.value for one in estimates], len(estimates)
    mean = float(np.mean(values))
    parts = [(one.error, one.freedom) for one in estimates if one.error is not None and one.freedom is not None]
    if len(parts) < count:
        return Estimate(mean)
    of_days, freedom = float(np.mean([error**2 for error, _ in parts])), min(found for _, found in parts)
    of_seeds = float(np.var(values, ddof=1)) / count if count > 1 else 0.0
    variance = of_days + of_seeds
    if of_seeds > 0:
        freedom = variance**2 / (of_days**2 / freedom + of_seeds**2 / (count - 1))
    return interval(mean, sqrt(variance), freedom, -widest, widest)


def _choose(url: str, use_case: UseCase, features: tuple[Feature, ...], as_of: datetime) -> Trial:
    return choose(read_parquet(url), use_case, features, as_of)


def _simulate(
    url: str,
    use_case: UseCase,
    features: tuple[Feature, ...],
    trial: Trial,
    span: tuple[datetime, datetime],
    name: str,
    policy: Retraining,
) -> Simulated:
    return simulate(read_parquet(url), Scenario(use_case, features, trial, *span), name, policy)


def _rows(frame: pl.DataFrame, start: datetime, end: datetime) -> pl.DataFrame:
    moment = pl.col(PREDICTION_TIME)
    before = frame.filter(moment < start)
    rows = frame.filter((moment >= start) & (moment < end)).sort(moment, maintain_order=True)
    if before.is_empty() or rows.is_empty():
        raise DataError(
            f"From {start:%Y-%m-%d} to {end:%Y-%m-%d} there are {rows.height} rows to predict, and {before.height} "
            f"before to train the first model on. Give another start or end."
        )
    return rows


def _report(
    rows: pl.DataFrame,
    cases: Sequence[UseCase],
    done: Sequence[Simulated],
    policy: Retraining,
    beside: Sequence[Simulated],
) -> PolicyReport:
    runs = [_run(rows, case, one, other, policy) for case, one, other in zip(cases, done, beside, strict=True)]
    differences = [run.difference for run in runs if run.difference is not None]
    metric = cases[0].label.task.metrics[cases[0].metric]
    difference = over_seeds(differences, metric.highest - metric.lowest) if differences else None
    return PolicyReport(done[0].policy, policy, tuple(runs), difference)


def _run(rows: pl.DataFrame, case: UseCase, done: Simulated, beside: Simulated, policy: Retraining) -> Run:
    weeks = _quality(rows, case, done.answers, WEEK)
    whole = _quality(rows, case, done.answers, timedelta(days=36_500))[0]  # from 1970 on
    metric = _measured_in(whole, case.metric)
    return Run(
        case.search.seed,
        metric,
        whole[metric],
        None if done is beside else _difference(rows, case, done.answers, beside.answers),
        tuple(WeekQuality(week.start, week.rows, week.about, week[metric]) for week in weeks),
        done.retrainings,
        done.alarms,
        tuple({"at": at, **asdict(decision)} for at, decision in done.decisions),
        done.cpu_s / 3600,
        tuple(one for one in done.blind if one.question in policy.alarms),
    )


def _quality(rows: pl.DataFrame, case: UseCase, answers: NDArray[np.float32], length: timedelta) -> Sequence[Quality]:
    task = case.label.task
    joined = rows.select(
        pl.lit("").alias("request_id"),
        pl.int_range(pl.len()).alias("row"),
        pl.col(PREDICTION_TIME).alias("time"),
        *answer_columns(answers, task),
        pl.col(LABEL).alias("label"),
    )
    return quality_by_window(joined, length, np.empty(0), fit=LabelFit(task))


def _measured_in(found: Quality, metric: str) -> str:
    """The metric itself, or the first, where this is none of windows (average precision is not)."""
    return metric if metric in found.metrics else next(iter(found.metrics))


def _difference(rows: pl.DataFrame, case: UseCase, ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> Estimate:
    task = case.label.task
    new, old = ours.astype(np.float64), theirs.astype(np.float64)
    return compare(
        (task, task), task.encoded(rows[LABEL]), new, old, days_of(rows[PREDICTION_TIME], case.zone()), case.metric
    ).difference
