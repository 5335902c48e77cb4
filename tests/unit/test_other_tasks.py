"""Several classes and numbers: each metric equals that of scikit-learn, also without each block of days."""

import json
import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from mlops_ray.errors import DataError, IntegrityError, ModelError, UseCaseError
from mlops_ray.evaluation.comparison import compare
from mlops_ray.evaluation.metrics import evaluate
from mlops_ray.tasks.binary import BINARY, Binary
from mlops_ray.tasks.decision import Capacity, Gains
from mlops_ray.tasks.evaluation import Evaluation, weights_without
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.regression import Regression
from mlops_ray.tasks.stored import task_from_json, task_to_json
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import Column

CLASSES = ("on time", "late", "cancelled")
OUTCOME, DELAY, MEDIAN = MultiClass(CLASSES), Regression("minutes"), Regression("minutes", "median")
TASKS: tuple[Task, ...] = (BINARY, OUTCOME, DELAY, MEDIAN)
RANDOM = np.random.default_rng(5)
ROWS = 3_000
DAY = np.arange(ROWS) // 100
SCORES = RANDOM.normal(size=(ROWS, 3))
PROBABILITY = np.exp(SCORES) / np.exp(SCORES).sum(axis=1, keepdims=True)
CLASS = np.array([RANDOM.choice(3, p=row) for row in PROBABILITY])
MINUTES = 1e6 + 30 * RANDOM.standard_t(3, size=ROWS)
GUESS = MINUTES + RANDOM.normal(0, 10, ROWS)


def of_classes(kept: Any) -> dict[str, float]:
    labels, answer = CLASS[kept], PROBABILITY[kept]
    return {
        "log_loss": reference.log_loss(labels, answer),
        "roc_auc": reference.roc_auc_score(labels, answer, multi_class="ovr", average="macro"),
        "accuracy": reference.accuracy_score(labels, answer.argmax(axis=1)),
        "brier": float(((answer - np.eye(3)[labels]) ** 2).sum(axis=1).mean()),
    }


def of_numbers(kept: Any) -> dict[str, float]:
    labels, answer = MINUTES[kept], GUESS[kept]
    return {
        "mean_absolute_error": reference.mean_absolute_error(labels, answer),
        "root_mean_squared_error": reference.root_mean_squared_error(labels, answer),
        "r2": reference.r2_score(labels, answer),
    }


@pytest.mark.parametrize(
    ("task", "labels", "answer", "expected"),
    [(OUTCOME, CLASS, PROBABILITY, of_classes), (DELAY, MINUTES, GUESS, of_numbers)],
    ids=["classes", "numbers"],
)
def test_metrics_equal_those_of_scikit_learn_with_and_without_each_day(
    task: Task, labels: Any, answer: Any, expected: Any
) -> None:
    found = task.values(task.metrics.keys(), labels, answer, DAY, weights_without(DAY))
    for row, left_out in enumerate((-1, 0, 7, 29)):
        at = 0 if row == 0 else left_out + 1
        for name, value in expected(left_out != DAY).items():
            assert found[name][at] == pytest.approx(value, rel=1e-9), (name, left_out)
    evaluation = evaluate(task, labels, answer, DAY)
    assert {name: evaluation[name].value for name in expected(DAY >= 0)} == pytest.approx(expected(DAY >= 0))
    assert sum(one.rows for one in evaluation.reliability) == ROWS
    written = json.loads(json.dumps(evaluation.to_json()))
    assert Evaluation.from_json(written, task.metrics).metrics == evaluation.metrics
    assert task.described(written)


def test_the_calibration_error_of_classes_is_that_of_the_predicted_one() -> None:
    bins = evaluate(OUTCOME, CLASS, PROBABILITY, DAY)
    gaps = sum(one.rows * abs(one.probability - one.observed) for one in bins.reliability) / ROWS
    assert bins["calibration_error"].value == pytest.approx(gaps)
    assert gaps < 0.03
    assert evaluate(OUTCOME, CLASS, np.eye(3)[PROBABILITY.argmax(axis=1)], DAY)["calibration_error"].value > 0.2


