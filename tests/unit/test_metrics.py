"""Metrics equal scikit-learn's, and their intervals are as wide as the days make them."""

import warnings
from datetime import date, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score
from threadpoolctl import threadpool_limits

from mlops_ray.errors import DataError
from mlops_ray.evaluation.metrics import evaluate
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.days import MOST_BLOCKS, blocks_of, days_of
from mlops_ray.tasks.estimate import Estimate, freedom_of, jackknife
from mlops_ray.tasks.evaluation import weights_without
from mlops_ray.tasks.ranking import calibration, ranking


def make_rows(days: int, per_day: int, seed: int = 0, day_effect: float = 1.0):
    """Labels, honest probabilities and days; each day has an effect that the probabilities do not know."""
    random = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), per_day)
    score = random.normal(size=days * per_day)
    hidden = day_effect * random.normal(size=days)[day]
    label = random.random(days * per_day) < 1 / (1 + np.exp(-(score + hidden)))
    return label, 1 / (1 + np.exp(-score)), day


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=60).filter(
        lambda rows: len({label for label, _ in rows}) == 2
    )
)
def test_metrics_equal_those_of_scikit_learn_with_many_ties(rows: list[tuple[bool, int]]) -> None:
    label = np.array([label for label, _ in rows])
    probability = np.array([value / 8 for _, value in rows])
    evaluation = evaluate(BINARY, label, probability, np.arange(len(rows)) % 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "roc_auc": roc_auc_score(label, probability),
            "average_precision": average_precision_score(label, probability),
            "log_loss": log_loss(label, probability, labels=[False, True]),
            "brier": brier_score_loss(label, probability),
        }
    for name, value in expected.items():
        assert evaluation[name].value == pytest.approx(value, abs=1e-9), name


def test_without_a_block_means_scored_without_its_rows() -> None:
    label, probability, day = make_rows(days=6, per_day=50)
    probability = probability.round(2)
    aucs, precisions = ranking(label.astype(float), probability, day, weights_without(day))
    for left_out, auc, precision in zip([-1, *range(6)], aucs, precisions, strict=True):
        kept = day != left_out
        assert auc == pytest.approx(roc_auc_score(label[kept], probability[kept]))
        assert precision == pytest.approx(average_precision_score(label[kept], probability[kept]))
    errors, bins = calibration(label.astype(float), probability, day, np.ones((1, 6)))
    gaps = sum(one.rows * abs(one.probability - one.observed) for one in bins)
    assert errors[0] == pytest.approx(gaps / len(label))
    assert sum(one.rows for one in bins) == len(label)


def test_the_same_score_in_one_pass_and_in_many(monkeypatch: pytest.MonkeyPatch) -> None:
    label, probability, day = make_rows(days=9, per_day=40)
    truth, weights = label.astype(float), weights_without(day)
    at_once = ranking(truth, probability, day, weights)
    monkeypatch.setattr("mlops_ray.tasks.ranking._AT_ONCE", 800)
    np.testing.assert_allclose(ranking(truth, probability, day, weights), at_once, rtol=1e-12)


@pytest.mark.parametrize(
    ("days", "metric"), [(5, "brier"), (10, "roc_auc"), (60, "log_loss"), (60, "average_precision")]
)
def test_an_interval_covers_the_truth_as_often_as_it_says(days: int, metric: str) -> None:
    """Of 400 intervals of 95 % as few as `least` hold the truth once in a million times."""
    least = stats.binom.ppf(1e-6, 400, 0.95)
    truth = np.mean([evaluate(BINARY, *make_rows(400, 30, seed))[metric].value for seed in range(1000, 1010)])
    inside = 0
    for seed in range(400):
        found = evaluate(BINARY, *make_rows(days, 20, seed))[metric]
        assert found.low is not None
        inside += found.low <= truth <= found.high
    assert inside >= least


def test_the_jackknifes_error_of_a_mean_is_that_of_independent_blocks() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=40)
    without = (values.sum() - values) / 39
    found = jackknife(float(values.mean()), without, 39.0)
    assert found.error == pytest.approx(values.std(ddof=1) / np.sqrt(40))
    low, high = stats.t.interval(0.95, 39, values.mean(), found.error)
    assert (found.low, found.high) == pytest.approx((low, high))
    for limit in (-0.5, -0.1):
        assert found.p_above(limit) == pytest.approx(stats.ttest_1samp(values, limit, alternative="greater").pvalue)
    for limit in (0.5, 0.1):
        assert found.p_below(limit) == pytest.approx(stats.ttest_1samp(values, limit, alternative="less").pvalue)
        assert found.p_above(limit) == 1.0


