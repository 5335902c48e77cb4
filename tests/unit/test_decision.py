"""Decisions: the threshold is the one that brings most on the rows it is found on, by a search of all of them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.tasks.binary import Binary
from mlops_ray.tasks.decision import Capacity, Gains
from mlops_ray.tasks.stored import task_from_json, task_to_json

# Few of them, 0 and 1 and such among them as float32 cannot tell apart: what forests and sure models answer.
ANSWERS = st.sampled_from([0.0, 1e-46, 0.1, 0.3, 0.1 + 0.2, 0.3 + 2e-8, 0.7, 0.9, 1 - 2e-9, 1 - 1e-9, 1.0])
LABELS_AND_ANSWERS = st.lists(st.tuples(st.booleans(), ANSWERS), min_size=1, max_size=40)
THRESHOLDS = [*(np.arange(11) / 10 - 0.05), 0.31, 2.0]


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
    rows: list[tuple[bool, float]], hit: int, vain: int, missed: int, right: int
) -> None:
    labels, answer = np.array([label for label, _ in rows]), np.array([value for _, value in rows])
    task = Binary(decision=Gains(hit, vain, missed, right, "EUR")).decided(labels, answer, 1)
    assert isinstance(task.decision, Gains)
    best = max(gain_at(task.decision, labels, answer, one) for one in THRESHOLDS)
    reached = gain_at(task.decision, labels, answer.astype(np.float32), task.threshold)
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
    found = task.decisions(labels, answer, np.array([3, 3, 5, 5]))
    assert found == {
        "threshold": 0.35,
        "rows_a_day": {"at the threshold": 1.0, "at 0.5": 0.5, "always": 2.0, "never": 0.0},
        "unit": "EUR",
        "gain": {"at the threshold": 1.5, "at 0.5": 2.5, "always": 3.0, "never": 0.0},
    }
    assert task.decisions_described(found) == (
        "Acting from a probability of 0.350 on; rows a day: at the threshold 1, at 0.5 0.5, always 2, never 0; what a "
        "row brings: at the threshold 1.5 EUR, at 0.5 2.5 EUR, always 3 EUR, never 0 EUR."
    )
    older = {name: value for name, value in found.items() if name != "rows_a_day"}
    assert task.decisions_described(older).startswith("Acting from a probability of 0.350 on; what a row brings: at")


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (Binary(0.3), "0.300 on; rows a day: at the threshold 7, at 0.5 5, always 10, never 0."),
        (Binary(), "0.500 on; rows a day: at the threshold 5, always 10, never 0."),
        (
            Binary(decision=Capacity(2)),
            "0.775 on; rows a day: at the threshold 2, at 0.5 5, always 10, never 0; there are hands for 2.",
        ),
    ],
    ids=["given", "usual", "capacity"],
)
def test_every_threshold_is_said_with_the_rows_that_it_chooses_a_day(task: Binary, said: str) -> None:
    answer, day = np.tile(np.arange(0.05, 1, 0.1), 4), np.repeat(np.arange(4), 10)
    labels = answer > 2
    found = task.decided(labels, np.tile(np.append(np.arange(0.05, 0.7, 0.1), [0.75, 0.8, 0.9]), 4), 4)
    sentence = found.decisions_described(json.loads(json.dumps(found.decisions(labels, answer, day))))
    assert sentence == f"Acting from a probability of {said}"


@given(rows=LABELS_AND_ANSWERS, per_day=st.integers(1, 30), days=st.integers(1, 4))
def test_hands_are_never_asked_for_more_than_they_can_do(
    rows: list[tuple[bool, float]], per_day: int, days: int
) -> None:
    labels, answer = np.array([label for label, _ in rows]), np.array([value for _, value in rows])
    task = Binary(decision=Capacity(per_day)).decided(labels, answer, days)
    chosen = ways_to_choose(task, answer)
    assert chosen.sum() <= per_day * days
    served = answer.astype(np.float32)
    if not chosen.all():  # one step lower would choose too many
        assert (served >= served[~chosen].max()).sum() > per_day * days


def ways_to_choose(task: Binary, answer: np.ndarray) -> np.ndarray:
    """Which rows are chosen: the same ones offline, as JSON, and as columns of a batch."""
    served = answer.astype(np.float32)
    chosen = task.chosen(answer)
    assert chosen.tolist() == task.chosen(served).tolist()
    assert chosen.tolist() == task.columns(served)["prediction"].tolist()
    assert chosen.tolist() == [row["prediction"] for row in task.rows(served)]
    return chosen


@given(answer=st.lists(ANSWERS, min_size=1, max_size=20), threshold=st.one_of(ANSWERS, st.floats(0, 1)))
def test_an_answer_is_yes_everywhere_or_nowhere(answer: list[float], threshold: float) -> None:
    ways_to_choose(Binary(threshold), np.array([*answer, threshold]))


@pytest.mark.parametrize("hundredths", range(1, 100))
def test_an_answer_that_is_the_threshold_is_yes(hundredths: int) -> None:
    assert ways_to_choose(Binary(hundredths / 100), np.array([hundredths / 100])).all()


def test_nobody_is_chosen_where_that_is_best_though_the_highest_answer_is_sure() -> None:
    never = Binary(decision=Gains(1, -5)).decided(np.array([False, False]), np.array([1.0, 0.2]), 1)
    assert not ways_to_choose(never, np.array([1.0, 0.2])).any()
    too_many = Binary(decision=Capacity(5)).decided(np.zeros(63, bool), np.ones(63), 1)
    assert not ways_to_choose(too_many, np.ones(63)).any()
    everybody = Binary(decision=Gains(1, -1)).decided(np.array([True, True]), np.zeros(2), 1)
    assert ways_to_choose(everybody, np.zeros(2)).all()
    for task in (never, too_many, everybody):
        assert task_from_json(json.loads(json.dumps(task_to_json(task)))) == task
    said = {"unit": "", "gain": {"never": 0.0}}
    assert never.decisions_described({"threshold": never.threshold, **said}).startswith("Acting on no row;")
    assert never.decisions_described({"threshold": everybody.threshold, **said}).startswith("Acting on every row;")


@pytest.mark.parametrize("sure", [0.4, 0.6, 1.0])
def test_nobody_is_above_1_and_everybody_0_whatever_the_highest_and_the_lowest_answer_are(sure: float) -> None:
    answer = np.array([sure, 0.3, 0.2, 0.1])
    never = Binary(decision=Gains(1, -5)).decided(np.zeros(4, bool), answer, 1)
    too_many = Binary(decision=Capacity(1)).decided(np.zeros(4, bool), np.full(4, sure), 1)
    assert never.threshold == too_many.threshold == np.nextafter(np.float32(1), np.float32(2))
    best = Binary(decision=Gains(1, -1)).decided(np.ones(4, bool), answer, 1)
    enough = Binary(decision=Capacity(4)).decided(np.zeros(4, bool), answer, 1)
    assert best.threshold == enough.threshold == 0.0
    later = np.array([0.0, 0.04, 0.75, 1.0])
    assert not ways_to_choose(never, later).any()
    assert ways_to_choose(best, later).all()


def test_answers_that_float32_cannot_tell_apart_are_chosen_together_or_not_at_all() -> None:
    for answer in (np.array([0.1 + 0.2, 0.3, 0.3, 0.3, 0.05]), 1 - np.array([1e-9, 2e-9, 3e-9, 4e-9, 0.5])):
        task = Binary(decision=Capacity(1)).decided(answer > 1, answer, 1)
        assert not ways_to_choose(task, answer).any()


def test_who_declares_no_decision_keeps_the_threshold() -> None:
    task = Binary(0.2)
    assert task.decided(np.array([True, False]), np.array([0.1, 0.9]), 1) is task
