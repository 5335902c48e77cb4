"""Explanations, against Shapley values that are computed from every set of features."""

import time
from collections.abc import Callable
from itertools import combinations
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlops_ray.registry.explanation import ASKED_ROWS, Explanation, Inputs, explain
from mlops_ray.tasks.binary import BINARY

NUMBERS, CATEGORIES = 4, 2
FEATURES = NUMBERS + CATEGORIES


def some_rows(rows: int, seed: int) -> Inputs:
    random = np.random.default_rng(seed)
    numbers = random.normal(size=(rows, NUMBERS)).astype(np.float32)
    numbers[random.random(numbers.shape) < 0.1] = np.nan
    return Inputs(numbers, random.choice(np.array(["a", "b", ""], object), (rows, CATEGORIES)))


def additive(numbers: NDArray[np.float32], categories: NDArray[np.object_]) -> NDArray[np.float64]:
    filled = np.nan_to_num(numbers.astype(np.float64), nan=0.3)
    return filled @ np.array([1.0, -2.0, 0.5, 0.0]) + (categories == "a") @ np.array([3.0, 0.0])


def crossed(numbers: NDArray[np.float32], categories: NDArray[np.object_]) -> NDArray[np.float64]:
    """A small tree, with a product and a rule of three features."""
    filled = np.nan_to_num(numbers.astype(np.float64), nan=0.3)
    rule = (filled[:, 0] > 0) & (filled[:, 1] > 0) & (categories[:, 0] == "a")
    return np.where(rule, 2.0, filled[:, 2] * filled[:, 0])


def both(numbers: NDArray[np.float32], categories: NDArray[np.object_]) -> NDArray[np.float64]:
    return np.stack([additive(numbers, categories), crossed(numbers, categories)], axis=1)


def exact(ask: Callable[..., NDArray[np.float64]], row: Inputs, background: Inputs) -> NDArray[np.float64]:
    """Shapley's formula, by all sets of features."""

    def worth(chosen: frozenset[int]) -> float:
        numbers, categories = background.numbers.copy(), background.categories.copy()
        for feature in chosen:
            if feature < NUMBERS:
                numbers[:, feature] = row.numbers[0, feature]
            else:
                categories[:, feature - NUMBERS] = row.categories[0, feature - NUMBERS]
        return float(ask(numbers, categories).mean())

    values = np.zeros(FEATURES)
    for feature in range(FEATURES):
        others = [other for other in range(FEATURES) if other != feature]
        for size in range(FEATURES):
            weight = factorial(size) * factorial(FEATURES - size - 1) / factorial(FEATURES)
            for chosen in map(frozenset, combinations(others, size)):
                values[feature] += weight * (worth(chosen | {feature}) - worth(chosen))
    return values


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 12))
def test_what_adds_up_is_explained_without_error(seed: int, rows: int) -> None:
    row, background = some_rows(1, seed), some_rows(rows, seed + 1)
    found = explain(additive, row, background, seed)
    np.testing.assert_allclose(found.contributions, exact(additive, row, background), atol=1e-9)
    assert found.errors.max() < 1e-9


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 40))
def test_contributions_and_base_make_the_answer(seed: int, rows: int) -> None:
    row, background = some_rows(1, seed), some_rows(rows, seed + 1)
    found = explain(both, row, background, seed)
    np.testing.assert_allclose(found.base + found.contributions.sum(axis=0), both(row.numbers, row.categories)[0])
    np.testing.assert_allclose(found.base, both(background.numbers, background.categories).mean(axis=0))


def test_the_stated_error_is_the_distance_from_the_exact_values() -> None:
    """The standard error is a standard deviation: over many rows the distances, in errors, have a mean square of 1."""
    background, distances, errors = some_rows(32, 1), [], []
    for seed in range(200):
        row = some_rows(1, seed + 100)
        found = explain(crossed, row, background, seed)
        distances.append(found.contributions - exact(crossed, row, background))
        errors.append(found.errors)
    ratio = np.mean(np.square(distances)) / np.mean(np.square(errors))
    assert 0.8 < ratio < 1.25  # antithetic pairs counted as if they were independent would give about half of 1


