"""Intervals around quantiles: as wide as a row's features say, with the share of labels inside that was asked for."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.evaluation.comparison import compare
from mlops_ray.tasks.regression import Regression
from mlops_ray.tasks.stored import task_from_json, task_to_json

TASK = Regression("minutes", coverage=0.8, quantiles=(0.1, 0.5, 0.9))


def answer_of(middle: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """The number and its three quantiles, the outer ones so far from it."""
    return np.column_stack([middle, middle - apart, middle, middle + apart])


def one_block(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(len(labels), dtype=np.intp), np.ones((1, 1))


def covered(task: Regression, labels: np.ndarray, answer: np.ndarray) -> float:
    return float(task.values({"coverage"}, labels, answer, *one_block(labels))["coverage"][0])


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.95])
def test_as_many_new_labels_are_inside_as_were_asked_for_half_of_the_others_on_each_side(coverage: float) -> None:
    """Over many draws of 99 rows, of a model whose quantiles are too near in one half and too far out in the other."""
    random, inside, below = np.random.default_rng(11), list[float](), list[float]()
    ends = (round((1 - coverage) / 2, 6), round((1 + coverage) / 2, 6))
    task = Regression(coverage=coverage, quantiles=ends)
    for _ in range(400):
        spread = random.uniform(1, 30, 599)
        labels = random.exponential(spread)
        answer = np.column_stack([spread, 0.3 * spread, 1.2 * spread])
        found = task.decided(labels[:99], answer[:99], 1)
        assert found.around == ends
        ends_of_rows = found.columns(answer[99:].astype(np.float32))
        below.append(float((labels[99:] < ends_of_rows["low"]).mean()))
        inside.append(covered(found, labels[99:], answer[99:]))
    assert np.mean(inside) == pytest.approx(coverage, abs=0.011)
    assert np.mean(inside) >= coverage - 3 * np.std(inside) / 20
    assert np.mean(below) == pytest.approx((1 - coverage) / 2, abs=0.006)


def test_a_week_in_which_the_same_answers_are_less_certain_is_covered_where_features_say_so() -> None:
    """The number is the same in both weeks, so bands of it know nothing of the second one's spread."""
    random, rows = np.random.default_rng(3), 40_000
    spread = np.where(random.random(rows) < np.repeat([0.1, 0.8, 0.1, 0.8], rows // 4), 40.0, 5.0)
    middle = random.uniform(0, 50, rows)
    labels, half = middle + spread * random.normal(size=rows), rows // 2
    answer = answer_of(middle, 1.2816 * spread - 3)
    found = TASK.decided(labels[:half], answer[:half], 14)
    bands = replace(TASK, quantiles=()).decided(labels[:half], answer[:half, 0], 14)
    day = np.repeat(np.arange(14), half // 14 + 1)[:half]
    weeks = found.decisions(labels[half:], answer[half:], day)["by_week"]
    assert weeks == pytest.approx([0.8, 0.8], abs=0.015)
    unaware = bands.decisions(labels[half:], answer[half:, 0], day)["by_week"]
    assert unaware[0] > 0.9
    assert unaware[1] < 0.7


@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([1e-3, 1.0, 1e4]),
    zeros=st.sampled_from([0.0, 0.6, 0.97]),
    moved=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_labels_many_of_which_are_the_same_are_covered_as_asked_for(
    seed: int, size: float, zeros: float, moved: bool
) -> None:
    """As float32, on the very rows that the interval is found on. moved: by another model, on the rows of the gap."""
    random = np.random.default_rng(seed)
    answer = np.sort(random.choice(random.uniform(0.1, 9, 4) * size, (2_000, 3)), axis=1)
    answer = np.column_stack([random.permutation(answer[:, 1]), answer])
    labels = np.where(random.random(2_000) < zeros, 0.0, np.round(random.exponential(4, 2_000), 1)) * size
    found = TASK.decided(labels, answer, 10)
    if moved:
        answer = (answer * random.uniform(0.9, 1.1) + random.uniform(-0.1, 0.1) * size).astype(np.float32)
        found = found.renewed(labels, answer)
    served = answer.astype(np.float32)
    given_ends = found.columns(served)
    assert covered(found, labels, served) >= 0.8
    assert ((labels >= given_ends["low"]) & (labels <= given_ends["high"])).mean() >= 0.8
    assert (given_ends["low"] <= given_ends["high"]).all()


def test_an_interval_is_around_the_quantiles_at_its_ends_and_else_around_the_number() -> None:
    random = np.random.default_rng(5)
    middle = random.uniform(0, 50, 3_000)
    answer, labels = answer_of(middle, np.full(3_000, 10.0)), middle + random.normal(0, 10, 3_000)
    found = TASK.decided(labels, answer, 30)
    assert found.margins is not None
    assert found.margins == pytest.approx((-2.8, 2.8), abs=0.6)
    row = found.rows(answer[:1].astype(np.float32))[0]
    assert list(row) == ["prediction", "low", "high", "quantiles"]
    assert row["low"] == pytest.approx(row["quantiles"]["0.1"] + found.margins[0], abs=1e-4)
    assert list(found.output_types) == list(found.columns(answer.astype(np.float32))) == list(found.row_schema)
    assert task_from_json(json.loads(json.dumps(task_to_json(found)))) == found
    for other in (replace(TASK, coverage=0.7), replace(TASK, quantiles=(0.1, 0.5, 0.8)), replace(TASK, quantiles=())):
        around = other.decided(labels, answer[:, : other.width] if other.quantiles else middle, 30)
        assert not around.around
        assert around.margins == Regression(coverage=other.coverage).decided(labels, middle, 30).margins
    ten = Regression(coverage=0.9, quantiles=(0.05, 0.95)).decided(labels, answer[:, [0, 1, 3]], 30)
    assert ten.around == (0.05, 0.95)
    assert found.fitted_as == TASK.fitted_as
    assert found.searched_by("mean_absolute_error").margins is None


def test_a_mean_that_few_large_labels_move_out_of_the_interval_makes_it_no_wider() -> None:
    random = np.random.default_rng(8)
    labels = np.where(random.random(20_000) < 0.05, random.exponential(5_000, 20_000), random.normal(size=20_000))
    answer = np.tile([labels.mean(), *np.quantile(labels, [0.1, 0.9])], (20_000, 1))
    found = Regression(coverage=0.8, quantiles=(0.1, 0.9)).decided(labels[:10_000], answer[:10_000], 30)
    assert covered(found, labels[10_000:], answer[10_000:]) == pytest.approx(0.8, abs=0.01)
    row = found.rows(answer[:1].astype(np.float32))[0]
    assert row["low"] < row["high"] < 3 < row["prediction"]


def test_what_is_said_of_a_number_without_quantiles_can_be_read_by_the_version_before_them() -> None:
    known = {"kind", "unit", "estimand", "coverage", "margins", "edges", "deviation"}
    sealed = Regression("minutes", coverage=0.8).decided(np.arange(300.0), np.arange(300.0), 3)
    assert task_to_json(sealed).keys() <= known
    assert {"quantiles", "around"} <= task_to_json(TASK.decided(np.arange(300.0), np.ones((300, 4)), 3)).keys()


def test_what_was_sealed_with_quantiles_and_an_interval_of_the_number_answers_as_it_did() -> None:
    before = {"kind": "regression", "unit": "min", "coverage": 0.8, "margins": [-5, 6, -9, 9], "edges": [10.0]}
    task = task_from_json({**before, "quantiles": [0.1, 0.9]})
    rows = task.rows(np.array([[4, 1, 7], [20, 1, 70]], dtype=np.float32))
    assert [(row["low"], row["high"]) for row in rows] == [(-1, 10), (11, 29)]


def test_rows_of_the_gap_find_the_interval_anew_and_few_of_them_do_not() -> None:
    random = np.random.default_rng(6)
    middle, spread = random.uniform(0, 50, 4_000), random.uniform(1, 20, 4_000)
    answer, noise = answer_of(middle, spread), spread * random.normal(size=4_000)
    found = TASK.decided(middle + 2 * noise, answer, 30)
    assert found.renewed(middle[:199] + noise[:199], answer[:199]) == found
    newer = found.renewed(middle + noise, answer)
    assert newer == TASK.decided(middle + noise, answer, 30)
    assert covered(found, middle + noise, answer) > 0.95
    assert covered(newer, middle + noise, answer) == pytest.approx(0.8, abs=0.002)


def test_a_champion_is_judged_by_its_own_interval_where_it_answers_with_the_same_quantiles() -> None:
    random = np.random.default_rng(7)
    middle = random.uniform(0, 50, 1_000)
    answer, labels = answer_of(middle, np.full(1_000, 10.0)), middle + random.normal(0, 10, 1_000)
    champion = TASK.decided(labels, answer, 30)
    judged = TASK.like(champion)
    assert judged == champion
    for coverage in (0.9, None):
        judged = replace(TASK, coverage=coverage).like(champion)
        assert judged is not None
        assert covered(judged, labels, answer) == covered(champion, labels, answer)
    ours = replace(TASK, quantiles=(0.1, 0.9))
    other, day = ours.like(champion), np.arange(1_000) // 34
    assert other is not None
    assert other.rows(answer[:1, 0].astype(np.float32)) == [{"prediction": pytest.approx(middle[0])}]
    given = answer[:, [0, 1, 3]]
    with pytest.raises(DataError, match="The champion has no coverage"):
        compare((ours.decided(labels, given, 30), other), labels, given, answer, day, "coverage")
    assert compare((ours, other), labels, given, answer, day, "mean_absolute_error").difference.value == 0


@pytest.mark.parametrize(
    "declared",
    [
        {"coverage": 0.8, "quantiles": (0.1, 0.9)},
        {"coverage": 0.8, "quantiles": (0.1, 0.9), "margins": (-1.0, 1.0, -2.0, 2.0), "edges": (5.0,)},
        {"coverage": 0.8, "quantiles": (0.2, 0.9), "margins": (-1.0, 1.0)},
        {"margins": (-1.0, 1.0)},
    ],
)
def test_what_sealing_finds_is_not_declared(declared: dict[str, object]) -> None:
    with pytest.raises(UseCaseError, match=r"around is found when a model is sealed, with margins\. Leave it out"):
        Regression(around=(0.1, 0.9), **declared)  # type: ignore[arg-type]
