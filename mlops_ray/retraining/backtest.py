"""Backtest: what would have become of the past under each policy? Replayed with simulated time, in parallel on Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import ray
from numpy.typing import NDArray

from mlops_ray.artifacts import read_parquet
from mlops_ray.errors import DataError
from mlops_ray.evaluation.comparison import compare
from mlops_ray.evaluation.days import days_of
from mlops_ray.evaluation.estimate import Estimate
from mlops_ray.features.columns import LABEL, PREDICTION_TIME
from mlops_ray.governance.events import plain
from mlops_ray.monitoring.quality import Measured, Quality, quality_by_window
from mlops_ray.retraining.policy import WEEK
from mlops_ray.retraining.simulation import Raised, Retrained, Scenario, Simulated, simulate
from mlops_ray.use_case import Retraining


@dataclass(frozen=True)
class WeekQuality:
    """Of the predictions of one week, which begins on a Thursday, as 1970 did."""

    start: datetime
    rows: int
    positive: float
    roc_auc: Measured


@dataclass(frozen=True)
class PolicyReport:
    """What a policy did and what it was worth. roc_auc: over the whole period. difference: from the first policy, in
    the use case's metric, with its interval over days; None for the first one itself."""

    policy: str
    declared: Retraining
    roc_auc: Measured
    difference: Estimate | None
    weeks: tuple[WeekQuality, ...]
    retrainings: tuple[Retrained, ...]
    alarms: tuple[Raised, ...]
    decisions: tuple[Mapping[str, Any], ...]
    cpu_hours: float

    @property
    def promoted(self) -> int:
        return sum(one.outcome == "better" for one in self.retrainings)


@dataclass(frozen=True)
class Backtest:
    """start, end: of the predictions; each policy answered the same `rows`."""

    use_case: str
    metric: str
    candidate: str
    start: datetime
    end: datetime
    rows: int
    policies: tuple[PolicyReport, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values: moments in RFC 3339, spans of time as text."""
        found: dict[str, Any] = plain(asdict(self))
        return found


def backtest(url: str, scenario: Scenario, policies: Mapping[str, Retraining]) -> Backtest:
    """Replay the training set at `url` under each policy, each in a task of its own. Ray must be running.

    Raises DataError if the training set has no rows before or after the start.
    """
    rows = _rows(read_parquet(url), scenario)
    task = ray.remote(num_cpus=1)(_simulate)
    # The longest first: who has more to train is started before those that have nothing to do.
    order = sorted(policies, key=lambda name: (policies[name].every is None and not policies[name].alarms, name))
    running = {name: task.remote(url, scenario, name, policies[name]) for name in order}
    done = {name: ray.get(running[name]) for name in policies}
    first = next(iter(done.values()))
    reports = [_report(rows, scenario, done[name], policies[name], first) for name in policies]
    case = scenario.use_case
    return Backtest(
        case.name, case.metric, scenario.trial.candidate, scenario.start, scenario.end, len(rows), tuple(reports)
    )


def _simulate(url: str, scenario: Scenario, name: str, policy: Retraining) -> Simulated:
    return simulate(read_parquet(url), scenario, name, policy)


def _rows(frame: pl.DataFrame, scenario: Scenario) -> pl.DataFrame:
    moment = pl.col(PREDICTION_TIME)
    before = frame.filter(moment < scenario.start)
    rows = frame.filter((moment >= scenario.start) & (moment < scenario.end)).sort(moment, maintain_order=True)
    if before.is_empty() or rows.is_empty():
        raise DataError(
            f"From {scenario.start:%Y-%m-%d} to {scenario.end:%Y-%m-%d} there are {rows.height} rows to predict, and "
            f"{before.height} before to train the first model on. Give another start or end."
        )
    return rows


def _report(
    rows: pl.DataFrame, scenario: Scenario, done: Simulated, policy: Retraining, first: Simulated
) -> PolicyReport:
    weeks = _quality(rows, done.probability, WEEK)
    whole = _quality(rows, done.probability, timedelta(days=36_500))[0]  # from 1970 on
    return PolicyReport(
        done.policy,
        policy,
        whole.roc_auc,
        None if done is first else _difference(rows, scenario, done.probability, first.probability),
        tuple(WeekQuality(week.start, week.rows, week.positive, week.roc_auc) for week in weeks),
        done.retrainings,
        done.alarms,
        tuple({"at": at, **asdict(decision)} for at, decision in done.decisions),
        done.cpu_s / 3600,
    )


def _quality(rows: pl.DataFrame, probability: NDArray[np.float32], length: timedelta) -> Sequence[Quality]:
    joined = rows.select(
        pl.lit("").alias("request_id"),
        pl.int_range(pl.len()).alias("row"),
        pl.col(PREDICTION_TIME).alias("time"),
        pl.Series("probability", probability),
        pl.col(LABEL).alias("label"),
    )
    return quality_by_window(joined, length, np.empty(0))


def _difference(
    rows: pl.DataFrame, scenario: Scenario, ours: NDArray[np.float32], theirs: NDArray[np.float32]
) -> Estimate:
    case, label = scenario.use_case, rows[LABEL].to_numpy()
    new, old = ours.astype(np.float64), theirs.astype(np.float64)
    return compare(label, new, old, days_of(rows[PREDICTION_TIME], case.zone()), case.metric).difference