@pytest.mark.parametrize("metric", ["mean_absolute_error", "root_mean_squared_error", "r2"])
def test_the_better_of_two_models_of_numbers_is_better_by_every_metric(metric: str) -> None:
    worse = MINUTES + np.random.default_rng(1).normal(0, 14, ROWS)
    found = compare((DELAY, DELAY), MINUTES, GUESS, worse, DAY, metric).difference
    turned = compare((DELAY, DELAY), MINUTES, worse, GUESS, DAY, metric).difference
    assert found.low is not None
    assert found.low > 0
    assert turned.value == pytest.approx(-found.value)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_a_link_has_the_gradient_of_its_loss(task: Task) -> None:
    labels = {"binary": CLASS == 1, "multiclass": CLASS, "regression": MINUTES}[task.kind][:20]
    link, scores = task.link(labels), np.random.default_rng(2).normal(size=(20, task.link(labels).width))
    _, gradient = link.loss(scores, labels)
    for row, column in np.ndindex(scores.shape):
        step = np.zeros_like(scores)
        step[row, column] = 1e-6
        slope = (link.loss(scores + step, labels)[0] - link.loss(scores - step, labels)[0]) / 2e-6
        assert gradient[row, column] == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        (OUTCOME, pl.Series(["late", "diverted", "diverted"]), r"2 of 3 labels .* most often 'diverted', in 2 rows"),
        (DELAY, pl.Series([1.0, float("nan")]), r"1 of 2 labels are no finite number.*\(the first is nan\)"),
        (DELAY, pl.Series([float("inf"), 1.0]), "no finite number"),
        (
            DELAY,
            pl.Series([-1e300, 1.0]),
            r"1 of 2 labels are no finite number.* from -3.4e\+38 to 3.4e\+38 .*\(the first is -1e\+300",
        ),
    ],
)
def test_what_can_be_no_label_is_refused_by_name(task: Task, labels: pl.Series, message: str) -> None:
    with pytest.raises(DataError, match=message):
        task.encoded(labels)


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        (BINARY, np.zeros(0, dtype=bool), "0 rows with 0 of 2 label values"),
        (OUTCOME, np.array([0, 0, 1]), "3 rows, none of them with the label cancelled"),
        (DELAY, np.full(9, 4.0), "9 rows with 1 label value"),
        (DELAY, np.zeros(0), "0 rows with 0 label values"),
    ],
)
def test_labels_that_teach_nothing_are_said_to(task: Task, labels: Any, message: str) -> None:
    assert message in (task.shortfall(labels) or "")


