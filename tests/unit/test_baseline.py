"""A baseline is what the rows before say of those with the same values, by a loop over the rows."""

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from mlops_ray.evaluation.baseline import FEWEST_ROWS, baseline
from mlops_ray.evaluation.comparison import compare
from mlops_ray.evaluation.gates import Measured, baseline_name, judge
from mlops_ray.evaluation.metrics import evaluate
from mlops_ray.tasks.binary import BINARY, Binary
from mlops_ray.tasks.decision import Gains, GainTable
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.regression import Regression
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import BetterThanBaseline

RANDOM = np.random.default_rng(3)
ROWS = 2_000
HOUR = np.where(RANDOM.random(ROWS) < 0.01, 3.5, RANDOM.integers(5, 9, ROWS) + RANDOM.random(ROWS))
CARRIER = RANDOM.choice(["AA", "UA", None], ROWS)
MINUTES = 10 * HOUR + RANDOM.normal(0, 20, ROWS)
LABELS = {
    "binary": pl.Series(MINUTES > 70),
    "multiclass": pl.Series(np.where(MINUTES > 80, "late", np.where(MINUTES < 50, "early", "on time"))),
    "regression": pl.Series(MINUTES),
}
SKEWED = {
    "binary": pl.Series(RANDOM.random(ROWS) < 0.3),
    "multiclass": pl.Series(RANDOM.choice(["early", "on time", "late"], ROWS, p=[0.2, 0.7, 0.1])),
    "regression": pl.Series(np.exp(RANDOM.normal(0, 1.2, ROWS))),
}
TASKS: tuple[Task, ...] = (
    BINARY,
    MultiClass(("early", "on time", "late")),
    Regression(),
    Regression(estimand="median"),
)


def rows_of(task: Task) -> tuple[pl.DataFrame, pl.DataFrame]:
    frame = pl.DataFrame({"hour": HOUR, "carrier": CARRIER, "label": LABELS[task.kind]})
    return frame[:1500], frame[1500:]


@pytest.mark.parametrize("by", [(), ("carrier",), ("hour", "carrier")])
@pytest.mark.parametrize("task", TASKS, ids=str)
def test_a_row_is_answered_as_those_before_with_the_same_values(task: Task, by: tuple[str, ...]) -> None:
    seen, asked = rows_of(task)
    metric = next(iter(task.metrics))
    found = baseline(task, seen, asked, by, metric)
    labels = task.encoded(seen["label"])

    def key(row: dict[str, object]) -> tuple[object, ...]:
        return tuple(int(row["hour"]) if name == "hour" else row[name] for name in by)  # type: ignore[call-overload]

    keys = [key(row) for row in seen.to_dicts()]
    for answer, row in zip(found, asked.to_dicts(), strict=True):
        same = np.array([one == key(row) for one in keys])
        expected = task.without_model(labels[same] if same.sum() >= FEWEST_ROWS else labels, metric)
        assert answer == pytest.approx(expected)


DECIDED = Binary(threshold=0.5, decision=Gains(true_positive=8, false_positive=-2))
BY_TABLE = MultiClass(
    ("early", "on time", "late"),
    GainTable(
        {
            "early": {"early": 1, "on time": 0, "late": -4},
            "on time": {"early": -2, "on time": 1, "late": 0},
            "late": {"early": -30, "on time": -20, "late": 5},
        }
    ),
)


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        *((Regression(estimand=one), name) for one in ("mean", "median") for name in Regression().metrics),
        *((DECIDED, name) for name in DECIDED.metrics if name != "calibration_error"),
        *((TASKS[1], name) for name in TASKS[1].metrics if name != "calibration_error"),
        *((BY_TABLE, name) for name in BY_TABLE.metrics if name != "calibration_error"),
    ],
    ids=str,
)
def test_no_answer_without_skill_is_better_than_the_baseline(task: Task, metric: str) -> None:
    """On the rows that it was found on, by whatever metric, and whatever the models of the task estimate."""
    labels, day = task.encoded(SKEWED[task.kind]), np.arange(ROWS) // 25
    frame = pl.DataFrame({"label": SKEWED[task.kind]})
    without = baseline(task, frame, frame, (), metric)
    shares = [[0.1, 0.1, 0.8], [0.8, 0.1, 0.1], [0.35, 0.35, 0.3]]
    guesses = (
        shares if task.width > 1 else [0.0, 0.3, 0.7, 1.0, np.median(labels), np.mean(labels), np.mean(labels) + 1]
    )
    for guess in guesses:
        compared = compare((task, task), labels, np.array([guess] * ROWS, float), without, day, metric)
        assert compared.difference.value <= 1e-3


def test_a_model_that_knows_no_more_than_the_hour_is_no_better_than_the_hour() -> None:
    task = Regression("minutes")
    seen, asked = rows_of(task)
    labels, day = task.encoded(asked["label"]), np.arange(500) // 25
    model = 10.0 * asked["hour"].floor().to_numpy() + 5
    gates = (BetterThanBaseline("mean_absolute_error"), BetterThanBaseline("mean_absolute_error", by=("hour",)))
    compared = {
        baseline_name(gate): compare(
            (task, task), labels, model, baseline(task, seen, asked, gate.by, gate.metric), day, gate.metric
        )
        for gate in gates
    }
    measured = Measured(task, evaluate(task, labels, model, day), baselines=compared)
    plain, seasonal = judge(gates, measured, datetime.now(UTC))
    assert (plain.passed, seasonal.passed) == (True, False)
    assert "without a model, by hour: better by" in seasonal.sentence
    (unmeasured,) = judge(gates[:1], Measured(task, measured.evaluation), datetime.now(UTC))
    assert not unmeasured.passed
    assert "Train and register the version again" in unmeasured.sentence
