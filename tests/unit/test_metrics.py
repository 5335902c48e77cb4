"""Metrics equal scikit-learn's, and their intervals are as wide as the days make them."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score
from threadpoolctl import threadpool_limits

from mlops_ray.errors import DataError
from mlops_ray.evaluation.metrics import Estimate, evaluate

START = np.datetime64("2013-10-01T00:00:00", "us")


def make_rows(days: int, per_day: int, seed: int = 0, day_effect: float = 1.0):
    """Labels, honest probabilities and moments; each day has an effect that the probabilities do not know."""
    random = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), per_day)
    score = random.normal(size=days * per_day)
    hidden = day_effect * random.normal(size=days)[day]
    label = random.random(days * per_day) < 1 / (1 + np.exp(-(score + hidden)))
    moment = START + day * np.timedelta64(1, "D") + np.timedelta64(3, "h")
    return label, 1 / (1 + np.exp(-score)), moment


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=60).filter(
        lambda rows: len({label for label, _ in rows}) == 2
    )
)
def test_metrics_equal_those_of_scikit_learn_with_many_ties(rows: list[tuple[bool, int]]) -> None:
    label = np.array([label for label, _ in rows])
    probability = np.array([value / 8 for _, value in rows])
    moment = START + (np.arange(len(rows)) % 3) * np.timedelta64(1, "D")
    evaluation = evaluate(label, probability, moment, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "roc_auc": roc_auc_score(label, probability),
            "average_precision": average_precision_score(label, probability),
            "log_loss": log_loss(label, probability, labels=[False, True]),
            "brier": brier_score_loss(label, probability),
        }
    for name, value in expected.items():
        assert getattr(evaluation, name).value == pytest.approx(value, abs=1e-9), name


def test_resample_equals_scoring_the_drawn_days_again() -> None:
    """A day drawn twice is the day's rows twice: checked against scikit-learn's weights."""
    from mlops_ray.evaluation.metrics import _calibration, draw_days, ranking

    label, probability, moment = make_rows(days=6, per_day=50)
    probability = probability.round(2)
    _, day = np.unique(moment.astype("datetime64[D]"), return_inverse=True)
    draws = draw_days(6, seed=3)[:20]
    aucs, precisions = ranking(label.astype(float), probability, day, draws)
    for draw, auc, precision in zip(draws, aucs, precisions, strict=True):
        assert auc == pytest.approx(roc_auc_score(label, probability, sample_weight=draw[day]))
        assert precision == pytest.approx(average_precision_score(label, probability, sample_weight=draw[day]))
    errors, bins = _calibration(label.astype(float), probability, day, np.ones((1, 6)))
    gaps = sum(one.rows * abs(one.probability - one.observed) for one in bins)
    assert errors[0] == pytest.approx(gaps / len(label))
    assert sum(one.rows for one in bins) == len(label)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = np.mean([evaluate(*make_rows(200, 20, seed), seed=0).brier.value for seed in range(1000, 1006)])
    inside = 0
    for seed in range(30):
        brier = evaluate(*make_rows(60, 20, seed), seed=seed).brier
        assert brier.low is not None
        assert brier.high is not None
        inside += brier.low <= truth <= brier.high
    assert inside >= 24


def test_rows_of_one_day_do_not_count_as_independent() -> None:
    """The same rows, once with days that differ and once shuffled over the days: only the first is uncertain."""
    label, probability, moment = make_rows(days=40, per_day=200, day_effect=2.0)
    by_day = evaluate(label, probability, moment, seed=0).log_loss
    shuffled = evaluate(label, probability, np.random.default_rng(1).permutation(moment), seed=0).log_loss
    assert width(by_day) > 1.3 * width(shuffled)


def test_same_seed_gives_the_same_intervals() -> None:
    rows = make_rows(20, 20)
    assert evaluate(*rows, seed=4) == evaluate(*rows, seed=4)


def test_honest_probabilities_are_calibrated_and_shifted_ones_are_not() -> None:
    label, probability, moment = make_rows(50, 200, day_effect=0.0)
    assert evaluate(label, probability, moment, seed=0).calibration_error.value < 0.02
    assert evaluate(label, probability**3, moment, seed=0).calibration_error.value > 0.15


def test_one_day_gives_metrics_without_intervals() -> None:
    evaluation = evaluate(*make_rows(1, 100), seed=0)
    assert evaluation.days == 1
    assert evaluation.roc_auc.low is None
    assert evaluation.roc_auc.high is None


def test_certain_and_wrong_answers_have_a_finite_loss() -> None:
    label = np.array([True, False])
    evaluation = evaluate(label, np.array([0.0, 1.0]), START + np.zeros(2, dtype="timedelta64[D]"), seed=0)
    assert np.isfinite(evaluation.log_loss.value)


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.1])
def test_what_is_no_probability_is_refused(wrong: float) -> None:
    with pytest.raises(DataError, match="1 of 2 probabilities"):
        evaluate(np.array([True, False]), np.array([0.5, wrong]), np.array([START, START]), seed=0)


def test_a_single_label_is_refused() -> None:
    with pytest.raises(DataError, match="only one"):
        evaluate(np.array([True, True]), np.array([0.5, 0.1]), np.array([START, START]), seed=0)


def width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def test_the_number_of_threads_changes_no_digit() -> None:
    random = np.random.default_rng(0)
    label = random.random(40_000) < 0.23
    probability = np.clip(random.normal(0.3, 0.1, 40_000) + 0.05 * label, 0.001, 0.999)
    moment = np.datetime64("2013-10-01") + random.integers(0, 30, 40_000).astype("timedelta64[D]")
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(evaluate(label, probability, moment, 13, resamples=20))
    assert found[0] == found[1]