@pytest.mark.parametrize(
    ("task", "answer", "message"),
    [
        (OUTCOME, [[0.2, 0.3, 0.5], [0.2, 0.3, 0.6]], "of row 1, and of 1 of 2, add up to 1.1"),
        (OUTCOME, [[0.2, 0.3, 0.5], [np.nan, 0.3, 0.6]], "answered nan for row 1"),
        (DELAY, [1.0, np.inf, np.nan], "answered inf for row 1, and no finite number for 2 of 3 rows"),
    ],
)
def test_what_can_be_no_answer_is_refused(task: Task, answer: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        task.checked(np.array(answer, dtype=np.float32))


def test_an_answer_reads_as_people_ask() -> None:
    answer = np.array([[0.125, 0.625, 0.25]], dtype=np.float32)
    (row,) = OUTCOME.rows(answer)
    assert row == {"probabilities": {"on time": 0.125, "late": 0.625, "cancelled": 0.25}, "prediction": "late"}
    assert OUTCOME.columns(answer)["prediction"].tolist() == ["late"]
    assert DELAY.rows(np.array([2.5], dtype=np.float32)) == [{"prediction": 2.5}]
    assert Binary(0.2).rows(np.array([0.25], dtype=np.float32)) == [{"probability": 0.25, "prediction": True}]


@pytest.mark.parametrize(
    "task",
    [
        *TASKS,
        Binary(0.2),
        Binary(decision=Gains(2, -1, unit="EUR")),
        Binary(decision=Capacity(200)),
        Regression("m", "median", 0.8, margins=(-1.5, 4.0)),
    ],
    ids=str,
)
def test_a_task_survives_being_stored(task: Task) -> None:
    assert task_from_json(json.loads(json.dumps(task_to_json(task)))) == task


def test_what_was_stored_before_there_were_others_is_yes_or_no() -> None:
    assert task_from_json(None) == BINARY
    with pytest.raises(IntegrityError, match=r"'ranking'.*not known to this version"):
        task_from_json({"kind": "ranking"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiClass(("a", "b")), "two are Binary"),
        (lambda: MultiClass(("a", "b", "a")), "each once"),
        (lambda: MultiClass(("a", "", "c")), "each with a character"),
        (lambda: MultiClass(("a", "b", "\ud800")), "half of a character"),
        (lambda: Column("a", "text", choices=("b", "\ud800")), "half of a character. Write it whole"),
        (lambda: Regression(estimand="mode"), "'mean' or 'median'"),
        (lambda: Binary(-0.1), "threshold is -0.1. Give a probability, from 0 to 1"),
        (lambda: Binary(1.5), "threshold is 1.5"),
        (lambda: Binary(decision=Gains(false_positive=1.0)), "acting never pays, or always does"),
        (lambda: Binary(decision=Gains(true_positive=float("nan"))), "no amount"),
        (lambda: Gains(1e308, -1e308, -1e308, 1e308), "Give numbers from -1e.100"),
        (lambda: Binary(decision=Capacity(0)), "above 0"),
        (lambda: Capacity("200"), "Capacity: per_day is '200'. It must be a number, without quotes"),
        (lambda: Capacity(None), "per_day is None"),
        (lambda: Capacity(True), "per_day is True"),
        (lambda: Gains("3", -1), "Gains: true_positive is '3'"),
        (lambda: Gains(True, -1), "true_positive is True"),
        (lambda: Gains(1, -1, unit=3), "Gains: unit is 3. It must be a text"),
        (lambda: Binary("0.3"), "Binary: threshold is '0.3'"),
        (lambda: Binary(threshold=None), "threshold is None"),
        (lambda: Binary(threshold=True), "threshold is True"),
        (lambda: Binary(decision=0.3), r"decision is 0.3. Give Gains\(...\) or Capacity"),
        (lambda: Binary(decision={"gains": 1}), "decision is {'gains': 1}"),
        (lambda: Regression(coverage="0.8"), "Regression: coverage is '0.8'"),
        (lambda: Regression(coverage=(0.1, 0.9)), r"coverage is \(0.1, 0.9\)"),
        (lambda: Regression(unit=None), "unit is None"),
    ],
)
def test_a_task_that_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(UseCaseError, match=message):
        make()


def test_answers_of_numbers_are_apart_as_far_as_float32_can_tell_them() -> None:
    exact = np.array([1e6 + 0.4, 0.25])
    assert DELAY.apart(exact.astype(np.float32), exact).max() < 1e-5
    assert DELAY.apart(np.array([0.0]), np.array([0.25])) == pytest.approx([0.2])
    assert OUTCOME.apart(PROBABILITY[:2], PROBABILITY[1::-1]).shape == (2,)


def test_labels_that_float32_answers_cannot_follow_are_too_few_to_learn_from() -> None:
    noise = RANDOM.normal(size=1_000)
    assert DELAY.shortfall(1e9 + 1e5 * noise) is None
    assert "labels deviate by" in str(lacking := DELAY.shortfall(1e9 + 10 * noise))
    assert "subtract a constant" in str(lacking)
    with pytest.raises(DataError, match="cannot follow"):
        evaluate(DELAY, 1e9 + 10 * noise, np.full(1_000, 1e9), np.arange(1_000) // 100)
    assert DELAY.shortfall(noise - noise.mean()) is None


def test_no_warning_comes_with_a_constant_answer() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate(DELAY, MINUTES, np.full(ROWS, MINUTES.mean()), DAY)
    assert found["r2"].value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.95])