def test_too_few_days_or_too_unequal_ones_leave_no_interval() -> None:
    for days in (1, 2, 3, 4):
        evaluation = evaluate(BINARY, *make_rows(days, 100))
        assert (evaluation.days, evaluation["roc_auc"].low, evaluation["brier"].high) == (days, None, None)
        assert evaluation["roc_auc"].p_above(0.0) == 1.0
    assert evaluate(BINARY, *make_rows(5, 100))["roc_auc"].low is not None
    label, probability, _ = make_rows(1, 1000)
    day = np.minimum(np.arange(1000) // 10, 99) * (np.arange(1000) < 100)  # nine small days, and one with nearly all
    assert evaluate(BINARY, label, probability, day)["roc_auc"].low is None
    assert freedom_of(np.full(7, 30.0)) == pytest.approx(6.0)
    assert freedom_of(np.array([1000.0, 1, 1, 1, 1, 1])) < 0.1


def test_a_day_is_the_use_cases_and_not_utcs() -> None:
    """An evening in New York goes on after midnight in UTC."""
    evening = pl.Series(["2013-03-05T22:00", "2013-03-06T01:30", "2013-03-06T04:30"]).str.to_datetime(time_zone="UTC")
    new_york, utc = days_of(evening, "America/New_York"), days_of(evening, "UTC")
    assert len(set(new_york.tolist())) == 1
    assert len(set(utc.tolist())) == 2
    assert utc[0] == (date(2013, 3, 5) - date(1970, 1, 1)).days
    # The day on which clocks go forward has 23 hours, and is one.
    hours = pl.datetime_range(datetime(2013, 3, 10, 5), datetime(2013, 3, 11, 3), "1h", time_zone="UTC", eager=True)
    assert len(set(days_of(hours, "America/New_York").tolist())) == 1


def test_many_days_are_put_together_into_blocks_that_follow_each_other() -> None:
    day = np.repeat(np.arange(1000, 1365), 3)
    block = blocks_of(day)
    assert len(np.unique(block)) == MOST_BLOCKS
    assert (np.diff(block) >= 0).all()
    assert set(np.bincount(block).tolist()) == {7 * 3, 8 * 3}
    assert blocks_of(np.array([5, 3, 3, 9])).tolist() == [1, 0, 0, 2]


def test_rows_of_one_day_do_not_count_as_independent() -> None:
    """The same rows, once with days that differ and once shuffled over the days: only the first is uncertain."""
    label, probability, day = make_rows(days=40, per_day=200, day_effect=2.0)
    by_day = evaluate(BINARY, label, probability, day)["log_loss"]
    shuffled = evaluate(BINARY, label, probability, np.random.default_rng(1).permutation(day))["log_loss"]
    assert width(by_day) > 1.3 * width(shuffled)


def test_honest_probabilities_are_calibrated_and_shifted_ones_are_not() -> None:
    label, probability, day = make_rows(50, 200, day_effect=0.0)
    assert evaluate(BINARY, label, probability, day)["calibration_error"].value < 0.02
    assert evaluate(BINARY, label, probability**3, day)["calibration_error"].value > 0.15


def test_certain_and_wrong_answers_have_a_finite_loss() -> None:
    label = np.array([True, False])
    evaluation = evaluate(BINARY, label, np.array([0.0, 1.0]), np.zeros(2, dtype=int))
    assert np.isfinite(evaluation["log_loss"].value)


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.1])
def test_what_is_no_probability_is_refused(wrong: float) -> None:
    with pytest.raises(DataError, match="no probability for 1 of 2 rows"):
        evaluate(BINARY, np.array([True, False]), np.array([0.5, wrong]), np.zeros(2, dtype=int))


def test_a_single_label_is_refused() -> None:
    with pytest.raises(DataError, match="1 of 2 label values"):
        evaluate(BINARY, np.array([True, True]), np.array([0.5, 0.1]), np.zeros(2, dtype=int))


def width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def test_the_number_of_threads_changes_no_digit() -> None:
    random = np.random.default_rng(0)
    label = random.random(40_000) < 0.23
    probability = np.clip(random.normal(0.3, 0.1, 40_000) + 0.05 * label, 0.001, 0.999)
    day = random.integers(0, 30, 40_000)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(evaluate(BINARY, label, probability, day))
    assert found[0] == found[1]
