"""Decisions: the threshold is the one that brings most on the rows it is found on, by a search of all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.tasks.binary import Binary
from mlops_ray.tasks.decision import Capacity, Gains

LABELS_AND_ANSWERS = st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=1, max_size=40)


def gain_at(gains: Gains, labels: np.ndarray, answer: np.ndarray, threshold: float) -> float:
    """Naive: row by row."""
    found = 0.0
    for label, probability in zip(labels, answer, strict=True):
        if probability >= threshold:
            found += gains.true_positive if label else gains.false_positive
        else:
            found += gains.false_negative if label else gains.true_negative
    return found / len(labels)


@given(
    rows=LABELS_AND_ANSWERS,
    hit=st.integers(1, 50),
    vain=st.integers(-50, -1),
    missed=st.integers(-50, 0),
    right=st.integers(0, 9),
)
def test_no_other_threshold_brings_more(
    rows: list[tuple[bool, int]], hit: int, vain: int, missed: int, right: int
) -> None:
    labels, answer = np.array([label for label, _ in rows]), np.array([(value + 1) / 10 for _, value in rows])
    task = Binary(decision=Gains(hit, vain, missed, right, "EUR")).decided(labels, answer, 1)
    assert isinstance(task.decision, Gains)
    best = max(gain_at(task.decision, labels, answer, one) for one in np.arange(11) / 10 + 0.05)
    reached = gain_at(task.decision, labels, answer, task.threshold)
    assert reached == pytest.approx(best)
    (value,) = task.values({"gain"}, labels, answer, np.zeros(len(labels), int), np.ones((1, 1)))["gain"]
    assert value == pytest.approx(reached)


def test_of_calibrated_probabilities_it_is_that_of_elkan() -> None:
    random = np.random.default_rng(1)
    answer = random.random(200_000)
    labels = random.random(200_000) < answer
    gains = Gains(true_positive=40, false_positive=-10, false_negative=-5, true_negative=2)
    expected = (2 - -10) / (2 - -10 + 40 - -5)
    assert gains.threshold(labels, answer, 1) == pytest.approx(expected, abs=0.02)


def test_what_deciding_brings_is_said_beside_doing_nothing_and_always() -> None:
    labels, answer = np.array([True, False, True, False]), np.array([0.9, 0.4, 0.3, 0.1])
    task = Binary(0.35, Gains(true_positive=10, false_positive=-4, unit="EUR"))
    assert task.decisions(labels, answer, np.arange(len(labels))) == {
        "threshold": 0.35,
        "unit": "EUR",
        "gain": {"at the threshold": 1.5, "at 0.5": 2.5, "always": 3.0, "never": 0.0},
    }


@given(rows=LABELS_AND_ANSWERS, per_day=st.integers(1, 30), days=st.integers(1, 4))
def test_hands_are_never_asked_for_more_than_they_can_do(rows: list[tuple[bool, int]], per_day: int, days: int) -> None:
    labels, answer = np.array([label for label, _ in rows]), np.array([(value + 1) / 10 for _, value in rows])
    task = Binary(decision=Capacity(per_day)).decided(labels, answer, days)
    chosen = task.chosen(answer).sum()
    assert chosen <= per_day * days
    more = np.unique(answer[answer < task.threshold])
    if more.size:  # one step lower would choose too many
        assert (answer >= more[-1]).sum() > per_day * days


def test_who_declares_no_decision_keeps_the_threshold() -> None:
    task = Binary(0.2)
    assert task.decided(np.array([True, False]), np.array([0.1, 0.9]), 1) is task