def of_probabilities(seed: int, deviation: float) -> tuple[Explanation, NDArray[np.float64]]:
    """A logistic regression whose scores have this deviation, explained by its float32 probabilities, and exactly."""
    random = np.random.default_rng(seed)
    weights, rows = random.normal(size=20), random.normal(size=(31, 20)).astype(np.float32)
    weights *= deviation / np.std(rows @ weights)

    def ask(numbers: NDArray[np.float32], _: NDArray[np.object_]) -> NDArray[np.float64]:
        return BINARY.additive((1 / (1 + np.exp(-(numbers @ weights)))).astype(np.float32), np.empty(0))

    row, background = (Inputs(some, np.empty((len(some), 0), object)) for some in (rows[:1], rows[1:]))
    found = explain(ask, row, background, doubt=BINARY.additive_error)
    return found, weights * (rows[0] - rows[1:].mean(axis=0))


@pytest.mark.parametrize("deviation", [1.0, 3.0, 5.0, 8.0, 11.0])
def test_the_stated_error_holds_what_float32_leaves_of_probabilities_near_0_and_1(deviation: float) -> None:
    for seed in range(30):
        found, exact_values = of_probabilities(seed, deviation)
        assert (np.abs(found.contributions - exact_values) <= found.errors).all(), (seed, deviation)
        if deviation == 1.0:  # and is next to nothing where float32 leaves enough
            assert found.errors.max() < 1e-4


def test_a_feature_that_the_model_does_not_use_contributes_nothing() -> None:
    found = explain(crossed, some_rows(1, 3), some_rows(20, 4))
    assert not found.contributions[[3, 5]].any()


def test_the_same_question_gets_the_same_explanation() -> None:
    one, two = (explain(crossed, some_rows(1, 3), some_rows(20, 4), seed=7) for _ in range(2))
    assert np.array_equal(one.contributions, two.contributions)


def test_a_background_in_pieces_explains_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = explain(both, some_rows(1, 3), some_rows(20, 4))
    monkeypatch.setattr("mlops_ray.registry.explanation._CELLS", 2 * FEATURES * FEATURES * 3)
    assert np.array_equal(whole.contributions, explain(both, some_rows(1, 3), some_rows(20, 4)).contributions)


def test_what_is_the_same_in_both_is_not_asked() -> None:
    row = some_rows(1, 3)
    numbers, categories = np.repeat(row.numbers, 20, axis=0), np.repeat(row.categories, 20, axis=0)
    numbers[:, :2], asked = some_rows(20, 4).numbers[:, :2], []

    def counted(*some: NDArray) -> NDArray[np.float64]:
        asked.append(len(some[0]))
        return crossed(*some)

    found = explain(counted, row, Inputs(numbers, categories))
    assert sum(asked) <= 1 + 20 + 2 * 2 * 20 * 2  # itself, the background, and two features both ways in two rounds
    assert not found.contributions[2:].any()
    np.testing.assert_allclose(
        found.contributions, exact(crossed, row, Inputs(numbers, categories)), atol=4 * found.errors.max() + 1e-9
    )


def test_a_row_like_all_others_has_no_reasons() -> None:
    row = some_rows(1, 3)
    usual = Inputs(np.repeat(row.numbers, 5, axis=0), np.repeat(row.categories, 5, axis=0))

    def never_nothing(*some: NDArray) -> NDArray[np.float64]:
        assert len(some[0])
        return both(*some)

    assert not explain(never_nothing, row, usual).contributions.any()


def test_one_feature_takes_all() -> None:
    row, background = (
        Inputs(np.array(n, np.float32), np.empty((len(n), 0), object)) for n in ([[2.0]], [[0.0], [1.0]])
    )
    found = explain(lambda numbers, _: numbers[:, 0].astype(np.float64) ** 2, row, background)
    assert found.contributions.tolist() == [3.5]
    assert found.base == 0.5


def test_one_round_tells_no_error_and_is_refused() -> None:
    with pytest.raises(ValueError, match="rounds is 1"):
        explain(additive, some_rows(1, 3), some_rows(2, 4), rounds=1)


def test_an_explanation_ends_in_time_and_asks_about_few_rows_at_once() -> None:
    row, background, asked = some_rows(1, 3), some_rows(400, 4), []

    def slow(*some: NDArray) -> NDArray[np.float64]:
        asked.append(len(some[0]))
        time.sleep(0.1)
        return crossed(*some)

    whole = explain(crossed, row, background, ends_at=time.monotonic() + 600)
    assert np.array_equal(whole.contributions, explain(crossed, row, background).contributions)
    with pytest.raises(TimeoutError):
        explain(slow, row, background, ends_at=time.monotonic() + 0.25)
    assert max(asked) <= ASKED_ROWS
    assert len(asked) <= 3
