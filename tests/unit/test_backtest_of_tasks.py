"""A policy on the past of labels that are numbers or classes: weeks in the task's metric, which less of is better."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.retraining import simulation
from mlops_ray.retraining.backtest import Backtest, Chosen, _report
from mlops_ray.retraining.chart import headers, page
from mlops_ray.retraining.simulation import simulate
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.regression import Regression
from mlops_ray.tasks.task import Task
from mlops_ray.training.encoding import fit_encoder
from mlops_ray.training.fit import Fitted
from mlops_ray.training.trial import Trial
from mlops_ray.use_case import Feature, UseCase
from tests.unit.test_simulation import CASE, CHANGE, DRIFT, NEVER, SCENARIO, world

CLASSES = MultiClass(("low", "middle", "high"))
TASKS: dict[str, tuple[Task, str]] = {
    "numbers": (Regression(unit="minutes"), "mean_absolute_error"), "classes": (CLASSES, "log_loss")
}  # fmt: skip


@dataclass
class Answers:
    """Least squares of the number, or of the scores of classes."""

    weights: NDArray[np.float64]

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        found = matrix @ self.weights
        if found.ndim == 1:
            return found
        grown = np.exp(3 * found)
        return np.asarray(grown / grown.sum(axis=1, keepdims=True))


def fit(use_case: UseCase, frame: pl.DataFrame, as_of: datetime, features: Sequence[Feature], trial: Trial) -> Fitted:
    end = as_of - use_case.split.test
    rows = frame.filter((pl.col(PREDICTION_TIME) < end) & (pl.col(LABEL_KNOWN_AT) <= end))
    encoder, task = fit_encoder(rows, features), use_case.label.task
    labels = task.encoded(rows[LABEL])
    target = labels.astype(np.float64) if task.width == 1 else np.eye(task.width)[labels.astype(np.intp)] - 1 / 3
    weights = np.linalg.lstsq(encoder.encode(rows).astype(np.float64), target, rcond=None)[0]
    return Fitted(encoder, Answers(weights), b"", len(rows), 1, task)  # type: ignore[arg-type]


def past(kind: str) -> pl.DataFrame:
    """As `world`, with the number that it turns into yes and no."""
    random, rows = np.random.default_rng(5), world().drop(LABEL)
    ruling = pl.when(pl.col(PREDICTION_TIME) < CHANGE).then("x").otherwise("y")
    number = rows.select(3 * ruling).to_series() + pl.Series(random.normal(0, 1, len(rows)))
    if kind == "numbers":
        return rows.with_columns(number.alias(LABEL))
    names = np.array(CLASSES.classes, dtype=object)[np.digitize(number.to_numpy(), [-1.5, 1.5])]
    return rows.with_columns(pl.Series(LABEL, names, dtype=pl.String))


@pytest.mark.parametrize("kind", TASKS)
def test_a_policy_that_listens_recovers_and_its_weeks_are_in_the_metric_of_the_task(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(simulation, "fit_chosen", fit)
    task, metric = TASKS[kind]
    late = pl.lit(1.0) if kind == "numbers" else pl.lit("low")
    label = replace(CASE.label, value=late, task=task)
    case = replace(CASE, label=label, metric=metric, gates=())
    scenario, rows = replace(SCENARIO, use_case=case), past(kind)
    never, drift = (simulate(rows, scenario, name, policy) for name, policy in (("never", NEVER), ("drift", DRIFT)))
    assert "concept" in {alarm.question for alarm in never.alarms}
    assert "data" not in {alarm.question for alarm in never.alarms}
    better = [one for one in drift.retrainings if one.outcome == "better"]
    assert better
    assert all(one.gain > 0 for one in better)
    asked = rows.filter(pl.col(PREDICTION_TIME).is_between(scenario.start, scenario.end, closed="left"))
    reports = [_report(asked, [case], [one], policy, [never]) for one, policy in ((never, NEVER), (drift, DRIFT))]
    chosen = (Chosen(0, "line", {}),)
    result = Backtest(case.name, metric, chosen, scenario.start, scenario.end, len(asked), tuple(reports))
    (without,), (with_it,) = (report.runs for report in reports)
    assert without.metric == metric
    assert with_it.quality.value < without.quality.value
    assert with_it.difference is not None
    assert with_it.difference.value > 0, "less of it is better"
    last = [run.weeks[-2].quality.value for run in (without, with_it)]
    assert last[1] < 0.8 * last[0]
    words = metric.replace("_", " ")
    assert headers(result)[1] == words
    assert f"{words} of each week" in page(result)
    assert "ROC AUC" not in page(result)