def test_so_many_new_labels_are_in_their_interval_as_were_asked_for(coverage: float) -> None:
    """Over many draws of 99 rows: with skewed errors, on both sides alike, and never below what is promised."""
    random, inside, below = np.random.default_rng(7), list[float](), list[float]()
    for _ in range(400):
        labels = random.exponential(20, 599)
        answer = labels - random.exponential(10, 599)
        found = Regression(coverage=coverage).decided(labels[:99], answer[:99], 1)
        assert found.margins is not None
        below.append(float((labels[99:] < answer[99:] + found.margins[0]).mean()))
        inside.append(found.decisions(labels[99:], answer[99:], np.zeros(500, dtype=np.intp))["coverage"])
    assert np.mean(inside) == pytest.approx(coverage, abs=0.011)
    assert np.mean(inside) >= coverage - 3 * np.std(inside) / 20
    assert np.mean(below) == pytest.approx((1 - coverage) / 2, abs=0.006)


def test_rows_with_larger_answers_get_wider_intervals_so_that_a_week_of_them_is_covered_too() -> None:
    """Errors grow with what is expected, and of the rows of the second week most are stormy."""
    random = np.random.default_rng(2)
    stormy = random.random(20_000) < np.repeat([0.1, 0.8], 10_000)
    answer = random.uniform(0, 10, 20_000) + 60 * stormy
    labels = answer + (5 + answer) * random.normal(size=20_000)
    found = Regression("minutes", coverage=0.8).decided(labels[:10_000], answer[:10_000], 7)
    assert len(found.edges) == 9
    day = np.repeat(np.arange(14), 20_000 // 14 + 1)[:20_000]
    decisions = found.decisions(labels, answer, day)
    assert len(decisions["by_week"]) == 2
    assert decisions["by_week"][0] == pytest.approx(0.8, abs=0.02)
    assert decisions["by_week"][1] == pytest.approx(0.8, abs=0.05)
    low, high = np.quantile((labels - answer)[:10_000], [0.1, 0.9])
    alike = (labels >= answer + low) & (labels <= answer + high)
    assert alike[10_000:].mean() < 0.45, "With the same interval for all, a week like that is hardly covered."
    assert "by week from" in found.decisions_described(decisions)
    rows = np.array([1.0, 80.0], dtype=np.float32)
    low, high = (found.columns(rows)[name] for name in ("low", "high"))
    assert high[1] - low[1] > 5 * (high[0] - low[0])
    again = task_from_json(json.loads(json.dumps(task_to_json(found))))
    assert again == found
    assert found.measured(labels, answer, day)["coverage"].value == pytest.approx(decisions["coverage"])
    assert float(found.values({"coverage"}, labels, answer, *one_block(labels))["coverage"][0]) == decisions["coverage"]


def test_intervals_keep_their_shape_and_are_brought_to_the_width_that_newer_rows_ask_for() -> None:
    random = np.random.default_rng(4)
    answer = random.uniform(0, 100, 8_000)
    noise = (1 + answer) * random.normal(size=8_000)
    found = Regression("minutes", coverage=0.8).decided(answer + 2 * noise, answer, 7)
    newer = found.renewed(answer + noise, answer)
    assert newer.edges == found.edges
    wide, narrow = (np.diff(np.reshape(task.margins, (-1, 2))).ravel() for task in (found, newer))
    assert narrow / wide == pytest.approx(0.5, abs=0.03)
    day = np.arange(8_000) // 1_000
    assert newer.decisions(answer + noise, answer, day)["coverage"] == pytest.approx(0.8, abs=0.005)
    assert found.renewed(answer[:100] + noise[:100], answer[:100]) == found, "A hundred rows say too little."
    rare = Regression(coverage=0.999).decided(answer + noise, answer, 7)
    assert rare.renewed(answer[:1_000], answer[:1_000]) == rare, "Of a thousand rows none may be outside."
    exact = Regression(coverage=0.8).decided(answer, answer, 7)
    assert exact.renewed(answer + noise, answer).decisions(answer + noise, answer, day)["coverage"] >= 0.8


def covered_as_served(task: Regression, labels: np.ndarray, answer: np.ndarray) -> tuple[float, float]:
    """The share of the labels in the interval that the monitoring knows, and in the one that is answered."""
    served = answer.astype(np.float32)
    ends = task.columns(served)
    known = task.values({"coverage"}, labels, served, *one_block(labels))["coverage"][0]
    return float(known), float(((labels >= ends["low"]) & (labels <= ends["high"])).mean())


@given(
    seed=st.integers(0, 10**6),
    coverage=st.sampled_from([0.5, 0.8, 0.9]),
    size=st.sampled_from([1e-3, 1.0, 1e4]),
    zeros=st.sampled_from([0.0, 0.6, 0.97]),
    moved=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_labels_many_of_which_are_the_same_are_covered_as_asked_for(
    seed: int, coverage: float, size: float, zeros: float, moved: bool
) -> None:
    """As float32, of the very rows that the interval is found on: an end of it lies on one of the labels, and a few
    answers to many rows make of a thousand labels one. moved: by another model, on the rows of the gap."""
    random = np.random.default_rng(seed)
    few = random.uniform(0.1, 9, 4) * size
    answer = random.choice(few, 2_000)
    labels = np.where(random.random(2_000) < zeros, 0.0, np.round(random.exponential(4, 2_000), 1)) * size
    found = Regression(coverage=coverage).decided(labels, answer, 10)
    if moved:
        answer = answer * random.uniform(0.9, 1.1) + random.uniform(-0.1, 0.1) * size
        found = found.renewed(labels, answer.astype(np.float32))
    assert min(covered_as_served(found, labels, answer)) >= coverage


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_an_interval_of_labels_that_all_differ_is_as_wide_as_its_ranks(offset: float) -> None:
    random = np.random.default_rng(5)
    answer = np.full(999, offset + 1 / 3)
    errors = random.normal(0, 10, 999)
    found = Regression(coverage=0.8).decided(answer + errors, answer, 7)
    assert found.margins == pytest.approx(np.sort(errors)[[99, 899]], abs=0.01)


def test_a_row_whose_answer_is_an_edge_is_in_the_band_above_it_in_float32_as_in_float64() -> None:
    answer = np.repeat([0.1, 0.2, 0.3], 1_000)
    found = Regression(coverage=0.8).decided(answer + np.tile(np.arange(-50.0, 50.0), 30), answer, 7)
    assert len(found.edges) == 2
    served = found.columns(answer.astype(np.float32))
    np.testing.assert_allclose(served["low"], found.columns(answer)["low"], atol=1e-4)
    constant = Regression(coverage=0.8).decided(np.arange(3_000.0), np.ones(3_000), 7)
    assert constant.edges == ()
    with pytest.raises(UseCaseError, match="3 margins for 0 edges"):
        Regression(coverage=0.8, margins=(1.0, 2.0, 3.0))


def one_block(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(len(labels), dtype=np.intp), np.ones((1, 1))


def test_an_interval_comes_with_the_answer_and_too_few_rows_give_none() -> None:
    task = Regression("minutes", coverage=0.8, margins=(-2.0, 8.0))
    assert task.rows(np.array([1.5], dtype=np.float32)) == [{"prediction": 1.5, "low": -0.5, "high": 9.5}]
    assert list(task.output_types) == list(task.columns(np.zeros(1, dtype=np.float32)))
    assert list(DELAY.output_types) == ["prediction"]
    with pytest.raises(DataError, match=r"8 rows .*at least 9 are needed"):
        Regression(coverage=0.8).decided(np.arange(8.0), np.zeros(8), 1)
    with pytest.raises(UseCaseError, match=r"coverage is 80\.0"):
        Regression(coverage=80.0)
